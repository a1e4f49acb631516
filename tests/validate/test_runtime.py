"""GPU measurements beside predictions: laws recovered, held-out rows only, files refused."""

from __future__ import annotations

import json

import pytest

from hw_runtime.bench import schema
from ultraep_sim.errors import InputError
from ultraep_sim.validate import runtime

T0, MEMORY, RATE = 12.0, 3.0e6, 7.0e8  # us, bytes/us, FLOPs/us
CLOCKS = dict.fromkeys(("sm_MHz", "memory_MHz", "sm_max_MHz", "memory_max_MHz"))
MACHINE = {
    "device": "a GPU", "kind": "gpu", "architecture": "sm_90", "count": 1, "sms": 132,
    "memory_bytes": None, "driver": None, "toolkit": None, "torch": "2", "python": "3.11",
    "clocks": CLOCKS,
}  # fmt: skip


def time(us):
    return {"median_us": us, "low_us": us, "high_us": us, "runs": 5, "method": "cuda_events"}


def gemm_us(experts, tokens, hidden=4096, ffn=1536):
    weights = 3 * hidden * ffn
    return T0 + max(experts * weights * 2 / MEMORY, 2 * experts * tokens * weights / RATE)


def gemm(experts, tokens, distribution, slower=1.0):
    return {
        "kind": "gemm", "dtype": "bf16", "experts": experts, "hidden": 4096, "ffn": 1536,
        "tokens_per_expert": float(tokens), "distribution": distribution, "TFLOPs": 1.0,
        "time": time(gemm_us(experts, tokens) * slower),
    }  # fmt: skip


def stream(fan_out):
    size, mib = 36 * 2**20, 2**20
    return {
        "kind": "stream", "path": "hbm", "expert_bytes": size, "fan_out": fan_out,
        "transport": "direct", "stored_bytes": fan_out * size, "loaded_bytes": size, "GBps": 1.0,
        "share_of_ceiling": 0.5, "time": time(8 + (fan_out + 1) * 36 * mib / 2.0e6),
    }  # fmt: skip


def document(*rows):
    found = {
        "schema": "hw_runtime.bench/1", "date": "2026-01-01T00:00:00+00:00", "fabric": "virtual",
        "seed": 0, "machine": MACHINE, "rows": list(rows),
    }  # fmt: skip
    schema.parse(found)  # what is tested here is what bench writes
    return found


TOKENS = (16, 64, 128, 256, 512, 1024, 2048, 4096)
GEMMS = [gemm(n, t, d, 1.0 if d == "balanced" else 1.25)
         for n in (2, 8) for t in TOKENS for d in ("balanced", "skewed")]  # fmt: skip


def test_a_known_law_is_recovered_and_skew_shows():
    rows, gaps = runtime.judge(document(*GEMMS, *map(stream, (1, 2, 4, 7, 15, 31))), "h100")
    assert gaps == []
    by_kind = {}
    for row in rows:
        kind = "stream" if "/stream/" in row["case"] else row["case"].rsplit("/", 1)[1]
        by_kind.setdefault(kind, []).append(row["relative_error"])
        assert row["role"] == "predicted"
        assert "a GPU" in row["provenance"]
    assert len(by_kind["balanced"]) == 8, "half of them were fitted to and are not shown"
    assert by_kind["balanced"] == pytest.approx([0] * 8, abs=1e-3)
    assert by_kind["skewed"] == pytest.approx([-0.2] * 16, abs=1e-3)
    assert by_kind["stream"] == pytest.approx([0] * 3, abs=1e-3)


def test_a_held_out_time_has_no_part_in_its_prediction():
    rows, _ = runtime.judge(document(*GEMMS), "h100")
    held = {row["case"].split("/")[4] for row in rows if row["case"].endswith("balanced")}
    changed = json.loads(json.dumps(GEMMS))
    for row in changed:
        if row["distribution"] == "skewed":
            row["time"] = time(1e6)
    again, _ = runtime.judge(document(*changed), "h100")
    assert held
    assert [row["simulated"] for row in again] == [row["simulated"] for row in rows]


def test_a_block_is_predicted_from_the_products():
    block = {
        "kind": "block", "balanced": True, "policy": "ultraep", "rank_us": [1.0] * 4,
        "rank_pairs": [1000, 4096, 900, 100], "ranks": 4, "experts": 8, "slots": 2,
        "hidden": 4096, "ffn": 1536, "tokens": 64, "top_k": 8, "dtype": "bf16",
        "imbalance": 2.0, "time": time(gemm_us(4, 1024)),
    }  # fmt: skip
    rows, gaps = runtime.judge(document(*GEMMS, block), "h100")
    assert gaps == []
    (row,) = [row for row in rows if "/block/" in row["case"]]
    assert row["relative_error"] == pytest.approx(0, abs=1e-3)
    _, gaps = runtime.judge(document(*GEMMS, block | {"dtype": "fp16"}), "h100")
    assert gaps == ["h100: block ultraep: no gemm law for its shape and dtype"]


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
    assert "rows to fit on" in gaps[0]


def test_files_that_are_none(tmp_path):
    (tmp_path / "checks.json").write_text('{"passed": 7}')
    assert runtime.run(tmp_path) == ([], [runtime.NONE_YET])
    (tmp_path / "old.json").write_text('{"schema": "hw_runtime.bench/0", "rows": []}')
    with pytest.raises(InputError, match=r"old\.json: schema: another schema"):
        runtime.run(tmp_path)
    (tmp_path / "old.json").write_text("{")
    with pytest.raises(InputError, match=r"old\.json: cannot be read"):
        runtime.run(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        runtime.run(tmp_path / "nowhere")
    broken = {"schema": "hw_runtime.bench/1", "rows": [{"kind": "gemm"}], "machine": {"device": ""},
              "fabric": "virtual", "date": ""}  # fmt: skip
    (tmp_path / "old.json").write_text(json.dumps(broken))
    with pytest.raises(InputError, match="a row is not as the schema says"):
        runtime.run(tmp_path)
