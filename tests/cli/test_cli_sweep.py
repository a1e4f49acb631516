from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from tests.sweep.tiny import TINY
from ultraep_sim.errors import ScenarioError
from ultraep_sim.sweep import backends

from .command import assert_one_line_error

BASE = TINY.replace("steps: 2", "steps: 1").replace(", ideal", "")
SWEEP = """
question: How many slots?
base: base.yaml
vary: {ep.slots_per_rank: [0, 1]}
plot: {x: ep.slots_per_rank, y: layer_time_ms}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "slots.yaml"
    path.write_text(SWEEP)
    return path


def test_a_table_a_plot_and_the_rows(invoke, file, tmp_path):
    answer = invoke("sweep", file, "--jobs", "1", "--out", tmp_path / "out")
    assert answer.code == 0, answer
    for word in ("How many slots?", "ep.slots_per_rank", "ultraep", "layer time ms"):
        assert word in answer.out
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"sweep.csv", "sweep.parquet", "sweep.png", "sweep.svg", "sweep.json"}
    assert "sweep.csv" in answer.err
    assert {"report.html", "findings.md", "winners.png"} <= written
    assert "settings one can choose: ep.slots_per_rank" in " ".join(answer.out.split())
    assert f"open {tmp_path / 'out' / 'report.html'}" in answer.err


def test_json_is_one_document(invoke, file, tmp_path):
    answer = invoke("sweep", file, "--out", tmp_path / "out", "--json")
    data = json.loads(answer.out)
    assert data["question"] == "How many slots?"
    assert [(row["ep.slots_per_rank"], row["policy"]) for row in data["rows"]] == [
        (0, "none"), (0, "ultraep"), (1, "none"), (1, "ultraep"),
    ]  # fmt: skip


def test_what_does_not_fit_is_marked(invoke, file, tmp_path, monkeypatch):
    row = {
        "layer_time_ms": 1.0,
        "workload": "SYNTHETIC: m",
        "notes": "8 records | half",
        "fits": True,
    }

    def run(point, scenario=None):
        at = dict(point.values)
        big = {"fits": at["ep.slots_per_rank"] == 0, "memory_GB": 93.5}
        return [
            at | row | {"policy": "none", "memory_GB": 1.0},
            at | row | {"policy": "eplb"} | big,
        ]

    monkeypatch.setattr(backends, "run_point", run)
    answer = invoke("sweep", file, "--jobs", "1", "--no-report", "--out", tmp_path / "out")
    assert answer.code == 0, answer
    marked = [line for line in answer.out.splitlines() if "\N{DAGGER}" in line]
    assert len(marked) == 2
    assert "eplb \N{DAGGER}" in marked[0]
    assert "93.5" in marked[0]
    assert "does not fit" in marked[1]
    assert answer.out.count("Note: 8 records.") == answer.out.count("Note: half.") == 1
    monkeypatch.setattr(backends, "run_point", lambda point, scenario: run(point)[:1])
    answer = invoke("sweep", file, "--jobs", "1", "--no-report", "--out", tmp_path / "out")
    assert "\N{DAGGER}" in answer.out  # they are stored, and not run again
    answer = invoke("sweep", file, "--jobs", "1", "--no-report", "--out", tmp_path / "other")
    assert "\N{DAGGER}" not in answer.out
    assert "memory" not in answer.out


def test_a_wrong_point_is_told_before_the_first_run(invoke, file, tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "run_point", lambda *a: pytest.fail("ran"))
    file.write_text(SWEEP.replace("[0, 1]", "[0, 1, -1]"))
    answer = invoke("sweep", file, "--jobs", "1", "--out", tmp_path / "out")
    assert_one_line_error(answer, "ep.slots_per_rank=-1", "cannot run")
    assert not (tmp_path / "out").exists()


def test_rows_outlive_ctrl_c(invoke, file, tmp_path, monkeypatch):
    def run(point, scenario=None):
        if dict(point.values)["ep.slots_per_rank"]:
            raise KeyboardInterrupt
        return [dict(point.values) | {"policy": "none", "layer_time_ms": 1.0}]

    out = tmp_path / "out"
    monkeypatch.setattr(backends, "run_point", run)
    answer = invoke("sweep", file, "--jobs", "1", "--out", out)
    assert answer.code == 130
    assert answer.out == ""
    assert f"sweep resume {out}" in answer.err
    exported = invoke("sweep", "export", out)
    assert exported.out.splitlines()[1].startswith("0,")
    assert len(exported.out.splitlines()) == 2
    status = invoke("sweep", "status", out, "--json")
    told = json.loads(status.out)
    assert (told["points"], told["stored"], told["missing"], status.code) == (2, 1, 1, 1)
    monkeypatch.undo()
    assert invoke("sweep", "resume", out, "--jobs", "1").code == 0
    assert invoke("sweep", "status", out).code == 0


def test_a_failed_point_is_told_and_stops_no_other(invoke, file, tmp_path, monkeypatch):
    def run(point, scenario=None):
        if not dict(point.values)["ep.slots_per_rank"]:
            raise ScenarioError("too large")
        return [dict(point.values) | {"policy": "none", "layer_time_ms": 1.0}]

    out = tmp_path / "out"
    monkeypatch.setattr(backends, "run_point", run)
    first = invoke("sweep", file, "--jobs", "1", "--out", out)
    assert first.code == 1
    assert "failed: too large" in first.err
    assert len((out / "sweep.csv").read_text().splitlines()) == 2
    assert not (out / "sweep.png").exists()
    monkeypatch.undo()
    again = invoke("sweep", "resume", out, "--jobs", "1")
    assert again.code == 1
    assert "1 failed earlier" in again.err
    assert "ep.slots_per_rank=0: too large" in invoke("sweep", "status", out).out
    assert invoke("sweep", "resume", out, "--jobs", "1", "--retry-failed").code == 0


def test_a_dry_run_counts_and_stops(invoke, file, tmp_path):
    answer = invoke("sweep", file, "--jobs", "1", "--out", tmp_path / "out", "--dry-run")
    assert answer.code == 0
    assert answer.out == ""
    assert "2 points, 0 of them stored; one took" in answer.err
    assert not (tmp_path / "out" / "sweep.csv").exists()


def test_exports_hold_the_same_rows(invoke, file, tmp_path):
    out = tmp_path / "out"
    invoke("sweep", file, "--jobs", "1", "--out", out)
    assert invoke("sweep", "export", out).out == (out / "sweep.csv").read_text()
    rows = json.loads(invoke("sweep", "export", out, "--format", "json").out)
    assert [row["policy"] for row in rows] == ["none", "ultraep"] * 2
    table = tmp_path / "rows.parquet"
    assert invoke("sweep", "export", out, "--out", table).code == 0
    assert pq.read_table(table).to_pylist() == rows
    assert_one_line_error(invoke("sweep", "export", out, "--format", "xls"), "csv, json, parquet")
    assert_one_line_error(invoke("sweep", "export", out, "--format", "parquet"), "--out")


def test_two_sweeps_are_compared(invoke, file, tmp_path):
    for name, model in (("one", "qwen3-30b"), ("two", "qwen3-235b")):
        base = BASE.replace("preset: qwen3-30b", f"preset: {model}")
        (tmp_path / "base.yaml").write_text(base)
        invoke("sweep", file, "--jobs", "1", "--no-report", "--out", tmp_path / name)
    same = invoke("sweep", "compare", tmp_path / "one", tmp_path / "one", "--json")
    assert same.code == 0
    answer = invoke("sweep", "compare", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "c")
    assert answer.code == 0, answer
    assert "layer_time_ms" in answer.out
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "compare.html", "compare.json", "compare.csv",
    }  # fmt: skip
    (tmp_path / "one" / "sweep.parquet").write_bytes(b"PAR1")
    answer = invoke("sweep", "compare", tmp_path / "one", tmp_path / "two")
    assert_one_line_error(answer, "sweep.parquet", "cannot be read")


def test_the_page_can_be_written_anew(invoke, file, tmp_path):
    out = tmp_path / "out"
    invoke("sweep", file, "--jobs", "1", "--out", out)
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert invoke("report", out).code == 0
    assert (out / "report.html").read_bytes() == page
    assert_one_line_error(invoke("report", out, "--ranks", "8"), "--ranks")


def test_a_directory_that_will_not_do_is_told(invoke, file, tmp_path):
    assert_one_line_error(invoke("sweep", "status", tmp_path / "no"), "there is no sweep here")
    (tmp_path / "taken").write_text("a file")
    answer = invoke("sweep", file, "--jobs", "1", "--out", tmp_path / "taken")
    assert_one_line_error(answer, "taken", "cannot be written")
    out = tmp_path / "out"
    invoke("sweep", file, "--jobs", "1", "--out", out)
    told = json.loads((out / "sweep.json").read_text())
    (out / "sweep.json").write_text(json.dumps(told | {"format": 99}))
    answer = invoke("sweep", file, "--jobs", "1", "--out", out)
    assert_one_line_error(answer, "another version", "99")
    (out / "sweep.json").write_text("{")
    assert_one_line_error(invoke("sweep", "resume", out), "sweep.json", "cannot be read")


def test_bad_input_is_one_line(invoke, file, tmp_path):
    assert_one_line_error(invoke("sweep", tmp_path / "none.yaml"), "no such sweep file")
    assert_one_line_error(invoke("sweep", ""), "FILE")
    assert_one_line_error(invoke("sweep", file, "--backend", "slurm"), "slurm", "local, ray")
    file.write_text(SWEEP.replace("[0, 1]", "[0, 99]"))
    assert_one_line_error(invoke("sweep", file), "ep.slots_per_rank=99", "cannot run")
    file.write_text(SWEEP.replace("ep.slots_per_rank: [0, 1]", "ep.slot: [0, 1]"))
    answer = invoke("sweep", file, "--out", tmp_path / "out")
    assert_one_line_error(answer, "ep.slot=0", "unknown key 'slot'", "slots_per_rank")
    file.write_text(SWEEP.replace("y: layer_time_ms", "y: nonsense"))
    answer = invoke("sweep", file, "--jobs", "1", "--out", tmp_path / "out")
    assert_one_line_error(answer, "nonsense", "no such column")
    assert not (tmp_path / "out" / "sweep.png").exists()
