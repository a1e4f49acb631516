from __future__ import annotations

import json

import numpy as np
import pytest

from tests.trace.formats.samples import cases, put
from tests.trace.toys import same, toy_meta, toy_trace
from ultraep_sim.trace import load_trace, synthesize
from ultraep_sim.trace.formats import vllm_ascend

from .command import assert_one_line_error

CASES = cases()


@pytest.fixture
def stat(tmp_path):
    return put(CASES["sglang-stat"], tmp_path / "stat")


def test_convert_and_info_and_run_of_what_came_out(stat, invoke, tmp_path):
    out = tmp_path / "out.parquet"
    answer = invoke("trace", "convert", stat, out, "--top-k", 2, "--phase", "training")
    assert answer.code == 0
    assert answer.out == ""
    assert "8 experts top-2, 2 MoE layers" in answer.err
    assert load_trace(out).meta.phase == "training"
    info = invoke("trace", "info", out, "--ep", 4)
    assert "Verdict: healthy" in info.out
    assert "recorded: by the expert distribution recorder of SGLang" in info.out


def test_a_model_gives_what_a_dump_lacks(invoke, tmp_path):
    counts = np.zeros((2, 61, 256), np.int64)  # DeepSeek-V3 with its 3 dense layers
    counts[:, 3:, ::32] = 5 + np.arange(8) % 1
    np.savez(tmp_path / "a.npz", logical_count=counts)
    out = tmp_path / "out.parquet"
    answer = invoke("trace", "convert", tmp_path / "a.npz", out, "--model", "deepseek-v3-671b")
    assert answer.code == 0, answer
    meta = load_trace(out).meta
    assert (meta.num_layers, meta.top_k) == (58, 8)
    assert meta.notes["dense_layers_left_out"] == [0, 1, 2]


def test_a_map_file_turns_physical_counts(invoke, tmp_path):
    case = CASES["mcore"]
    folder = put(case, tmp_path / "in")
    for path in folder.iterdir():
        with np.load(path) as members:
            kept = {key: members[key] for key in members.files}
        np.save(tmp_path / "map.npy", kept.pop("physical_to_logical_map"))
        np.savez(path, **kept)
    out = tmp_path / "out.parquet"
    answer = invoke("trace", "convert", folder, out)
    assert_one_line_error(answer, "has no map", "--map")
    assert invoke("trace", "convert", folder, out, "--map", tmp_path / "map.npy").code == 0
    loads = np.stack([record.loads for record in load_trace(out)])
    assert np.array_equal(loads.reshape(case.counts.shape), case.counts)


def sick(tmp_path, invoke):
    """A dump with rows that were never written, counted four times."""
    trace = toy_trace(toy_meta(num_experts=16), steps=12, micro_batches=1)
    counts = np.stack([r.loads.sum(axis=0) for r in trace]).reshape(12, 2, 16) * 4
    counts[-2:] = 0
    path = tmp_path / "sick.npz"
    np.savez(path, tokens_per_expert=counts)
    return path


def test_a_disease_stops_by_name_and_is_repaired_by_name(invoke, tmp_path):
    path, out = sick(tmp_path, invoke), tmp_path / "out.parquet"
    answer = invoke("trace", "convert", path, out, "--top-k", 2)
    assert answer.code == 2
    assert "error: " in answer.err
    assert "zero-rows: 2 of 12 micro-batches hold no token" in answer.err
    assert "--repair drop-zero-rows" in answer.err
    assert not out.exists()
    repairs = ("--repair", "drop-zero-rows", "--repair", "divide-replicas")
    answer = invoke("trace", "convert", path, out, "--top-k", 2, *repairs)
    assert answer.code == 0
    assert "repaired with divide-replicas: replicated-counting" in answer.err
    notes = load_trace(out).meta.notes
    assert [done["repair"] for done in notes["repairs"]] == ["drop-zero-rows", "divide-replicas"]
    assert "found" not in notes


def test_check_names_what_is_wrong_and_fails(invoke, tmp_path):
    path = sick(tmp_path, invoke)
    answer = invoke("trace", "check", path, "--top-k", 2, "--json")
    assert answer.code == 1
    found = json.loads(answer.out)
    assert [f["name"] for f in found["findings"]] == ["zero-rows", "replicated-counting"]
    assert found["healthy"] is False
    text = " ".join(invoke("trace", "check", path, "--top-k", 2).out.split())
    assert "verdict: 2 found: zero-rows, replicated-counting" in text
    healthy = invoke("trace", "check", put(CASES["ultraep"], tmp_path / "good"))
    assert healthy.code == 0
    assert "verdict: healthy" in healthy.out


def test_info_repairs_a_trace_into_another(invoke, tmp_path):
    path, out = tmp_path / "a.parquet", tmp_path / "b.parquet"
    trace = toy_trace(toy_meta(num_experts=16), steps=12)
    from ultraep_sim.trace import Trace

    keys = trace.keys()
    four = np.stack([record.loads for record in trace]) * 4
    meta = trace.meta.replace(tokens_per_rank=24)
    Trace.from_arrays(meta, keys[:, 0], keys[:, 1], keys[:, 2], four).write(path)
    answer = invoke("trace", "info", path, "--json")
    assert [f["name"] for f in json.loads(answer.out)["findings"]] == ["replicated-counting"]
    assert "Verdict: 1 found: replicated-counting" in invoke("trace", "info", path).out
    assert_one_line_error(invoke("trace", "info", path, "--repair", "sort"), "--out")
    answer = invoke("trace", "info", path, "--repair", "divide-replicas", "--out", out)
    assert answer.code == 0
    assert same(load_trace(out), trace)
    assert load_trace(out).meta.notes["repairs"][0]["repair"] == "divide-replicas"


