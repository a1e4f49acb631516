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


TRAINING = {
    "rows": [
        {"model": "m", "policy": "none", "published": 3.0, "uneven": 3.3, "uneven_error": 0.1}
    ],
    "accuracy": [{"sequence": 8192, "recompute": "none", "fits": True, "column": "uneven"}],
    "ideal": [{"model": "m", "recompute": "full", "problem": "needs more memory"}],
}


@pytest.mark.parametrize("suite", ["training", "breakdown"])
def test_published_suites_print_a_table_or_one_document(invoke, monkeypatch, suite):
    from ultraep_sim.validate import breakdown, training

    row = {"direction": "forward", "part": "others", "policy": "none", "published": None}
    monkeypatch.setattr(training, "run", lambda progress: TRAINING)
    monkeypatch.setattr(breakdown, "run", lambda progress: [row])
    answer = invoke("validate", suite)
    assert answer.code == 0, answer
    assert "none" in answer.out
    answer = invoke("validate", suite, "--json")
    data = json.loads(answer.out)
    assert data["suite"] == suite
    assert data["rows"][0]["policy"] == "none"


def test_options_of_the_planner_suite_are_its_own(invoke):
    assert_one_line_error(invoke("validate", "training", "--quick"), "--quick", "training")
    answer = invoke("validate", "breakdown", "--policy", "none")
    assert_one_line_error(answer, "--policy", "breakdown")
