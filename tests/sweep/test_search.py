from __future__ import annotations

import pytest

from ultraep_sim.errors import InputError, ScenarioError
from ultraep_sim.sweep import backends, load_sweep, run_sweep
from ultraep_sim.sweep.run import stored_points
from ultraep_sim.sweep.search import mean_row, pareto_front
from ultraep_sim.sweep.search_spec import ParetoSpec
from ultraep_sim.sweep.store import Store

SMALLEST = """
    base: base.yaml
    vary: {workload.synthetic.imbalance: [1.3, 1.8]}
    smallest:
      of: ep.slots_per_rank
      between: [0, 8]
      policy: ultraep
      condition: mean_rank_imbalance <= 1.2
"""


def test_the_smallest_number_of_slots_is_that_of_the_whole_grid(write, tmp_path):
    found = run_sweep(load_sweep(write(SMALLEST)), tmp_path / "out")
    grid = run_sweep(load_sweep(write("""
        base: base.yaml
        vary: {workload.synthetic.imbalance: [1.3, 1.8], ep.slots_per_rank: {range: [0, 8]}}
    """, "grid.yaml")))  # fmt: skip
    for answer in found.answers:
        at = answer["workload.synthetic.imbalance"]
        does = [
            row["ep.slots_per_rank"]
            for row in grid.rows
            if row["workload.synthetic.imbalance"] == at
            and row["policy"] == "ultraep"
            and row["mean_rank_imbalance"] <= 1.2
        ]
        assert answer["ep.slots_per_rank"] == min(does)
        assert answer["monotone"] is True
        assert answer["probes"] <= 6
    again = stored_points(load_sweep(write(SMALLEST)), Store(tmp_path / "out"))
    assert (again.answers, again.rows) == (found.answers, found.rows)


def fake(monkeypatch, law):
    """Let points run by a law of their columns instead of the simulator."""

    def run(point, scenario):
        at = dict(point.values)
        return [at | {"policy": "ultraep", "fits": True} | law(at)]

    monkeypatch.setattr(backends, "run_point", run)


@pytest.mark.parametrize(
    ("threshold", "expected", "below"), [(-1, 0, None), (5.5, 6, 5), (8.5, None, 8)]
)
def test_whole_numbers_are_found_exactly(write, monkeypatch, threshold, expected, below):
    fake(monkeypatch, lambda at: {"y": float(at["ep.slots_per_rank"])})
    text = SMALLEST.replace("mean_rank_imbalance <= 1.2", f"y > {threshold}")
    for answer in run_sweep(load_sweep(write(text))).answers:
        assert answer["ep.slots_per_rank"] == expected
        assert answer["below"] == below


def test_fractions_are_bracketed_within_the_tolerance(write, monkeypatch):
    fake(monkeypatch, lambda at: {"y": at["rack.scale_up_GBps"]})
    spec = load_sweep(write("""
        base: base.yaml
        smallest: {of: rack.scale_up_GBps, between: [10.0, 900.0], policy: ultraep,
                   condition: y >= 123, tolerance: 0.01}
    """))  # fmt: skip
    (answer,) = run_sweep(spec).answers
    assert answer["below"] < 123 <= answer["rack.scale_up_GBps"] <= 1.011 * answer["below"]


def test_ends_that_contradict_each_other_are_told(write, monkeypatch):
    fake(monkeypatch, lambda at: {"good": at["ep.slots_per_rank"] in (0, 5)})
    spec = load_sweep(write(SMALLEST.replace("mean_rank_imbalance <= 1.2", "good")))
    for answer in run_sweep(spec).answers:
        assert (answer["ep.slots_per_rank"], answer["monotone"]) == (0, False)


def test_seeds_are_averaged_and_draws_must_agree(write, monkeypatch):
    # At 4 slots the mean over seeds does; one draw of four does not.
    def law(at):
        return {"y": at["ep.slots_per_rank"] + at["seed"] - 0.5 - 4 * (at["draw"] == 3)}

    fake(monkeypatch, law)
    text = SMALLEST.replace("mean_rank_imbalance <= 1.2", "y >= 4") + "    seeds: 2\n    draws: 3\n"
    for confidence, expected in ((0.75, 4), (0.95, 8)):
        spec = load_sweep(
            write(text.replace("between", f"confidence: {confidence}\n      between"))
        )
        for answer in run_sweep(spec).answers:
            assert answer["ep.slots_per_rank"] == expected