def test_merge_ranks_and_periods(invoke, tmp_path):
    folder = put(CASES["mcore"], tmp_path / "in")
    out = tmp_path / "all.parquet"
    assert invoke("trace", "merge", *sorted(folder.iterdir()), out).code == 0
    assert load_trace(out).meta.source_ranks == 2
    trace = toy_trace(toy_meta(), steps=4)
    for name, part in (("a", slice(2, 4)), ("b", slice(0, 2))):
        trace.select(steps=part).write(tmp_path / f"{name}.parquet")
    parts = (tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert invoke("trace", "merge", *parts, tmp_path / "both.parquet").code == 0
    assert same(load_trace(tmp_path / "both.parquet"), trace)
    assert_one_line_error(invoke("trace", "merge", *parts), "FILES... OUT")
    answer = invoke("trace", "merge", *parts, out, "--by", "size")
    assert_one_line_error(answer, "--by", "ranks or time")


def test_cut_says_what_it_left_out(invoke, tmp_path):
    path, out = tmp_path / "a.parquet", tmp_path / "b.parquet"
    trace = toy_trace(toy_meta(), steps=6)
    trace.write(path)
    answer = invoke(
        "trace", "cut", path, out, "--steps", "0:6:2", "--layers", "1", "--ranks", "1:3"
    )
    assert answer.code == 0, answer
    found = load_trace(out)
    assert found.meta.sampling == {"step_every": 2, "layers": [1], "ranks": [1, 2]}
    assert found.steps.tolist() == [0, 2, 4]
    for record in found:
        whole = next(iter(trace.select(record.step, record.micro_batch, record.layer)))
        assert np.array_equal(record.loads, whole.loads[1:3])
    again = tmp_path / "c.parquet"
    assert invoke("trace", "cut", out, again, "--ranks", "1").code == 0
    assert load_trace(again).meta.sampling["ranks"] == [2]
    assert invoke("trace", "check", out).code == 0
    for option, value in (("--steps", "x"), ("--steps", "1:2:3:4"), ("--ranks", "9:")):
        assert invoke("trace", "cut", path, out, option, value).code == 2
    assert_one_line_error(invoke("trace", "cut", path, path), "would replace what is read")


def test_synth_is_the_library(invoke, tmp_path):
    out = tmp_path / "drawn.parquet"
    answer = invoke(
        *("trace", "synth", out, "--experts", 32, "--top-k", 4, "--layers", 2, "--steps", 3),
        *("--imbalance", 1.5, "--at-ranks", 8, "--tokens", 64, "--sources", 4, "--seed", 5),
    )
    assert answer.code == 0, answer
    assert "SYNTHETIC" in answer.err
    assert same(load_trace(out), synthesize(32, 4, 2, 3, 4, 64, 1.5, 8, seed=5))


@pytest.mark.parametrize("to", ["ultraep-npz", "sglang-json"])
def test_a_trace_goes_out_and_comes_back(to, invoke, tmp_path):
    path, back = tmp_path / "a.parquet", tmp_path / "b.parquet"
    toy_trace(toy_meta(source_ranks=1), steps=4, micro_batches=1).write(path)
    out = tmp_path / ("x.npz" if to == "ultraep-npz" else "x.json")
    assert invoke("trace", "convert", path, out, "--to", to).code == 0
    assert invoke("trace", "convert", out, back, "--top-k", 2).code == 0
    assert same(load_trace(back), load_trace(path))


def test_wrong_options_are_one_line(stat, invoke, tmp_path):
    out = tmp_path / "out.parquet"
    convert = ("trace", "convert", stat, out)
    for words, needles in (
        ((), ("does not say top-k", "--top-k")),
        (("--top-k", 0), ("--top-k", "(got 0)")),
        (("--phase", "decode"), ("--phase", "training or prefill")),
        (("--format", "x"), ("--format", "sglang-stat")),
        (("--format", "megatron"), ("not the format megatron",)),
        (("--to", "x"), ("--to", "ultraep-npz")),
        (("--top-k", 2, "--repair", "x"), ("--repair", "divide-replicas")),
        (("--top-k", 2, "--repair", "sort"), ("nothing here needs this repair",)),
        (("--map", tmp_path / "no.npy"), ("no.npy",)),
    ):
        assert_one_line_error(invoke(*convert, *words), *needles)
    nowhere = tmp_path / "no" / "out.parquet"
    assert_one_line_error(invoke("trace", "convert", stat, nowhere), "there is no folder")
    assert_one_line_error(invoke("trace", "convert", tmp_path / "no", out), "no such file")


def test_plan_writes_a_placement(loads, invoke, tmp_path):
    out = tmp_path / "map.json"
    plan = ("plan", loads, "--ranks", 8, "--slots", 1)
    answer = invoke(*plan, "--placement", out, "--layer", 5, "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["policy"] == "ultraep"
    tables = vllm_ascend.read_placement(out)
    assert list(tables) == [5]
    assert len(tables[5]) == 40
    answer = invoke(*plan, "--placement", out, "--format", "x")
    assert_one_line_error(answer, "--format", "vllm-ascend or tensorrt-llm")
