from __future__ import annotations

import json

import pytest

from ultraep_sim.errors import ScenarioError
from ultraep_sim.sweep import grid

from .command import assert_one_line_error

BASE = """
name: tiny
model: {preset: qwen3-30b, layers: 2, num_experts: 16, top_k: 2}
rack: h100-nvl8
ep: {ranks: 4, slots_per_rank: 1}
workload:
  synthetic: {imbalance: 1.5, layers: 1, steps: 1}
  tokens_per_rank: 256
  sequence_length: 256
policies: [none, ultraep]
"""
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
    answer = invoke("sweep", file, "--out", tmp_path / "out")
    assert answer.code == 0, answer
    for word in ("How many slots?", "ep.slots_per_rank", "ultraep", "layer time ms"):
        assert word in answer.out
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"sweep.csv", "sweep.parquet", "sweep.png", "sweep.svg"}
    assert "sweep.csv" in answer.err


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

    def run(point):
        at = dict(point.values)
        big = {"fits": at["ep.slots_per_rank"] == 0, "memory_GB": 93.5}
        return [
            at | row | {"policy": "none", "memory_GB": 1.0},
            at | row | {"policy": "eplb"} | big,
        ]

    monkeypatch.setattr(grid, "run_point", run)
    answer = invoke("sweep", file, "--out", tmp_path / "out")
    assert answer.code == 0, answer
    marked = [line for line in answer.out.splitlines() if "\N{DAGGER}" in line]
    assert len(marked) == 2
    assert "eplb \N{DAGGER}" in marked[0]
    assert "93.5" in marked[0]
    assert "does not fit" in marked[1]
    assert answer.out.count("Note: 8 records.") == answer.out.count("Note: half.") == 1
    monkeypatch.setattr(grid, "run_point", lambda point: run(point)[:1])
    answer = invoke("sweep", file, "--out", tmp_path / "out")
    assert "\N{DAGGER}" not in answer.out
    assert "memory" not in answer.out


def test_a_wrong_point_is_told_before_the_first_run(invoke, file, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "run_point", lambda point: pytest.fail("ran"))
    file.write_text(SWEEP.replace("[0, 1]", "[0, 1, -1]"))
    answer = invoke("sweep", file, "--out", tmp_path / "out")
    assert_one_line_error(answer, "ep.slots_per_rank=-1", "cannot run")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "code"), [(ScenarioError("too large"), 2), (KeyboardInterrupt(), 130)]
)
def test_rows_outlive_what_stops_the_sweep(invoke, file, tmp_path, monkeypatch, error, code):
    def run(point):
        if dict(point.values)["ep.slots_per_rank"]:
            raise error
        return [dict(point.values) | {"policy": "none", "layer_time_ms": 1.0}]

    out = tmp_path / "out"
    out.mkdir()
    (out / "sweep.png").touch()  # of an earlier sweep
    monkeypatch.setattr(grid, "run_point", run)
    answer = invoke("sweep", file, "--out", out)
    assert answer.code == code
    assert answer.out == ""
    assert "1 of 2 points" in answer.err
    assert (out / "sweep.csv").read_text().splitlines()[1] == "0,none,1.0"
    assert {path.name for path in out.iterdir()} == {"sweep.csv", "sweep.parquet"}


def test_bad_input_is_one_line(invoke, file, tmp_path):
    assert_one_line_error(invoke("sweep", tmp_path / "none.yaml"), "no such sweep file")
    assert_one_line_error(invoke("sweep", ""), "FILE")
    file.write_text(SWEEP.replace("[0, 1]", "[0, 99]"))
    assert_one_line_error(invoke("sweep", file), "ep.slots_per_rank=99", "cannot run")
    file.write_text(SWEEP.replace("y: layer_time_ms", "y: nonsense"))
    answer = invoke("sweep", file, "--out", tmp_path / "out")
    assert_one_line_error(answer, "nonsense", "no such column")
    assert not (tmp_path / "out" / "sweep.png").exists()
