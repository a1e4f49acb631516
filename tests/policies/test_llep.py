"""LLEP on examples worked by hand, then what holds for any loads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ultraep_sim as us
from tests.planning.strategies import problems
from ultraep_sim.errors import PolicyError
from ultraep_sim.planning import EPLayout
from ultraep_sim.policies import get_policy


def replicas(plan):
    kept = plan.is_replica
    return list(
        zip(
            plan.expert[kept].tolist(), plan.rank[kept].tolist(), plan.quota[kept].tolist(),
            strict=True,
        )
    )  # fmt: skip


def test_by_hand():
    """Ranks hold 9000 | 2000 | 1000 | 0, capacity 3000; expert 0 has 8000 of rank 0's 9000.

    6000 do not fit at home. Rank 3 takes 3000, rank 2 (room 2000) takes 2000, and the last 1000
    are a chunk below 1024: they stay, though rank 1 has room for 1000.
    """
    loads = np.array([8000, 1000, 2000, 0, 1000, 0, 0, 0])
    plan = us.plan(loads, EPLayout(4, 8, 1), policy="llep")
    assert replicas(plan) == [(0, 3, 3000), (0, 2, 2000)]
    assert plan.rank_loads.tolist() == [4000, 2000, 3000, 3000]
    finer = us.plan(loads, EPLayout(4, 8, 1), policy="llep", min_chunk=1000)
    assert finer.rank_loads.tolist() == [3000] * 4


def test_below_the_threshold_it_does_nothing():
    # max over mean expert load: 1290 / 1000 and 1300 / 1000
    below, at = np.array([1290, 710] * 2), np.array([1300, 700] * 2)
    layout = EPLayout(4, 4, 2)
    assert us.plan(below, layout, policy="llep", min_chunk=1).num_replicas == 0
    assert us.plan(at, layout, policy="llep", min_chunk=1).num_replicas == 2


def test_a_rank_without_room_for_a_chunk_takes_none():
    """7600 | 5200 | 5200, capacity 6000: 1600 do not fit; others have room for 800."""
    loads, layout = np.array([7600, 5200, 5200]), EPLayout(3, 3, 1)
    assert us.plan(loads, layout, policy="llep", threshold=1.0).num_replicas == 0
    finer = us.plan(loads, layout, policy="llep", threshold=1.0, min_chunk=800)
    assert finer.rank_loads.tolist() == [6000, 6000, 6000]


def test_the_rest_of_a_large_expert_stays_without_slots():
    plan = us.plan(np.array([9000, 0, 0]), EPLayout(3, 3, 0), policy="llep")
    assert plan.num_replicas == 0


@given(problems(), st.sampled_from([1, 50, 1024]), st.sampled_from([1.0, 1.25]))
@settings(max_examples=100, deadline=None)
def test_chunks_are_large_and_fit(problem, min_chunk, factor):
    layout, loads = problem
    plan = us.plan(loads, layout, policy="llep", min_chunk=min_chunk, capacity_factor=factor)
    plan.validate(loads)
    before = plan.rank_loads_before
    for begin in range(0, layout.num_ranks, layout.domain):
        part = slice(begin, begin + layout.domain)
        capacity = -(-before[part].sum() * round(factor * 100) // (100 * len(before[part])))
        grown = plan.rank_loads[part] > before[part]
        assert (plan.rank_loads[part][grown] <= capacity).all()
        shrunk = plan.rank_loads[part] < before[part]
        assert (plan.rank_loads[part][shrunk] >= capacity).all()
    assert (plan.quota[plan.is_replica] >= min_chunk).all()


@pytest.mark.parametrize(
    "options", [{"threshold": 0.9}, {"capacity_factor": float("nan")}, {"min_chunk": 0}]
)
def test_bad_options(options):
    with pytest.raises(PolicyError, match=next(iter(options))):
        get_policy("llep", EPLayout(2, 4, 1), **options)
