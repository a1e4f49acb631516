from __future__ import annotations

import json

import pytest

from ultraep_sim.validate import families
from ultraep_sim.validate.draws import Shape

from .command import assert_one_line_error

ROW = {
    "family", "experts", "ranks", "slots", "policy", "imbalance", "replicas", "max_fanout",
    "remote_fraction", "solve_us", "replica_lower_bound", "tau_lower_bound",
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(families, "QUICK_SHAPES", (Shape(32, 8, 2),))


def test_json_is_one_document_with_rows_and_summary(invoke):
    answer = invoke("validate", "planner", "--quick", "--json", "--policy", "none")
    assert answer.code == 0, answer
    data = json.loads(answer.out)
    assert (data["suite"], data["quick"]) == ("planner", True)
    assert all(set(row) >= ROW for row in data["rows"])
    assert {row["policy"] for row in data["rows"]} == {"none", "ultraep"}
    assert {entry["policy"] for entry in data["summary"]} == {"none", "ultraep"}


def test_the_table_names_every_policy_and_family(invoke):
    answer = invoke("validate", "--quick", "--policy", "eplb_plus")
    assert answer.code == 0, answer
    for word in ("eplb_plus", "ultraep", "zipf-1.5", "ragged_sources", "burst", "floor x"):
        assert word in answer.out
    assert answer.err == ""


def test_wrong_names_are_refused(invoke):
    assert_one_line_error(invoke("validate", "everything"), "SUITE", "everything", "planner")
    assert_one_line_error(
        invoke("validate", "planner", "--quick", "--policy", "nope"), "nope", "choose from"
    )