def test_a_search_that_cannot_go_on_says_why(write, monkeypatch):
    text = SMALLEST.replace("mean_rank_imbalance <= 1.2", "no_such_column > 1")
    with pytest.raises(ScenarioError, match="no column no_such_column"):
        run_sweep(load_sweep(write(text)))
    with pytest.raises(ScenarioError, match="runs no such policy"):
        run_sweep(load_sweep(write(SMALLEST.replace("policy: ultraep", "policy: mosaic"))))

    def fails(point, scenario):
        raise ScenarioError("too large")

    monkeypatch.setattr(backends, "run_point", fails)
    with pytest.raises(InputError, match="needs a point that failed: too large"):
        run_sweep(load_sweep(write(SMALLEST)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SMALLEST.replace("[0, 8]", "[8, 0]"), "between goes up"),
        (SMALLEST.replace("[0, 8]", "[0, 8.5]"), ""),
        (SMALLEST.replace("[0, 8]", "[0.0, 8]"), "smallest value above 0"),
        (SMALLEST.replace("<= 1.2", "<="), "not a condition"),
        (SMALLEST + "    pareto: {maximise: [a], minimise: [b]}\n", "two searches"),
        (SMALLEST.replace("of: ep.slots_per_rank", "of: workload.synthetic.imbalance"), "already"),
        ("base: base.yaml\nvary: {seed: [1]}\npareto: {maximise: [a]}", "two or more columns"),
        (
            "base: base.yaml\nvary: {seed: [1]}\npareto: {maximise: [a], minimise: [b], trials: 3}",
            "needs policy",
        ),
    ],
)
def test_a_wrong_search_is_told_in_one_line(write, text, says):
    if not says:
        load_sweep(write(text))  # fractions above a whole 0 are a search over fractions
        return
    with pytest.raises(ScenarioError, match=says):
        load_sweep(write(text))


ROWS = [
    {"s": s, "policy": p, "speed": v, "memory_GB": m, "fits": fits}
    for s, p, v, m, fits in [
        (0, "a", 1.0, 1.0, True), (1, "a", 2.0, 2.0, True), (2, "a", 1.5, 3.0, True),
        (3, "a", 9.0, 9.0, False), (0, "b", 1.0, 1.0, True), (1, "b", 3.0, 2.0, True),
    ]
]  # fmt: skip


def test_the_front_holds_what_nothing_beats():
    wanted = ParetoSpec(maximise=["speed"], minimise=["memory_GB"])
    front = pareto_front(ROWS, wanted, ["s"])
    assert [(row["s"], row["policy"]) for row in front] == [(1, "b"), (0, "a"), (0, "b")]
    alone = ParetoSpec(maximise=["speed"], minimise=["memory_GB"], policy="a")
    assert [row["s"] for row in pareto_front(ROWS, alone, ["s"])] == [1, 0]
    assert pareto_front([], wanted, ["s"]) == []
    with pytest.raises(ScenarioError, match="no number"):
        pareto_front(ROWS, ParetoSpec(maximise=["speed", "policy"]), ["s"])


def test_means_need_every_number():
    rows = [{"a": 1, "b": True, "c": "x", "d": 2.0}, {"a": 2, "b": False, "c": "y", "d": None}]
    assert mean_row(rows) == {"a": 1.5, "b": False, "c": "x", "d": None}


def test_optuna_finds_the_front_with_fewer_points_and_resumes(write, monkeypatch, tmp_path):
    pytest.importorskip("optuna")

    def law(at):
        x, y = at["ep.slots_per_rank"], at["workload.synthetic.steps"]
        return {"good": -float((x - 5) ** 2 + (y - 5) ** 2), "dear": float(x)}

    fake(monkeypatch, law)
    path = write("""
        base: base.yaml
        vary:
          ep.slots_per_rank: {range: [0, 15]}
          workload.synthetic.steps: {range: [1, 40]}
        pareto: {maximise: [good], minimise: [dear], policy: ultraep, trials: 160}
    """)
    found = run_sweep(load_sweep(path), tmp_path / "out")
    assert len(found.rows) <= 160 < 640
    # The true front is y = 5, x from 0 to 5; some of it must be near.
    best = max(row["good"] for row in found.answers)
    assert best >= -4
    ran = []
    monkeypatch.setattr(backends, "run_point", lambda *a: ran.append(a))
    assert run_sweep(load_sweep(path), tmp_path / "out").answers == found.answers
    assert not ran
