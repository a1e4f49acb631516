"""The search for the largest rate: its bracket, its verdicts, its interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.serving.helpers import tiny
from ultraep_sim.errors import InputError
from ultraep_sim.serving import capacity
from ultraep_sim.serving.capacity import (
    Capacity,
    Point,
    confidence,
    find_capacity,
    measure,
    rows_of,
)
from ultraep_sim.serving.setup import make_setup

SLO = {"slo": {"ttft_s": 0.3}}


@pytest.fixture
def cliff(monkeypatch):  # type: ignore[no-untyped-def]
    """A server that meets its line up to a known rate, which depends on policy and seed."""
    asked: list[tuple[str, int, float]] = []

    def install(limits: dict[str, float]) -> list[tuple[str, int, float]]:
        def known(setup, label, rate_per_s, *, stop=True) -> Point:  # type: ignore[no-untyped-def]
            seed = setup.scenario.seed
            asked.append((label, seed, rate_per_s))
            meets = rate_per_s <= limits[label] + seed
            return Point(seed, rate_per_s, 0.1 if meets else None, meets, 1.5)

        monkeypatch.setattr(capacity, "measure", known)
        return asked

    return install


@pytest.mark.parametrize("limit", [3.0, 39.0, 40.0, 41.0, 700.0])
@pytest.mark.parametrize("tolerance", [0.1, 0.01])
def test_a_known_capacity_is_found_from_below_and_above(cliff, limit, tolerance) -> None:  # type: ignore[no-untyped-def]
    cliff({"none": limit})
    found = find_capacity(tiny(policies=["none"]), seeds=[0], tolerance=tolerance)[0]
    good = [p.rate_per_s for p in found.points if p.meets]
    bad = [p.rate_per_s for p in found.points if not p.meets]
    assert found.rate_per_s == max(good) <= limit < min(bad)
    assert min(bad) / max(good) <= 1 + tolerance
    assert found.points[0].rate_per_s == 40.0  # begins at the scenario's own
    assert len(found.points) < 26
    assert found.low is found.high is None


def test_every_seed_is_searched_and_the_next_policy_begins_nearby(cliff) -> None:  # type: ignore[no-untyped-def]
    asked = cliff({"none": 50.0, "ultraep": 52.0})
    found = find_capacity(tiny(), seeds=[1, 2, 30], tolerance=0.001)
    assert [c.policy for c in found] == ["none", "ultraep"]
    for one, limit in zip(found, (50.0, 52.0), strict=True):
        assert one.by_seed == pytest.approx([limit + 1, limit + 2, limit + 30], rel=0.001)
        assert one.rate_per_s == pytest.approx(np.mean(one.by_seed))
        assert one.low < one.rate_per_s < one.high
        assert {p.seed for p in one.points} == {1, 2, 30}
    first = next(rate for label, seed, rate in asked if (label, seed) == ("ultraep", 1))
    assert first == found[0].by_seed[0]


def test_seeds_are_the_scenarios_own_and_the_next(cliff) -> None:  # type: ignore[no-untyped-def]
    cliff({"none": 50.0})
    done = []
    scenario = tiny(policies=["none"], seed=5)
    found = find_capacity(scenario, tolerance=0.1, progress=lambda *a: done.append(a))
    assert [p.seed for p in found[0].points] == sorted(p.seed for p in found[0].points)
    assert {p.seed for p in found[0].points} == {5, 6, 7}
    assert done == [("searching", i, 3) for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("limit", "words"), [(-1.0, "no rate in reach"), (1e9, "every rate in reach")]
)
def test_a_line_out_of_reach_says_so(cliff, limit, words) -> None:  # type: ignore[no-untyped-def]
    cliff({"none": limit})
    with pytest.raises(InputError, match=f"{words}.*|.*{words}") as caught:
        find_capacity(tiny(policies=["none"]), seeds=[0])
    text = str(caught.value)
    assert "serving.slo.ttft_s, policy none" in text
    assert "\n" not in text


@pytest.mark.parametrize(("seeds", "tolerance"), [([], 0.1), ([0], 0.0), ([0], 1.0), ([0], -1.0)])
def test_bad_searches_are_refused(seeds, tolerance) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="find_capacity"):
        find_capacity(tiny(), seeds=seeds, tolerance=tolerance)


@pytest.mark.parametrize("count", [2, 3, 5, 10, 16, 17, 18, 30, 200])
def test_the_interval_is_students(count) -> None:  # type: ignore[no-untyped-def]
    values = np.random.default_rng(count).normal(100.0, 5.0, count)
    mean, low, high = confidence(values.tolist())
    expected = stats.t.interval(
        0.95, count - 1, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(count)
    )
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(expected[1] - expected[0], rel=5e-4)
    assert low + high == pytest.approx(sum(expected))


def test_one_value_has_no_interval() -> None:
    assert confidence([3.0]) == (3.0, None, None)


@pytest.fixture(scope="module")
def setup():  # type: ignore[no-untyped-def]
    return make_setup(tiny(serving=SLO))


@pytest.mark.parametrize("statistic", ["mean", "p99"])
def test_stopping_early_never_changes_the_verdict(statistic) -> None:  # type: ignore[no-untyped-def]
    slo = {"slo": {"ttft_s": 0.3, "statistic": statistic}}
    setup = make_setup(tiny(serving=slo, policies=["none"]))
    stopped = 0
    for rate in (20, 60, 80, 95, 100, 105, 110, 130, 300):
        short, whole = (measure(setup, "none", float(rate), stop=stop) for stop in (True, False))
        assert short.meets == whole.meets
        assert whole.meets == (whole.ttft_s <= 0.3)
        if short.ttft_s is None:
            stopped += 1
        else:
            assert short == whole
    assert stopped >= 2  # or nothing was tested


def test_common_random_numbers_make_ttft_grow_with_the_rate(setup) -> None:  # type: ignore[no-untyped-def]
    """The same requests closer together: rates 70 % apart keep their order, 30 % nearly so."""
    rates = [20 * 1.3**i for i in range(9)]
    ttft = np.array([measure(setup, "none", rate, stop=False).ttft_s for rate in rates])
    assert (ttft[2:] > ttft[:-2]).all()
    assert (ttft[1:] > 0.95 * ttft[:-1]).all()


def test_a_search_on_a_real_server(setup) -> None:  # type: ignore[no-untyped-def]
    scenario = setup.scenario
    found = find_capacity(scenario, seeds=[0], tolerance=0.05)
    assert found == find_capacity(scenario, seeds=[0], tolerance=0.05)
    for one in found:
        assert measure(setup, one.policy, one.rate_per_s, stop=False).ttft_s <= 0.3
        bad = min(p.rate_per_s for p in one.points if not p.meets)
        assert measure(setup, one.policy, bad, stop=False).ttft_s > 0.3
    alone = find_capacity(
        scenario.model_copy(update={"policies": scenario.policies[:1]}), seeds=[0], tolerance=0.05
    )
    assert alone[0] == found[0]


def test_where_every_prompt_is_too_long_no_rate_meets_the_line() -> None:
    lengths = {"kind": "fixed", "mean": 4_000_000.0, "longest": 4_000_000}
    setup = make_setup(tiny(policies=["none"], requests={"lengths": lengths}))
    assert not measure(setup, "none", 20.0).meets


def test_rows_are_relative_to_ideal() -> None:
    found = [
        Capacity(name, rate, rate - 1, rate + 1, [rate], 1.2, [])
        for name, rate in (("plain", 50.0), ("best", 100.0))
    ]
    rows = rows_of(found, {"plain": "none", "best": "ideal"})
    assert [row["relative_to_ideal"] for row in rows] == [0.5, 1.0]
    assert rows[0]["rate_low"] == 49.0
    assert rows_of(found, {})[0]["relative_to_ideal"] is None


def test_turning_requests_away_is_no_way_to_meet_the_line() -> None:
    setup = make_setup(tiny(policies=["none"], serving={**SLO, "max_queue": 20}))
    point = measure(setup, "none", 2000.0)
    assert point.ttft_s is not None
    assert point.ttft_s <= 0.3  # what is let in is fast
    assert not point.meets
