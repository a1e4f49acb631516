"""Chunks in time order, manifests, files of ranks."""

import json

import numpy as np
import pytest

from tests.trace.formats.samples import COUNTS, EXPERTS, LAYERS, cases, npz, put
from tests.trace.toys import same, toy_meta, toy_trace
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import Trace
from ultraep_sim.trace.convert import as_trace, judge_and_repair
from ultraep_sim.trace.diagnose import diagnose
from ultraep_sim.trace.formats import WRITABLE, ReadOptions, get_format, join, open_dump


def chunk(micro_batches, layers=range(LAYERS)):
    keys = [(m, layer) for m in micro_batches for layer in layers]
    return npz(
        metadata=json.dumps({"format": "ultra_ep_trace_v1", "num_experts": EXPERTS, "top_k": 2}),
        layers=[layer for _, layer in keys],
        microbatches=[m for m, _ in keys],
        pre_logical_loads=np.stack([COUNTS[m % 3, layer] for m, layer in keys]),
    )


def test_chunks_come_in_time_order_whatever_their_names(tmp_path):
    (tmp_path / "a.npz").write_bytes(chunk([4, 5]))
    (tmp_path / "b.npz").write_bytes(chunk([0, 1]))
    (tmp_path / "c.npz").write_bytes(chunk([2, 3]))
    keys = [record[:3] for record in open_dump(tmp_path).records()]
    assert keys == [(0, m, layer) for m in range(6) for layer in range(LAYERS)]


def test_a_pipeline_may_cut_a_micro_batch_in_two_chunks(tmp_path):
    (tmp_path / "a.npz").write_bytes(chunk([0, 1], [0]))
    (tmp_path / "b.npz").write_bytes(chunk([0, 1], [1]))
    with pytest.raises(TraceError, match="does not fit"):
        open_dump(tmp_path)
    dump = open_dump(tmp_path, ReadOptions(layers=LAYERS))
    assert dump.meta.num_layers == LAYERS
    keys = [record[:3] for record in dump.records()]
    assert keys == [(0, m, layer) for m in range(2) for layer in range(LAYERS)]


def test_chunks_without_steps_follow_in_natural_order(tmp_path):
    for at in (10, 9, 1):
        counts = np.full((1, LAYERS, EXPERTS), at)
        (tmp_path / f"part-{at}.npz").write_bytes(npz(tokens_per_expert=counts))
    records = list(open_dump(tmp_path).records())
    assert [record.step for record in records] == [0, 0, 1, 1, 2, 2]
    assert [record.loads[0, 0] for record in records[::2]] == [1, 9, 10]


def test_a_manifest_says_what_must_be_there(tmp_path):
    for at in range(3):
        (tmp_path / f"{at}.npz").write_bytes(chunk([2 * at, 2 * at + 1]))
    (tmp_path / "left-over.npz").write_bytes(b"not part of it")
    chunks = [{"file": f"{at}.npz", "records": 4} for at in range(3)]
    (tmp_path / "manifest.json").write_text(json.dumps({"chunks": chunks}))
    assert diagnose(open_dump(tmp_path)) == []
    (tmp_path / "1.npz").unlink()
    found = diagnose(open_dump(tmp_path))
    assert [f.name for f in found] == ["missing-chunks"]
    assert "1 files that are not there" in found[0].seen
    (tmp_path / "1.npz").write_bytes(chunk([2]))
    found = diagnose(open_dump(tmp_path))
    assert [f.name for f in found] == ["missing-chunks"]
    assert "tells of 12 records, there are 10" in found[0].seen


@pytest.mark.parametrize("name", ["../x.npz", "/etc/passwd", "", ".", "a/b.npz", 3])
def test_a_manifest_names_files_of_its_own_folder_only(name, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"chunks": [name]}))
    with pytest.raises(TraceError, match="names no file of its own folder"):
        open_dump(tmp_path)


def test_ranks_become_source_rows_in_order(tmp_path):
    case = cases()["mcore"]  # its first file is rank 1
    dump = open_dump(put(case, tmp_path))
    assert dump.meta.notes["ranks"] == [0, 1]
    first = next(dump.records())
    assert np.array_equal(first.loads, case.counts[0, 0])


def test_a_rank_that_lacks_a_record_is_told_of(tmp_path):
    case = cases()["megatron"]
    path = put(case, tmp_path)
    name = path / "router_trace_rank1.jsonl"
    kept = name.read_bytes().splitlines(keepends=True)[:-LAYERS]
    name.write_bytes(b"".join(kept))
    found = diagnose(open_dump(path, ReadOptions(top_k=2)))
    assert [f.name for f in found] == ["missing-rank-rows"]
    assert f"{LAYERS} rows" in found[0].seen


def test_own_traces_merge_by_rank_and_by_time(tmp_path):
    meta = toy_meta(source_ranks=2)
    one, other = toy_trace(meta, steps=4, seed=1), toy_trace(meta, steps=4, seed=2)
    one.write(tmp_path / "a.parquet")
    other.write(tmp_path / "b.parquet")
    parts = [open_dump(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    wide = as_trace(judge_and_repair(join(parts, ranks=True)))
    assert wide.meta.source_ranks == 4
    for a, b, both in zip(one, other, wide, strict=True):
        assert np.array_equal(both.loads, np.concatenate([a.loads, b.loads]))
    for at, part in enumerate((slice(2, 4), slice(0, 2))):
        one.select(steps=part).write(tmp_path / f"{at}.parquet")
    parts = [open_dump(tmp_path / f"{at}.parquet") for at in range(2)]
    assert same(as_trace(judge_and_repair(join(parts, ranks=False))), one)


@pytest.mark.parametrize("name", WRITABLE)
def test_what_is_written_reads_back(name, tmp_path):
    trace = toy_trace(toy_meta(), steps=4, micro_batches=1)
    out = tmp_path / ("out.npz" if name == "ultraep-npz" else "out.json")
    get_format(name).write(trace, out)
    back = as_trace(judge_and_repair(open_dump(out, ReadOptions(top_k=2))))
    assert same(back, summed(trace))
    if name == "ultraep-npz":
        assert back.meta.model == trace.meta.model
        assert back.meta.synthetic


def test_long_traces_are_written_as_chunks(tmp_path):
    from ultraep_sim.trace.formats import ultraep_npz

    trace = toy_trace(toy_meta(), steps=5, micro_batches=2)
    written = ultraep_npz.write(trace, tmp_path / "chunks", chunk_records=7)
    assert [path.name for path in written] == [
        "chunk-00000.npz",
        "chunk-00001.npz",
        "chunk-00002.npz",
        "manifest.json",
    ]
    assert same(as_trace(judge_and_repair(open_dump(tmp_path / "chunks"))), summed(trace))


def summed(trace):
    return trace.with_sources(1) if isinstance(trace, Trace) else trace
