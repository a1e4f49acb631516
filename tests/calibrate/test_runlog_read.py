"""Logs are read from CSV and Parquet; what no cell can be is an error with its place."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ultraep_sim.calibrate.runlog.from_trace import loads_from_trace
from ultraep_sim.calibrate.runlog.log import KINDS, read_log
from ultraep_sim.calibrate.runlog.synthetic import Truth, synthetic_log, to_csv
from ultraep_sim.errors import CalibrationError
from ultraep_sim.trace import Trace, TraceMeta

TEXT = "step,rank,ms,load,kind\n0,0,1.5,100,experts\n0,1,,90,experts\n1,0,nan,100,experts\n"


def write(tmp_path, text, name="log.csv"):
    file = tmp_path / name
    file.write_text(text)
    return file


def test_a_written_log_is_read_back(tmp_path):
    log = synthetic_log(Truth(steps=3), 0)
    read = read_log(write(tmp_path, to_csv(log, "SYNTHETIC")))
    for name in ("row", "step", "unit", "layer", "kind", "load"):
        assert (getattr(read, name) == getattr(log, name)).all(), name
    np.testing.assert_allclose(read.ms, log.ms, rtol=1e-4)


def test_parquet_and_csv_say_the_same(tmp_path):
    csv = read_log(write(tmp_path, TEXT))
    table = pa.table(
        {
            "step": [0, 0, 1], "rank": [0, 1, 0], "ms": [1.5, None, float("nan")],
            "load": [100, 90, 100], "kind": ["experts"] * 3,
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "log.parquet")
    parquet = read_log(tmp_path / "log.parquet")
    for name in ("row", "step", "unit", "kind", "load"):
        assert (getattr(parquet, name) == getattr(csv, name)).all(), name
    np.testing.assert_array_equal(parquet.ms, csv.ms)
    assert np.isnan(csv.ms).tolist() == [False, True, True]
    assert csv.sources[0][0] == "log.csv"
    assert len(csv.sources[0][1]) == 64


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("step,rank,load\n0,0,1\n", "ms: a column is missing"),
        ("step,ms,load\n0,0,1\n", "names ranks or stages"),
        ("step,rank,stage,ms\n0,0,0,1\n", "names ranks or stages"),
        ("step,rank,ms,speed\n0,0,1,1\n", "speed: unknown column"),
        ("step,rank,ms\n0,0,fast\n", "row 1, ms: not a number (got 'fast')"),
        ("step,rank,ms\n0,0,1\n0.5,0,1\n", "row 2, step: not a whole number"),
        ("step,rank,ms\n0,-1,1\n", "row 1, rank: not a whole number"),
        ("step,rank,ms,kind\n0,0,1,gemm\n", "row 1, kind: unknown kind (got 'gemm')"),
        ("step,rank,ms\n0,0\n", "row 1: 3 cells expected"),
        ("step,rank,ms\n", "no rows"),
        ("PAR1 is no parquet file", "no Parquet"),
        ('step,rank,ms\n0,0,"1\n', "no CSV"),
    ],
)
def test_what_no_log_can_be_is_an_error(tmp_path, text, needle):
    with pytest.raises(CalibrationError) as caught:
        read_log(write(tmp_path, text))
    assert needle in str(caught.value)
    assert "log.csv" in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(CalibrationError, match="No such file"):
        read_log(tmp_path / "none.csv")


def small_trace():
    meta = TraceMeta(
        model="toy", num_experts=4, top_k=1, num_layers=2, source_ranks=1, tokens_per_rank=10,
        phase="prefill", recorded="by hand", synthetic=True,
    )  # fmt: skip
    loads = [[[4, 3, 2, 1]], [[1, 2, 3, 4]], [[0, 0, 5, 5]], [[10, 0, 0, 0]]]
    return Trace.from_arrays(meta, [0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1], loads)


def test_a_trace_tells_the_loads(tmp_path):
    lines = ["step,rank,layer,kind,ms"]
    lines += [f"{step},{rank},{layer},experts,1" for step, layer, rank in np.ndindex(2, 2, 2)]
    lines += ["1,0,0,step,1"]
    log = read_log(write(tmp_path, "\n".join(lines)))
    found = loads_from_trace(log, small_trace(), 2)
    assert found.load.tolist() == [7, 3, 3, 7, 0, 10, 10, 0, 20]
    assert found.sources[1] == ("trace", small_trace().digest)


def test_a_trace_of_another_run_is_an_error(tmp_path):
    log = read_log(write(tmp_path, "step,rank,layer,ms\n0,0,0,1\n7,0,0,1\n"))
    with pytest.raises(CalibrationError, match=r"row 2: no record"):
        loads_from_trace(log, small_trace(), 2)
    log = read_log(write(tmp_path, TEXT))
    with pytest.raises(CalibrationError, match="loads of its own"):
        loads_from_trace(log, small_trace(), 2)


def test_kinds_that_ranks_share_are_grouped():
    assert {kind for kind, shared in KINDS.items() if shared} == {"layer", "step"}
