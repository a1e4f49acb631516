"""MoonEP: exactly equal rows, on an example worked by hand and on any loads."""

import numpy as np
from hypothesis import given, settings

import ultraep_sim as us
from tests.planning.strategies import problems
from ultraep_sim.planning import EPLayout
from ultraep_sim.policies import get_policy


def test_by_hand():
    """Ranks of two experts hold 60+30 | 50+0 | 10+5 | 5+0: 160 rows, 40 each.

    Surplus 50 | 10 | -25 | -35. Rank 0 fills rank 3 with 35 (15 left over), then rank 2 with 25:
    that is 10 too many, so rank 0 is short of 10 and rank 1 gives them. Experts: rank 0's largest
    is 0 with 60, so rank 3 gets 35 of it (25 left); then expert 1 with 30 is the largest, and rank
    2 gets 25 of that. Rank 1 gives 10 of expert 2.
    """
    plan = us.plan(np.array([60, 30, 50, 0, 10, 5, 5, 0]), EPLayout(4, 8, 2), policy="moonep")
    assert plan.rank_loads.tolist() == [40, 40, 40, 40]
    kept = plan.is_replica
    assert plan.expert[kept].tolist() == [0, 1, 2]
    assert plan.rank[kept].tolist() == [3, 2, 0]
    assert plan.quota[kept].tolist() == [35, 25, 10]


def test_one_hot_spreads_over_everybody():
    loads = np.zeros(16, np.int64)
    loads[5] = 803
    plan = us.plan(loads, EPLayout(8, 16, 0), policy="moonep")
    # 803 = 8 x 100 + 3: the most loaded rank and, of the idle ones, the first two hold 101
    assert sorted(plan.rank_loads.tolist()) == [100] * 5 + [101] * 3
    assert plan.max_fanout == 7


def test_it_takes_the_slots_it_needs():
    assert get_policy("moonep", EPLayout(8, 32, 1)).layout.slots_per_rank == 4
    assert get_policy("moonep", EPLayout(8, 32, 6)).layout.slots_per_rank == 6
    assert get_policy("moonep", EPLayout(3, 5, 0)).layout.slots_per_rank == 2


@given(problems())
@settings(max_examples=150, deadline=None)
def test_rows_are_equal_and_every_rank_is_filled_by_one(problem):
    layout, loads = problem
    plan = us.plan(loads, layout, policy="moonep")
    plan.validate(loads)
    for begin in range(0, layout.num_ranks, layout.domain):
        rows = plan.rank_loads[begin : begin + layout.domain]
        assert rows.max() - rows.min() <= 1
        if rows.sum() % len(rows) == 0:
            assert rows.max() == rows.min()
    for rank in range(layout.num_ranks):
        here = (plan.rank == rank) & plan.is_replica
        givers = set(layout.home[plan.expert[here]].tolist())
        assert len(givers) <= 1
        assert here.sum() <= layout.mains_per_rank.max()
        assert (plan.quota[here] > 0).all()
