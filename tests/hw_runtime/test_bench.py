"""The bench command measures on the host what it can, and its document is checked when read."""

import copy
import json
import math
from contextlib import contextmanager

import pytest
import torch

from hw_runtime.__main__ import main
from hw_runtime.bench import schema
from hw_runtime.bench.command import require
from hw_runtime.bench.rows import CopyRow, Machine, Measurements, ReductionRow, StreamRow, Timing
from hw_runtime.bench.setting import GPU
from hw_runtime.bench.timing import L2_BYTES, Clock, rotation
from hw_runtime.bench.transfers import traffic
from hw_runtime.check.cases import fanout_plan
from ultraep_sim.errors import InputError
from ultraep_sim.fabric.tiles import plan_tiles
from ultraep_sim.planning import EPLayout

HOST = ["bench", "--fabric", "host", "--tiny", "--runs", "2"]
TIME = Timing(10.0, 9.0, 12.0, 30, "cuda_graph")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny products on a busy machine: threads that wait for each other take all the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "host.json"
    assert main([*HOST, "--out", str(path)]) == 0
    return json.loads(path.read_text())


def gpu_document():
    """What a GPU would write, with transfers: made up, to test the reader."""
    rows = [
        CopyRow(TIME, "hbm", 2**28, 1500.0),
        StreamRow(TIME, "hbm", 2**20, 3, "relay", 3 * 2**20, 2**21, 300.0, 0.9),
        ReductionRow(TIME, "hbm", 2**20, "fp32", 4, None, 10 * 2**20, 800.0, 0.8),
    ]
    machine = Machine("a GPU", "gpu", "sm_90", 1, 132, 2**36, "580.1", "13.0", "2.13", "3.12")
    return Measurements("2026-01-01T00:00:00+00:00", "virtual", 0, machine, rows).to_json()


def test_every_host_row_is_there(document):
    found = schema.parse(document)
    assert found.fabric == "host"
    assert found.machine.kind == "cpu"
    assert {row["kind"] for row in document["rows"]} == {
        "planner", "histogram", "reroute", "gemm", "block",
    }  # fmt: skip
    assert all(row.time.method == "host_clock" for row in found.rows)
    assert all(row.time.median_us > 0 for row in found.rows)


def test_a_document_survives_writing_and_reading(tmp_path, document):
    for number, one in enumerate((document, gpu_document())):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(one))
        assert schema.load(path).to_json() == one


def test_balancing_evens_out_the_ranks_of_the_block(document):
    rows = schema.parse(document).of("block")
    assert [(row.policy, row.balanced) for row in rows] == [
        ("none", False), ("ultraep", True), ("mosaic", True),
    ]  # fmt: skip
    for row in rows:
        assert sum(row.rank_pairs) == row.ranks * row.tokens * row.top_k
        assert row.imbalance == max(row.rank_pairs) * row.ranks / sum(row.rank_pairs)
        assert row.time.median_us == max(row.rank_us)
    assert rows[1].imbalance < rows[0].imbalance
    assert rows[2].imbalance < rows[0].imbalance


def test_planner_rows_say_what_the_plan_was_worth(document):
    for row in schema.parse(document).of("planner"):
        assert row.imbalance_after < row.imbalance_before


