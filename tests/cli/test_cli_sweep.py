from __future__ import annotations

import json

import pytest

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


def test_bad_input_is_one_line(invoke, file, tmp_path):
    assert_one_line_error(invoke("sweep", tmp_path / "none.yaml"), "no such sweep file")
    assert_one_line_error(invoke("sweep", ""), "FILE")
    file.write_text(SWEEP.replace("[0, 1]", "[0, 99]"))
    assert_one_line_error(invoke("sweep", file), "ep.slots_per_rank=99", "cannot run")
    file.write_text(SWEEP.replace("y: layer_time_ms", "y: nonsense"))
    answer = invoke("sweep", file, "--out", tmp_path / "out")
    assert_one_line_error(answer, "nonsense", "no such column")
    assert not (tmp_path / "out" / "sweep.png").exists()
