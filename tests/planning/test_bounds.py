"""The lower bounds: below every plan there is (brute force), above the two counting bounds."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ultraep_sim as us
from ultraep_sim.errors import LoadsError, PolicyError
from ultraep_sim.planning import EPLayout
from ultraep_sim.planning.bounds import (
    _more_edges,
    _one_edge,
    counting_lower_bound,
    replica_lower_bound,
    tau_lower_bound,
)

from .brute_force import all_optima
from .strategies import problems

TINY_LAYOUTS = [
    EPLayout(3, 3, 1),
    EPLayout(3, 4, 1),
    EPLayout(2, 5, 2),
    EPLayout(4, 4, 1, domain_size=2),
    EPLayout(3, 4, 1, home=[0, 0, 0, 2]),
    EPLayout(3, 3, 0),
]


@pytest.mark.parametrize("layout", TINY_LAYOUTS, ids=str)
def test_no_plan_at_all_beats_a_bound(layout):
    """Every set of replicas there is, tried on a dozen loads: the bounds stay below them all."""
    rng = np.random.default_rng(0)
    tight = 0
    for _ in range(12):
        loads = rng.integers(0, 30, layout.num_experts) * rng.integers(0, 2, layout.num_experts)
        fewest = all_optima(loads, layout)  # {max rank load: fewest replicas that reach it}
        best = min(fewest)
        assert tau_lower_bound(loads, layout) <= best
        tight += tau_lower_bound(loads, layout) == best
        for tau in range(best, max(fewest) + 1):
            needed = min(n for load, n in fewest.items() if load <= tau)
            assert replica_lower_bound(loads, layout, tau) <= needed
        for tau in range(best):  # what is refused is really impossible: nothing below best is
            with_bound = _bound_or_none(loads, layout, tau)
            assert with_bound is None or with_bound >= 0
    assert tight >= 8, "the bound on tau should meet the optimum of most tiny cases"


def _bound_or_none(loads, layout, tau):
    try:
        return replica_lower_bound(loads, layout, tau)
    except PolicyError:
        return None


@given(problems(), st.sampled_from(["ultraep", "eplb_plus"]), st.sampled_from([1.0, 1.01, 1.2]))
@settings(max_examples=200, deadline=None)
def test_no_planner_beats_a_bound(problem, policy, target):
    layout, loads = problem
    options = {"target": target} if policy == "ultraep" else {}
    plan = us.plan(loads, layout, policy=policy, **options)
    total = np.atleast_2d(loads).sum(axis=0)
    if (plan.quota[plan.offsets[:-1]][total > 0] < 1).any():
        return  # an even split may leave a main nothing; the bounds speak of plans that do not
    tau = int(plan.rank_loads.max())
    assert tau_lower_bound(loads, layout) <= tau
    useful = int((plan.quota[plan.is_replica] > 0).sum())
    assert replica_lower_bound(loads, layout, tau) <= useful


@given(problems(any_home=True), st.floats(1.0, 3.0))
@settings(max_examples=200, deadline=None)
def test_never_below_the_counting_bounds(problem, factor):
    layout, loads = problem
    tau = int(tau_lower_bound(loads, layout) * factor)
    bound = _bound_or_none(loads, layout, tau)
    if bound is not None:
        assert bound >= counting_lower_bound(loads, layout, tau)


@given(problems())
@settings(max_examples=100, deadline=None)
def test_never_below_the_mean_of_a_domain(problem):
    layout, loads = problem
    by_home = np.bincount(
        layout.home, np.atleast_2d(loads).sum(axis=0), minlength=layout.num_ranks
    ).astype(np.int64)
    means = [
        -(-int(part.sum()) // len(part))
        for part in np.split(by_home, range(layout.domain, layout.num_ranks, layout.domain))
    ]
    bound = tau_lower_bound(loads, layout)
    assert max(means) <= bound <= by_home.max()


def test_by_hand_slots_receive_no_more_than_their_largest_experts():
    """Rank 0 has ten experts of 10, rank 1 none and one slot: it can take 9 and no more."""
    layout = EPLayout(2, 10, 1, home=[0] * 10)
    assert tau_lower_bound([10] * 10, layout) == 91
    assert tau_lower_bound([10] * 10, EPLayout(2, 10, 2, home=[0] * 10)) == 82


def test_by_hand_sources_count_experts():
    """Excess 30 in experts of 10: each gives 9 at most, so four must be replicated."""
    layout = EPLayout(2, 8, 4, home=[0] * 8)
    assert counting_lower_bound([10] * 8, layout, 50) == 1
    assert replica_lower_bound([10] * 8, layout, 50) == 4


def test_by_hand_whole_sources_must_fit_their_sinks():
    """Excesses 6, 6, 6 over slacks 9, 9: two sinks for three sources, and 6 + 6 > 9.

    Counting: two sinks hold 18, each source alone needs one: 3. But a sink that takes one source
    whole has 3 left, so the third source is split: 4.
    """
    layout = EPLayout(5, 5, 3)
    loads, tau = [16, 16, 16, 1, 1], 10
    assert counting_lower_bound(loads, layout, tau) == 3
    assert replica_lower_bound(loads, layout, tau) == 4
    assert min(n for load, n in all_optima(loads, layout).items() if load <= tau) == 4


def test_prices_of_one_and_two_edges_against_enumeration():
    rng = np.random.default_rng(5)
    for _ in range(500):
        slack = np.sort(rng.integers(1, 60, rng.integers(2, 9)))[::-1].copy()
        excess = int(rng.integers(1, slack[:2].sum() + 1))
        fewest = int(np.searchsorted(np.cumsum(slack), excess)) + 1
        p = float(rng.choice(slack))
        charge = np.maximum(0, 1 / p - 1 / slack)
        if fewest == 1:
            one = min(1 + excess * charge[q] for q in range(len(slack)) if slack[q] >= excess)
            assert _one_edge(excess, slack, p) == pytest.approx(one)
        more = [max(3.0, excess / p)]
        for a, b in itertools.permutations(range(len(slack)), 2):
            in_a = min(slack[a], excess)  # linear in the share: an extreme is cheapest
            if excess - in_a <= slack[b]:
                more.append(2 + in_a * charge[a] + (excess - in_a) * charge[b])
        assert _more_edges(excess, fewest, slack, p) == pytest.approx(min(more))


def test_an_impossible_tau_is_refused_with_the_bound():
    layout = EPLayout(3, 3, 1)
    with pytest.raises(PolicyError, match="lower bound is 40"):
        replica_lower_bound([90, 10, 20], layout, 39)


def test_loads_are_checked():
    with pytest.raises(LoadsError, match="negative"):
        tau_lower_bound([3, -1], EPLayout(2, 2, 1))


def test_zero_loads():
    layout = EPLayout(4, 8, 2)
    assert tau_lower_bound(np.zeros(8, int), layout) == 0
    assert replica_lower_bound(np.zeros(8, int), layout, 0) == 0


def test_totals_at_the_limit():
    layout = EPLayout(64, 256, 2)
    loads = np.zeros(256, np.int64)
    loads[0] = 2**31 - 1
    assert tau_lower_bound(loads, layout) == -(-(2**31 - 1) // 64)
    assert replica_lower_bound(loads, layout, 2**25) == 63