def test_only_asked_for_rows_are_measured(capsys):
    assert main([*HOST, "--only", "histogram", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in printed["rows"]} == {"histogram"}
    assert main([*HOST, "--only", "histogram"]) == 0
    assert capsys.readouterr().out.startswith("histogram ")


def change(document, place, value):
    out = copy.deepcopy(document)
    at = out
    for key in place[:-1]:
        at = at[key]
    if value is KeyError:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return out


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (["schema"], "hw_runtime.bench/1", "schema: another schema .*bench/1.*this version reads"),
        (["rows"], [], r"rows: no rows \(got \[\]\)"),
        (["rows"], KeyError, "rows: missing"),
        (["date"], 5, r"date: not text \(got 5\)"),
        (["fabric"], "host", r"rows\[0\].path: the host fabric cannot measure this path"),
        (["fabric"], "symm", r"rows\[0\].path: the symm fabric cannot measure .*\(got 'hbm'\)"),
        (["rows", 1, "path"], "nvlink", r"rows\[1\].path: the virtual fabric cannot .*'nvlink'"),
        (["rows", 1, "path"], "pcie", r"rows\[1\].path: unknown value .*give one of hbm, nvlink"),
        (["rows", 1, "path"], KeyError, r"rows\[1\].path: missing"),
        (["rows", 1, "speed"], 1, r"rows\[1\].speed: unknown key \(got 1\); known are"),
        (["rows", 1, "kind"], "tile", r"rows\[1\].kind: no such kind of row \(got 'tile'\)"),
        (["rows", 1], 3, r"rows\[1\].kind: no such kind"),
        (["rows", 1, "fan_out"], 0, r"rows\[1\].fan_out: out of range \(got 0\); give 1 or more"),
        (["rows", 1, "fan_out"], 1.5, r"rows\[1\].fan_out: not a whole number \(got 1.5\)"),
        (["rows", 1, "fan_out"], True, r"rows\[1\].fan_out: not a whole number \(got True\)"),
        (["rows", 1, "GBps"], "fast", r"rows\[1\].GBps: not a finite number"),
        (["rows", 1, "time"], 7.0, r"rows\[1\].time: not an object"),
        (["rows", 1, "time", "median_us"], 13.0, r"rows\[1\].time: percentiles out of order"),
        (["rows", 1, "time", "method"], "watch", r"time.method: unknown value"),
        (["rows", 2, "sms"], 0, r"rows\[2\].sms: out of range"),
        (["machine", "driver"], 580, r"machine.driver: not text"),
        (["machine", "clocks", "sm_MHz"], -1, r"machine.clocks.sm_MHz: out of range"),
        (["seed"], -1, "seed: out of range"),
    ],
)
def test_what_is_wrong_is_named_with_file_place_value_and_remedy(tmp_path, place, value, words):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(change(gpu_document(), place, value)))
    with pytest.raises(InputError, match=f"bad.json: .*{words}"):
        schema.load(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "not a measurement document"),
        ('{"schema": NaN}', "NaN is no JSON number"),
        (b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path, text, words):
    path = tmp_path / "bad.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=words):
        schema.load(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        schema.load(tmp_path / "none.json")


def test_a_number_beyond_json_is_refused():
    bad = change(gpu_document(), ["rows", 0, "GBps"], math.inf)
    with pytest.raises(InputError, match="not a finite number"):
        schema.parse(bad)


def test_without_a_gpu_one_sentence_and_a_failure(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: bench needs a CUDA GPU and this machine has none")
    assert shown.err.count("\n") == 1


def test_ranks_that_share_a_gpu_are_not_timed(capsys):
    assert main(["bench", "--fabric", "ipc"]) == 2
    assert "time-sliced" in capsys.readouterr().err
    with pytest.raises(InputError, match="no plain-copy ceiling over a link yet"):
        require("symm")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--runs", "0"], "--runs: nothing to time"),
        (["--seed", "-1"], "--seed: negative"),
        (["--out", "/nowhere/at/all.json"], "--out: no such folder"),
    ],
)
def test_bad_options_are_named(options, words, capsys):
    assert main([*HOST, *options]) == 2
    assert words in capsys.readouterr().err


def test_nothing_is_left_behind_when_writing_fails(tmp_path):
    target = tmp_path / "folder.json"
    target.mkdir()
    with pytest.raises(OSError, match=r"folder\.json"):
        main([*HOST, "--only", "histogram", "--out", str(target)])
    assert list(tmp_path.iterdir()) == [target]


def test_medians_are_of_the_calls_that_were_timed():
    seen = []
    time = Clock(torch.device("cpu"), runs=7, warmup=2).call(seen.append)
    assert seen == list(range(9))
    assert time.runs == 7
    assert 0 <= time.low_us <= time.median_us <= time.high_us


