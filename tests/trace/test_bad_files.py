"""Every way a file can be wrong: one line that names file, place, value and remedy."""

import errno
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trace.toys import rows_of, toy_meta, toy_trace, write_raw
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import load_trace


def refused(path, *says, at_load=False):
    """Read all of a file and return the one-line error."""
    with pytest.raises(TraceError) as caught:
        load_trace(path) if at_load else list(load_trace(path))
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    for part in says:
        assert part in text
    return text


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bad.parquet"


def test_no_such_file(path):
    refused(path, "there is no such file", at_load=True)


def test_not_a_regular_file(path):
    os.mkfifo(path)
    refused(path, "is not a regular file", at_load=True)
    refused("/dev/null", "is not a regular file", at_load=True)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EACCES, "cannot be read (Permission denied); check its permissions"),
        (errno.EIO, "cannot be read (Input/output error); check the path and the disk"),
    ],
)
def test_what_the_system_refuses_is_not_called_damaged(path, number, says, monkeypatch):
    toy_trace().write(path)

    def refuse(*_arguments, **_options):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    text = refused(path, says, at_load=True)
    assert "damaged" not in text
    assert "record it again" not in text


def test_a_file_that_went_away_between_opening_and_reading(path):
    toy_trace().write(path)
    trace = load_trace(path)
    path.unlink()
    with pytest.raises(TraceError) as caught:
        list(trace)
    says = "cannot be read (No such file or directory); check the path and the disk"
    assert str(caught.value) == f"{path}: {says}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission(path):
    toy_trace().write(path)
    path.chmod(0)
    refused(path, "cannot be read (Permission denied); check its permissions", at_load=True)


def test_a_folder(tmp_path):
    refused(tmp_path, "is a directory", at_load=True)


@pytest.mark.parametrize("content", [b"", b"PAR", b"step,layer\n1,2\n", b"PK\x03\x04" * 20])
def test_not_a_parquet(path, content):
    path.write_bytes(content)
    refused(path, "not a Parquet file", at_load=True)


@pytest.mark.parametrize("keep", [4, 8, 11, 12, 100, -1, -8, -100])
def test_truncated(path, keep):
    toy_trace().write(path)
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "truncated", at_load=True)


def test_no_metadata_of_ours(path):
    write_raw(path, None, *rows_of(toy_meta()))
    refused(path, "is no trace", "lacks the key 'ultraep_sim.trace'", at_load=True)


def meta_with(**members):
    return json.dumps({**json.loads(toy_meta().to_json()), **members})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (meta_with(format_version=9), "newer than the 1 this release reads (got 9)"),
        ("no json", "metadata is not JSON"),
        (meta_with(phase="lunch"), "phase is not a known phase"),
        (meta_with(num_experts=65536, top_k=2), "a list of 65536"),
        (meta_with(num_experts=10**12), "num_experts must lie in"),
        (meta_with(source_ranks=60_000), "not a multiple of the 60000 source ranks"),
        (meta_with(source_ranks=2), "source ranks must be 0..1"),
        (meta_with(top_k=5), "not a multiple of top_k = 5"),
        (meta_with(num_layers=1), "layers 0..0"),
    ],
)
def test_metadata_that_does_not_fit(path, text, says):
    refused(write_raw(path, text, *rows_of(toy_meta())), says)


def test_a_checksum_guards_the_metadata(path):
    toy_trace().write(path)
    data = path.read_bytes()
    changed = data.replace(b'"seed"', b'"seed"').replace(b'"model":"toy"', b'"model":"joy"')
    assert changed != data
    path.write_bytes(changed)
    refused(path, "does not match its checksum", at_load=True)


@pytest.mark.parametrize("column", ["step", "micro_batch", "layer", "source_rank", "counts"])
def test_a_missing_column(path, column):
    write_raw(path, toy_meta().to_json(), *rows_of(toy_meta()), drop=column)
    refused(path, f"the column {column} is missing", at_load=True)


@pytest.mark.parametrize("kind", [pa.int64(), pa.float32(), pa.string()])
def test_index_columns_of_another_type(path, kind):
    rows, counts = rows_of(toy_meta())
    rows = rows.astype(str) if kind == pa.string() else rows
    write_raw(path, toy_meta().to_json(), rows, counts, index_type=kind)
    refused(path, "column step", "must be int32", str(kind), at_load=True)


def test_counts_of_another_type(path):
    rows, counts = rows_of(toy_meta())
    for wrong in (counts.astype(np.int64), counts.astype(np.float32), counts.astype(np.int8)):
        write_raw(path, toy_meta().to_json(), rows, wrong)
        refused(path, "column counts", "a list of 8 int32 or uint16", at_load=True)
    flat = pa.array(counts.sum(axis=1))
    write_raw(path, toy_meta().to_json(), rows, flat)
    refused(path, "column counts", at_load=True)


