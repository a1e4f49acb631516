from __future__ import annotations

import json

import pytest

from ultraep_sim.validate import families
from ultraep_sim.validate.draws import Shape
from ultraep_sim.validate.rows import FIELDS

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
    assert all(set(row) >= ROW for row in data["arena"])
    assert {row["policy"] for row in data["arena"]} == {"none", "ultraep"}
    assert {entry["policy"] for entry in data["policies"]} == {"none", "ultraep"}
    assert all(tuple(row) == FIELDS for row in data["rows"])
    zipf = [row for row in data["rows"] if row["case"] == "32/8/2/zipf-3/ultraep"]
    assert {row["metric"] for row in zipf} == {"final_imbalance", "slots_used", "max_fanout"}
    assert all(row["simulated"] >= row["published"] for row in zipf if row["published"])


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
    assert_one_line_error(invoke("validate", "engines", "--fresh"), "--fresh", "engines")
    assert_one_line_error(invoke("validate", "paper", "--published", ""), "--published", "empty")
    assert_one_line_error(
        invoke("validate", "runtime", "--measurements", "nowhere"), "--measurements", "nowhere"
    )


def test_no_measurement_is_a_stated_gap(invoke, tmp_path):
    answer = invoke("validate", "runtime", "--measurements", str(tmp_path), "--json")
    data = json.loads(answer.out)
    assert (answer.code, data["rows"]) == (0, [])
    assert data["gaps"] == ["no measurement committed yet"]
    assert "no measurement committed yet" in invoke("validate", "runtime").out


def test_engines_agree_to_rounding(invoke):
    answer = invoke("validate", "engines", "--quick", "--json")
    assert answer.code == 0, answer
    data = json.loads(answer.out)
    assert len(data["rows"]) == 4 * 4 * 2
    assert data["summary"][0]["worst"] < 1e-12
    assert data["broken"] == []


def test_a_broken_threshold_is_told_and_exits_with_one(invoke, monkeypatch, tmp_path):
    from ultraep_sim.validate import engines

    row = engines.make_row("engines", "none/none/none", "iteration_s", 1.0, 1.1, fitted=False,
                           provenance="a test")  # fmt: skip
    monkeypatch.setattr(engines, "run", lambda *_: [row])
    answer = invoke("validate", "engines", "--json", "--out", str(tmp_path / "out"))
    assert answer.code == 1
    assert json.loads(answer.out)["broken"][0].startswith("engines, predicted: worst error 10")
    assert "broken: engines" in answer.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "rows.csv", "rows.json", "simulated-published.png", "simulated-published.svg",
    }  # fmt: skip
