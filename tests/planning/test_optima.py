"""The committed optima: recomputed in part, never beaten, and how close the bounds come."""

import numpy as np
import pytest

import ultraep_sim as us
from ultraep_sim.planning.bounds import (
    counting_lower_bound,
    replica_lower_bound,
    tau_lower_bound,
)
from ultraep_sim.planning.exact import minimum_max_load, minimum_replicas
from ultraep_sim.policies import available_policies, get_policy

from .optima import read
from .optima.make_optima import CASES, draw

TABLE = read()


def test_the_table_is_what_it_should_be():
    assert len(TABLE) == sum(count for shapes in CASES.values() for *_, count in shapes)
    assert all(case.max_load == case.max_load_bound for case in TABLE), "an optimum is unproven"
    above = sum(case.max_load > 1.01 * case.mean for case in TABLE)
    assert above >= len(TABLE) / 2, "a judge needs cases whose optimum is not the mean"
    proven = sum(case.replicas == case.replicas_bound for case in TABLE)
    assert proven >= 0.95 * len(TABLE)


@pytest.mark.parametrize("case", TABLE[::17], ids=lambda case: case.name)
def test_a_few_are_recomputed(case):
    """A slow machine may prove less within the time limit; it may never contradict the table."""
    best = minimum_max_load(case.loads, case.layout)
    assert best.bound <= case.max_load <= best.value
    fewest = minimum_replicas(case.loads, case.layout, case.tau)
    assert max(fewest.bound, case.replicas_bound) <= min(fewest.value, case.replicas)


def test_the_loads_come_from_their_seeds():
    at = 0
    for kind, shapes in CASES.items():
        for ranks, experts, _, _, count in shapes:
            for seed in range(0, count, 7):
                loads = draw(kind, ranks, experts, seed)
                assert loads.tolist() == TABLE[at + seed].loads.tolist()
            at += count


@pytest.mark.parametrize(
    "name", [n for n, c in available_policies().items() if c.exact and not c.moves_mains]
)
def test_no_policy_beats_a_proven_optimum(name):
    for case in TABLE[::3]:
        policy = get_policy(name, case.layout)
        if policy.layout.slots_per_rank > case.layout.slots_per_rank or policy.may_cross:
            continue  # more slots, or freedom to leave the domain: another problem
        plan = us.plan(case.loads, case.layout, policy=policy)
        loaded = case.loads > 0
        if plan.forced or (plan.quota[plan.offsets[:-1]][loaded] < 1).any():
            continue
        assert plan.rank_loads.max() >= case.max_load
        if plan.rank_loads.max() <= case.tau:
            assert np.count_nonzero(plan.quota[plan.is_replica]) >= case.replicas_bound


def test_bounds_hold_and_how_tight_they_are():
    """Means over the table at the time of writing: tau 0.964, replicas 0.946, counting 0.776."""
    tau = [tau_lower_bound(case.loads, case.layout) / case.max_load for case in TABLE]
    proven = [case for case in TABLE if case.replicas == case.replicas_bound > 0]
    ours, counting = (
        [bound(case.loads, case.layout, case.tau) / case.replicas for case in proven]
        for bound in (replica_lower_bound, counting_lower_bound)
    )
    assert max(tau) <= 1
    assert max(ours) <= 1
    assert np.mean(tau) >= 0.96
    assert np.mean(ours) >= 0.94
    assert np.mean(counting) <= 0.8, "the better bound is worth its code"