def test_lists_of_another_length(path):
    rows, counts = rows_of(toy_meta())
    write_raw(path, toy_meta().to_json(), rows, counts[:, :7])
    refused(path, "a list of 8 (num_experts)", at_load=True)
    lists = counts.tolist()
    lists[9].append(0)
    write_raw(path, toy_meta().to_json(), rows, pa.array(lists, type=pa.list_(pa.int32())))
    refused(path, "source rank 1", "the list of counts is not 8 long (got 9)")
    lists[9][7:] = []
    write_raw(path, toy_meta().to_json(), rows, pa.array(lists, type=pa.list_(pa.int32())))
    refused(path, "(got 7)")


def test_nulls(path):
    rows, counts = rows_of(toy_meta())
    lists = counts.tolist()
    lists[3][2] = None
    write_raw(path, toy_meta().to_json(), rows, pa.array(lists, type=pa.list_(pa.int32())))
    refused(path, "a count is null")
    lists[3] = None
    write_raw(path, toy_meta().to_json(), rows, pa.array(lists, type=pa.list_(pa.int32(), 8)))
    refused(path, "null")
    table = pq.read_table(toy_trace().write(path))
    step = table["step"].to_pylist()
    step[5] = None
    holed = table.set_column(0, "step", pa.array(step, type=pa.int32()))
    pq.write_table(holed.replace_schema_metadata(table.schema.metadata), path)
    refused(path)


def test_an_empty_trace(path):
    rows, counts = rows_of(toy_meta())
    refused(
        write_raw(path, toy_meta().to_json(), rows[:0], counts[:0]),
        "the trace is empty",
        at_load=True,
    )


def reordered(order):
    rows, counts = rows_of(toy_meta())
    at = np.arange(len(rows))
    at = order(at)
    return rows[at], counts[at]


def gone(row):
    return lambda at: np.delete(at, row)


def twice(row):
    return lambda at: np.insert(np.delete(at, -1), row, row)


def swapped(one, other):
    def swap(at):
        at[[one, other]] = at[[other, one]]
        return at

    return swap


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (gone(47), "47"),
        (lambda at: np.delete(at, [5, 6, 7, 8]), "source rank 1: the row is missing"),
        (lambda at: np.delete(at, [0, 1, 2, 3, 44, 45, 46, 13]), "source rank 1"),
        (twice(9), "source rank 1 is there twice"),
        (swapped(4, 5), "source rank 0: the row is missing or out of order"),
        (swapped(4, 20), "missing or out of order"),
        (lambda at: at[::-1], "missing or out of order"),
        (lambda at: np.roll(at, 4), "the record is out of order"),
        (lambda at: np.concatenate([at[:8], at[4:8], at[12:]]), "the record appears twice"),
    ],
)
def test_rows_missing_duplicated_or_out_of_order(path, order, says):
    rows, counts = reordered(order)
    write_raw(path, toy_meta().to_json(), rows, counts)
    refused(path, says)


def test_source_ranks_out_of_range(path):
    rows, counts = rows_of(toy_meta())
    rows[:, 3] += 1
    refused(write_raw(path, toy_meta().to_json(), rows, counts), "source ranks must be 0..3")


def alter_negative(counts):
    counts[30, 4] = -3


def alter_sum(counts):
    counts[30, 4] += 1


def alter_total(counts):
    counts[30, 4:6] += 1


def alter_repeat(counts):
    # layers of one micro-batch keep equal sums, but one expert gets more than the 6 tokens
    counts[16:24] = [7, 5, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("alter", "says"),
    [
        (alter_negative, "expert 4: a count is negative (got -3)"),
        (alter_sum, "not a multiple of top_k = 2"),
        (alter_total, "differs from layer 0's 12"),
        (alter_repeat, "an expert has more pairs than its row has tokens (got 7)"),
    ],
)
def test_counts_that_break_a_rule(path, alter, says):
    rows, counts = rows_of(toy_meta())
    alter(counts)
    refused(write_raw(path, toy_meta().to_json(), rows, counts), says)


def test_sums_are_compared_across_batches_and_row_groups(path):
    rows, counts = rows_of(toy_meta())
    alter_total(counts)
    write_raw(path, toy_meta().to_json(), rows, counts, row_group_size=4)
    refused(path, "differs from layer 0's 12")


def test_one_shared_key_view_finds_the_same_faults(path):
    rows, counts = reordered(lambda at: np.roll(at, 4))
    write_raw(path, toy_meta().to_json(), rows, counts)
    with pytest.raises(TraceError, match="out of order"):
        load_trace(path).keys()


def test_absurd_claims_allocate_nothing(path):
    """A record of the claimed shape would take 400 MiB; the file holds a few kB."""
    rows, counts = rows_of(toy_meta(), steps=100)
    lists = pa.array(counts.tolist(), type=pa.list_(pa.int32()))
    claim = meta_with(num_experts=65536, source_ranks=len(rows))
    write_raw(path, claim, rows, lists)
    tracemalloc.start()
    refused(path, "the list of counts is not 65536 long")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 65536 * len(rows) / 10
    assert peak < 30 << 20
