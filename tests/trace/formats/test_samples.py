"""Every format: its sample reads as what went into it, whatever the file is called."""

import numpy as np
import pytest

from tests.trace.formats.samples import EXPERTS, LAYERS, STEPS, TOP_K, cases, put
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import load_trace
from ultraep_sim.trace.convert import as_trace, judge_and_repair
from ultraep_sim.trace.formats import FORMATS, ReadOptions, open_dump

CASES = cases()


def cube(dump):
    """Records as [micro-batches, layers, sources, experts]."""
    records = list(dump.records())
    loads = np.stack([record.loads for record in records])
    assert loads.shape[1:] == (dump.meta.source_ranks, dump.meta.num_experts)
    layers = [record.layer for record in records]
    assert layers == list(range(dump.meta.num_layers)) * (len(records) // dump.meta.num_layers)
    return loads.reshape(-1, dump.meta.num_layers, *loads.shape[1:])


@pytest.mark.parametrize("name", CASES)
def test_a_sample_reads_as_its_counts(name, tmp_path):
    case = CASES[name]
    dump = open_dump(put(case, tmp_path / "in"), ReadOptions(**case.options))
    assert dump.meta.format == case.format
    assert dump.meta.num_experts == EXPERTS
    assert dump.meta.top_k == TOP_K
    assert np.array_equal(cube(dump), case.counts)
    assert np.array_equal(cube(dump), case.counts), "a dump can be read twice"


@pytest.mark.parametrize("name", CASES)
def test_a_sample_becomes_a_healthy_trace(name, tmp_path):
    case = CASES[name]
    found = judge_and_repair(open_dump(put(case, tmp_path / "in"), ReadOptions(**case.options)))
    assert found.findings == []
    trace = load_trace(as_trace(found).write(tmp_path / "out.parquet"))
    again = np.stack([record.loads for record in trace])
    assert np.array_equal(again.reshape(case.counts.shape), case.counts)
    assert trace.meta.notes["imported"]["format"] == case.format
    assert not trace.meta.synthetic


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if len(c.files) == 1])
def test_the_name_of_a_file_plays_no_part(name, tmp_path):
    case = CASES[name]
    path = tmp_path / "trace.bin"
    path.write_bytes(next(iter(case.files.values())))
    assert open_dump(path, ReadOptions(**case.options)).meta.format == case.format


def test_every_format_has_a_sample():
    assert {case.format for case in CASES.values()} | {"parquet"} == {f.name for f in FORMATS}


def test_layers_of_a_model_are_numbered_from_its_first_moe_layer(tmp_path):
    dump = open_dump(put(CASES["tensorrt-llm"], tmp_path / "in"))
    assert dump.meta.num_layers == LAYERS
    assert dump.meta.notes["layer_ids"] == [3, 4]
    assert dump.meta.notes["ranks"] == [0, 1]


def test_steps_are_kept_where_the_dump_numbers_them(tmp_path):
    case = CASES["vllm-eplb"]
    records = list(open_dump(put(case, tmp_path / "in"), ReadOptions(**case.options)).records())
    assert sorted({record.step for record in records}) == [0, 10, 20]


def test_a_dump_that_contradicts_the_caller_is_refused(tmp_path):
    path = put(CASES["sglang-json"], tmp_path / "in")
    with pytest.raises(TraceError, match="holds 8 experts, not the 16"):
        open_dump(path, ReadOptions(experts=16))
    path = put(CASES["ultraep"], tmp_path / "other")
    with pytest.raises(TraceError, match="top-2, not top-4"):
        open_dump(path, ReadOptions(top_k=4))


def test_top_k_must_come_from_somewhere(tmp_path):
    found = judge_and_repair(open_dump(put(CASES["sglang-json"], tmp_path / "in")))
    with pytest.raises(TraceError, match=r"does not say top-k.*--top-k or --model"):
        as_trace(found)


def test_physical_counts_without_a_map_are_refused(tmp_path):
    case = CASES["mcore"]
    path = put(case, tmp_path / "in") / "load0.npz"
    with np.load(path) as members:
        kept = {key: members[key] for key in members.files if key != "physical_to_logical_map"}
        placement = members["physical_to_logical_map"]
    np.savez(path, **kept)
    with pytest.raises(TraceError, match=r"10 physical experts of 8 and has no map.*--map"):
        open_dump(path)
    mapped = open_dump(path, ReadOptions(placement=placement))
    assert np.array_equal(cube(mapped)[:, :, 0], case.counts[:, :, 0])


def test_mixed_formats_in_a_folder_are_refused(tmp_path):
    put(CASES["ultraep"], tmp_path)
    put(CASES["vllm-history"], tmp_path)
    with pytest.raises(TraceError, match="another format than the files before it"):
        open_dump(tmp_path)


def test_masked_tokens_are_told_of(tmp_path):
    ids = np.full((4, LAYERS, TOP_K), -1, np.int16)
    ids[:2] = [[[0, 1]] * LAYERS, [[2, 3]] * LAYERS]
    np.save(tmp_path / "a.npy", ids)
    found = judge_and_repair(open_dump(tmp_path / "a.npy", ReadOptions(experts=EXPERTS)))
    assert [(f.name, f.level) for f in found.findings] == [("masked-tokens", "tells")]
    assert found.seen.totals.tolist() == [4] * LAYERS


def test_steps_of_so_many_tokens(tmp_path):
    case = CASES["routed-npy"]
    path = put(case, tmp_path / "in")
    options = ReadOptions(experts=EXPERTS, tokens_per_step=25)
    found = judge_and_repair(open_dump(path, options))
    assert len(found.seen.keys) == 2 * LAYERS
    assert "10 tokens did not fill a step" in found.findings[0].seen
    assert len(list(open_dump(path, ReadOptions(experts=EXPERTS)).records())) == LAYERS
    assert STEPS * 20 == 2 * 25 + 10


def test_a_top_k_of_nothing_is_refused(tmp_path):
    folder = put(CASES["tensorrt-llm"], tmp_path)
    (folder / "meta_info.json").write_text('{"num_experts": 8, "num_experts_per_token": 0}')
    with pytest.raises(TraceError, match="takes no expert"):
        open_dump(folder)
