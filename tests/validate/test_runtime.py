"""GPU measurements beside predictions: laws recovered, held-out rows only, files refused."""

from __future__ import annotations

import json

import pytest

from hw_runtime.bench import schema
from ultraep_sim.calibrate.bench.document import read_document
from ultraep_sim.errors import InputError
from ultraep_sim.validate import runtime

T0, MEMORY, RATE = 12.0, 3.0e6, 7.0e8  # us, bytes/us, FLOPs/us
HIDDEN, FFN = 4096, 1536
EXPERT = 3 * HIDDEN * FFN
CLOCKS = dict.fromkeys(("sm_MHz", "memory_MHz", "sm_max_MHz", "memory_max_MHz"))
MACHINE = {
    "device": "a GPU", "kind": "gpu", "architecture": "sm_90", "count": 1, "sms": 132,
    "memory_bytes": None, "driver": None, "toolkit": None, "torch": "2", "python": "3.11",
    "clocks": CLOCKS,
}  # fmt: skip


def time(us):
    return {"median_us": us, "low_us": us, "high_us": us, "runs": 5, "method": "cuda_events"}


def call_us(pairs):
    """Microseconds of one call: whole tiles, each expert by what binds it."""
    rows = [-(-n // 128) * 128 for n in pairs if n]
    return T0 + sum(max(2 * EXPERT / MEMORY, 2 * n * EXPERT / RATE) for n in rows)


def gemm(pairs, distribution="balanced", slower=1.0):
    return {
        "kind": "gemm", "dtype": "bf16", "experts": len(pairs), "hidden": HIDDEN, "ffn": FFN,
        "tokens_per_expert": sum(pairs) / len(pairs), "distribution": distribution, "TFLOPs": 1.0,
        "expert_pairs": pairs, "time": time(call_us(pairs) * slower),
    }  # fmt: skip


def stream(fan_out):
    size, mib = 36 * 2**20, 2**20
    return {
        "kind": "stream", "path": "hbm", "expert_bytes": size, "fan_out": fan_out,
        "transport": "direct", "stored_bytes": fan_out * size, "loaded_bytes": size, "GBps": 1.0,
        "share_of_ceiling": 0.5, "time": time(8 + (fan_out + 1) * 36 * mib / 2.0e6),
    }  # fmt: skip


def block(**changes):
    pairs = [[900, 100, 0], [4000, 96, 512], [500, 400, 0], [60, 40, 30]]
    us = [call_us(one[:2]) + call_us(one[2:]) for one in pairs]
    return {
        "kind": "block", "balanced": True, "policy": "ultraep", "rank_us": us,
        "instance_pairs": pairs, "ranks": 4, "experts": 8, "slots": 1, "hidden": HIDDEN,
        "ffn": FFN, "tokens": 64, "top_k": 8, "dtype": "bf16", "imbalance": 2.0,
        "time": time(max(us)), **changes,
    }  # fmt: skip


def planner(ranks, experts):
    """A plan that takes its base, so that the fit ends at a bound."""
    return {
        "kind": "planner", "policy": "ultraep", "ranks": ranks, "experts": experts, "slots": 2,
        "imbalance_before": 2.0, "imbalance_after": 1.0, "replicas": 3,
        "time": time(20.0 + ranks * experts * 1e-6),
    }  # fmt: skip


def histogram(tokens, top_k):
    return {
        "kind": "histogram", "experts": 128, "tokens": tokens, "top_k": top_k,
        "time": time(4 + tokens * top_k * 1e-3),
    }  # fmt: skip


def reduction(replicas, sms):
    return {
        "kind": "reduction", "path": "hbm", "gradient_bytes": 2**26, "dtype": "fp32",
        "replicas": replicas, "sms": sms, "moved_bytes": 2**27 * (1 + replicas), "GBps": 1.0,
        "share_of_ceiling": 0.5,
        "time": time(15 + 2**27 * (1 + replicas) / min(2.3e6, 28e3 * sms)),
    }  # fmt: skip


def content(*rows, version=2):
    return {
        "schema": f"hw_runtime.bench/{version}", "date": "2026-01-01T00:00:00+00:00",
        "fabric": "virtual", "seed": 0, "machine": MACHINE, "rows": list(rows),
    }  # fmt: skip


@pytest.fixture
def judged(tmp_path):
    """Write a document as bench does, and judge it."""

    def judge(*rows):
        schema.parse(content(*rows))  # what is tested here is what bench writes
        file = tmp_path / "h100.json"
        file.write_text(json.dumps(content(*rows)))
        return runtime.judge(read_document(file), "h100")

    return judge


TOKENS = (16, 64, 128, 256, 512, 1024, 2048, 4096)
BALANCED = [gemm([t] * n) for n in (2, 4, 8) for t in TOKENS]
SKEWED = [gemm([4 * t, t, t // 2, 0], "skewed") for t in TOKENS]
STREAMS = [stream(n) for n in range(1, 16)]
OTHERS = [
    *(planner(ranks, experts) for ranks in (8, 16, 32, 64) for experts in (128, 256, 512)),
    *(histogram(tokens, k) for tokens in (512, 1024, 2048, 4096, 8192) for k in (2, 8)),
    *(reduction(replicas, sms) for replicas in (1, 4, 6, 15) for sms in (16, 32, 64)),
]


def errors(rows, part):
    return [row["relative_error"] for row in rows if f"/{part}/" in row["case"]]


def test_known_laws_are_recovered(judged):
    rows, gaps = judged(*BALANCED, *SKEWED, *STREAMS)
    assert gaps == []
    assert all(row["role"] == "predicted" for row in rows)
    assert all("a GPU" in row["provenance"] for row in rows)
    assert 4 <= len(errors(rows, "gemm_bf16")) <= 12, "two thirds were fitted to and are not shown"
    assert errors(rows, "gemm_bf16") == pytest.approx(
        [0] * len(errors(rows, "gemm_bf16")), abs=0.01
    )
    assert errors(rows, "gemm_bf16, skewed") == pytest.approx([0] * 8, abs=0.01)
    assert errors(rows, "stream_hbm") == pytest.approx(
        [0] * len(errors(rows, "stream_hbm")), abs=1e-3
    )
    assert errors(rows, "stream_hbm")


def test_a_law_that_fails_under_skew_shows(judged):
    slower = [gemm(row["expert_pairs"], "skewed", 1.25) for row in SKEWED]
    rows, _ = judged(*BALANCED, *slower)
    assert errors(rows, "gemm_bf16, skewed") == pytest.approx([-0.2] * 8, abs=0.01)


def test_a_held_out_time_has_no_part_in_its_prediction(judged, tmp_path):
    every = [*BALANCED, *SKEWED, *STREAMS, *OTHERS]
    rows, gaps = judged(*every)
    assert gaps == []
    assert {row["case"].split("/")[1] for row in rows} == {
        "gemm_bf16", "gemm_bf16, skewed", "stream_hbm", "planner_ultraep", "histogram",
        "reduction_hbm",
    }  # fmt: skip
    document = read_document(tmp_path / "h100.json")
    shown = {row["case"].split("/", 2)[2] for row in rows}
    held = [document.timed([row]).keys[0] in shown for row in document.rows]
    assert sum(held) == len(rows)
    tainted = [
        {**row, "time": time(10 * row["time"]["median_us"])} if out else row
        for row, out in zip(every, held, strict=True)
    ]
    again, _ = judged(*tainted)
    assert [row["simulated"] for row in again] == [row["simulated"] for row in rows]
    for new, old in zip(again, rows, strict=True):
        assert new["published"] == pytest.approx(10 * old["published"])


def test_a_block_is_predicted_from_the_products(judged):
    rows, gaps = judged(*BALANCED, block())
    assert gaps == []
    (error,) = errors(rows, "block")
    assert error == pytest.approx(0, abs=0.01)
    _, gaps = judged(*BALANCED, block(dtype="fp16"))
    assert gaps == ["h100: block, ultraep: no products of its format are fitted"]


def test_a_measurement_of_the_host_is_read(tmp_path):
    """The real command, the real file: too few rows for a law, and that is said."""
    pytest.importorskip("torch")
    from hw_runtime.__main__ import main

    out = tmp_path / "host.json"
    arguments = ["bench", "--fabric", "host", "--tiny", "--only", "gemm", "--runs", "1"]
    assert main([*arguments, "--out", str(out)]) == 0
    rows, gaps = runtime.run(tmp_path)
    assert rows == []
    assert len(gaps) == 1
    assert "need more rows" in gaps[0]


def test_files_that_are_none(tmp_path):
    (tmp_path / "checks.json").write_text('{"passed": 7}')
    assert runtime.run(tmp_path) == ([], [runtime.NONE_YET])
    (tmp_path / "old.json").write_text(json.dumps(content(*BALANCED, version=1)))
    with pytest.raises(InputError, match=r"old\.json: schema: expected schema hw_runtime.bench/2"):
        runtime.run(tmp_path)
    (tmp_path / "old.json").write_text("{")
    with pytest.raises(InputError, match=r"old\.json: no JSON document"):
        runtime.run(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        runtime.run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**BALANCED[0], "expert_pairs": [1, "2"]}, r"rows\[0\].expert_pairs: not the pairs"),
        ({**BALANCED[0], "expert_pairs": [16]}, r"rows\[0\].expert_pairs: not the pairs of every"),
        ({**BALANCED[0], "expert_pairs": [0, 0]}, r"rows\[0\].expert_pairs: not the pairs"),
        ({**BALANCED[0], "hidden": 0}, r"rows\[0\].hidden: not a positive number"),
        ({**BALANCED[0], "hidden": "abc"}, r"rows\[0\].hidden: not a positive number"),
        ({k: v for k, v in BALANCED[0].items() if k != "ffn"}, r"rows\[0\].ffn: not a positive"),
        (block(instance_pairs=[[1, -2]] * 4), r"rows\[0\].instance_pairs: not the pairs"),
        (block(instance_pairs=[[1, 2, 3]]), r"rows\[0\].instance_pairs: not the pairs"),
        (block(instance_pairs=[1, 2, 3, 4]), r"rows\[0\].instance_pairs: not the pairs"),
        (block(slots=3), r"rows\[0\].instance_pairs: not the pairs"),
        (block(slots="x"), r"rows\[0\].slots: not a number of slots"),
        (block(slots=-1), r"rows\[0\].slots: not a number of slots"),
        (block(rank_us=None), r"rows\[0\].rank_us: not a time of every rank"),
        (block(rank_us=["a"] * 4), r"rows\[0\].rank_us: not a time of every rank"),
    ],
)
def test_a_row_that_is_wrong_is_named(tmp_path, row, words):
    (tmp_path / "mine.json").write_text(json.dumps(content(row, *BALANCED)))
    with pytest.raises(InputError, match=rf"mine\.json: {words}"):
        runtime.run(tmp_path)