def test_buffers_rotate_over_more_than_the_cache():
    device = torch.device("cuda")  # only its type is looked at
    for size in GPU.expert_bytes:
        assert rotation(size, device) * size > L2_BYTES


def test_nothing_is_called_first_inside_a_graph(monkeypatch):
    """A first call uploads structs, and a copy from the host cannot be captured."""
    calls, captured = [], []

    @contextmanager
    def graph(_):
        before = set(calls)
        calls.clear()
        yield
        captured.extend((i, i in before) for i in calls)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(Clock, "call", lambda self, work: TIME)
    Clock(torch.device("cuda"), warmup=2).replay(calls.append)
    assert len(captured) == 20
    assert all(seen for _, seen in captured)


@pytest.mark.parametrize(("relay", "loads"), [(False, 1), (True, 5)])
def test_traffic_counts_every_load_and_store(relay, loads):
    tiles = plan_tiles(fanout_plan(EPLayout(24, 24, 1), 15), 100_001, relay=relay)
    assert tiles.relayed == relay
    # 15 replicas; a relay tree has four relays, each of which loads the weights again.
    assert traffic(tiles) == (15 * 100_001, loads * 100_001)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_measures_everything(tmp_path):
    path = tmp_path / "gpu.json"
    assert main(["bench", "--tiny", "--runs", "3", "--out", str(path)]) == 0
    found = schema.load(path)
    assert found.machine.driver
    assert {type(row).__name__ for row in found.rows} >= {"CopyRow", "StreamRow", "ReductionRow"}


def test_fp8_rows_are_left_out_with_a_reason(monkeypatch):
    from hw_runtime.bench import fp8

    assert fp8.why_not(torch.device("cpu")) == "fp8 products need a CUDA GPU"
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    assert fp8.why_not(gpu) == "compute capability 8.9 has no grouped fp8 products"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.delattr(torch, "_scaled_grouped_mm", raising=False)
    assert "has no _scaled_grouped_mm" in fp8.why_not(gpu)


def test_fp8_experts_are_near_those_in_fp32(monkeypatch):
    """The shapes, scales and groups of the product, with a plain one in torch's place."""
    from hw_runtime.autograd import silu_mul
    from hw_runtime.bench import fp8

    def multiply(a, b, scale_a, scale_b, *, offs, out_dtype, use_fast_accum):
        assert use_fast_accum
        assert a.dtype == b.dtype == torch.float8_e4m3fn
        assert a.is_contiguous()
        assert b.mT.is_contiguous()  # column-major
        assert scale_a.shape == a.shape[:1]
        assert scale_b.shape == (b.shape[0], b.shape[2])
        out = torch.empty(a.shape[0], b.shape[2])
        begin = 0
        for group, end in enumerate(offs.tolist()):
            wide = b[group].float() * scale_b[group]
            out[begin:end] = (a[begin:end].float() * scale_a[begin:end, None]) @ wide
            begin = end
        assert begin == len(a)
        return out.to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_grouped_mm", multiply, raising=False)
    assert fp8._trial(torch.device("cpu")) is None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 32, generator=generator)
    first = torch.randn(3, 32, 32, generator=generator) / 6
    down = torch.randn(3, 16, 32, generator=generator) / 4
    sizes = torch.tensor([5, 0, 19], dtype=torch.int32)
    got = fp8.experts(fp8.quantize(x), fp8.quantize(first.mT), fp8.quantize(down.mT), sizes).float()
    group = torch.repeat_interleave(torch.arange(3), sizes)
    hidden = silu_mul(torch.einsum("tk,tkn->tn", x, first[group]))
    want = torch.einsum("tk,tkn->tn", hidden, down[group])
    assert float((got - want).norm() / want.norm()) < 0.08

    refuse = torch.nn.Module().forward  # raises NotImplementedError
    monkeypatch.setattr(torch, "_scaled_grouped_mm", refuse, raising=False)
    assert "refuses a small product" in fp8._trial(torch.device("cpu"))
