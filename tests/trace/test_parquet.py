import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ultraep_sim.trace.parquet as module
from tests.trace.toys import rows_of, same, toy_meta, toy_trace, write_raw
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import Trace, TraceWriter, load_trace


@pytest.fixture
def small_groups(monkeypatch):
    """Row groups of 4 toy records and batches of 2: files of many groups stay small."""
    monkeypatch.setattr(module, "_ROW_GROUP_BYTES", 4 * 4 * 4 * 8)
    monkeypatch.setattr(module, "_BATCH_BYTES", 2 * 4 * 4 * 8)


def test_round_trip(tmp_path):
    trace = toy_trace()
    path = trace.write(tmp_path / "t.parquet")
    again = load_trace(path)
    assert again.meta == trace.meta
    assert again.num_records == trace.num_records
    assert same(again, trace)
    assert same(Trace.read(str(path)), trace)
    assert np.array_equal(again.keys(), trace.keys())
    assert all(r.loads.flags.writeable and r.loads.flags.c_contiguous for r in again)
    assert list(tmp_path.iterdir()) == [path]


def test_same_trace_same_bytes(tmp_path):
    one = toy_trace().write(tmp_path / "1.parquet")
    two = toy_trace().write(tmp_path / "2.parquet")
    assert one.read_bytes() == two.read_bytes()
    assert load_trace(one).digest == load_trace(two).digest


def test_stored_as_the_format_says(tmp_path):
    path = toy_trace().write(tmp_path / "t.parquet")
    schema = pq.read_schema(path)
    assert [f.name for f in schema] == ["step", "micro_batch", "layer", "source_rank", "counts"]
    assert schema.field("counts").type == pa.list_(
        pa.field("element", pa.int32(), nullable=False), 8
    )
    stored = json.loads(schema.metadata[b"ultraep_sim.trace"])
    assert stored == {"format_version": 1, **toy_meta().to_dict()}
    assert pq.ParquetFile(path).metadata.row_group(0).column(4).compression == "ZSTD"


@pytest.mark.usefixtures("small_groups")
def test_streams_by_row_group_and_prunes_by_step(tmp_path, monkeypatch):
    trace = toy_trace(steps=6)
    path = trace.write(tmp_path / "t.parquet")
    assert pq.ParquetFile(path).num_row_groups == 6
    assert same(load_trace(path), trace)

    read = []
    plain = module.ParquetSource._batches

    def spy(self, groups, *, counts):
        read.append(list(groups))
        return plain(self, groups, counts=counts)

    monkeypatch.setattr(module.ParquetSource, "_batches", spy)
    view = load_trace(path).select(steps=slice(2, 4))
    assert {r.step for r in view} == {2, 3}
    assert read == [[2, 3]]


@pytest.mark.usefixtures("small_groups")
def test_reading_is_lazy(tmp_path):
    path = toy_trace(steps=6).write(tmp_path / "t.parquet")
    data = bytearray(path.read_bytes())
    last = pq.ParquetFile(path).metadata.row_group(5).column(4)
    data[last.data_page_offset + last.total_compressed_size - 5] ^= 0xFF
    path.write_bytes(data)
    records = iter(load_trace(path))
    # The damage lies in the last row group; all before it are read.
    assert [next(records).step for _ in range(4)] == [0, 0, 0, 0]
    with pytest.raises(TraceError, match="cannot be read"):
        list(records)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_row_groups_of_other_tools_may_cut_records(tmp_path, size):
    meta = toy_meta()
    rows, counts = rows_of(meta)
    path = write_raw(tmp_path / "t.parquet", meta.to_json(), rows, counts, row_group_size=size)
    assert same(load_trace(path), toy_trace(meta))
    assert {r.step for r in load_trace(path).select(steps=1)} == {1}


def test_uint16_and_plain_lists_are_read(tmp_path):
    meta = toy_meta()
    rows, counts = rows_of(meta)
    small = write_raw(tmp_path / "u.parquet", meta.to_json(), rows, counts.astype(np.uint16))
    assert same(load_trace(small), toy_trace(meta))
    lists = pa.array(counts.tolist(), type=pa.list_(pa.int32()))
    plain = write_raw(tmp_path / "l.parquet", meta.to_json(), rows, lists)
    assert same(load_trace(plain), toy_trace(meta))


def test_a_view_is_written_as_it_is_seen(tmp_path):
    view = toy_trace().select(steps=slice(1, 3)).with_sources(2).rescaled(50)
    again = load_trace(view.write(tmp_path / "v.parquet"))
    assert same(again, view)
    assert again.meta == view.meta
    assert again.meta.notes["rescaled_to"] == {"tokens_per_rank": 50, "from": 12}


class _Backwards:
    """A source that breaks the order."""

    def __init__(self, meta, records):
        self.meta, self.kept = meta, records

    def records(self, selection):
        yield from reversed(self.kept)


class _Failing(_Backwards):
    """A source that fails midway."""

    def records(self, selection):
        yield self.kept[0]
        raise KeyError("the recording failed")


def test_writer_refuses_a_broken_record_and_leaves_nothing(tmp_path):
    meta = toy_meta()
    records = list(toy_trace(meta))
    path = tmp_path / "t.parquet"
    with pytest.raises(TraceError, match="out of order"):
        Trace(_Backwards(meta, records), meta).write(path)
    with pytest.raises(TraceError, match="shape"), TraceWriter(path, meta) as writer:
        writer.append(0, 0, 0, np.ones((3, 8), dtype=int))
    with pytest.raises(TraceError, match="at least one record"), TraceWriter(path, meta):
        pass
    with pytest.raises(KeyError):
        Trace(_Failing(meta, records), meta).write(path)
    with pytest.raises(TraceError, match="not open"):
        TraceWriter(path, meta).append(*records[0])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rewrite_keeps_the_old_file(tmp_path):
    path = toy_trace().write(tmp_path / "t.parquet")
    before = path.read_bytes()
    with pytest.raises(TraceError), TraceWriter(path, toy_meta()) as writer:
        writer.append(0, 0, 0, np.full((4, 8), -1))
    assert path.read_bytes() == before


def test_an_unwritable_place_is_one_line(tmp_path):
    with pytest.raises(TraceError, match="cannot be written") as caught:
        toy_trace().write(tmp_path / "no" / "folder" / "t.parquet")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("small_groups")
def test_a_killed_writer_leaves_no_readable_file(tmp_path):
    path = tmp_path / "t.parquet"
    code = f"""
        import sys, time
        import ultraep_sim.trace.parquet as module
        from tests.trace.toys import toy_trace
        from ultraep_sim.trace import TraceWriter
        module._ROW_GROUP_BYTES = 1024
        trace = toy_trace(steps=40)
        with TraceWriter({str(path)!r}, trace.meta) as writer:
            for record in trace:
                writer.append(*record)
            print("written", flush=True)
            time.sleep(60)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline().strip() == "written"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not path.exists()
    (left,) = tmp_path.iterdir()
    assert left.stat().st_size > 1000  # row groups had reached the disk
    with pytest.raises(TraceError, match="truncated"):
        load_trace(left)
