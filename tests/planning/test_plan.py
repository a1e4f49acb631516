"""Plans check themselves: every broken invariant is caught and named."""

import json
from dataclasses import replace

import numpy as np
import pytest

import ultraep_sim as us
from ultraep_sim.errors import PlanError
from ultraep_sim.planning import EPLayout


@pytest.fixture
def plan():
    loads = np.zeros((4, 8), np.int64)
    loads[:, 0] = [100, 60, 40, 20]
    loads[:, 3:] = 10
    return us.plan(loads, EPLayout(4, 8, 2, domain_size=4), target=1.0)


def test_a_good_plan_passes(plan):
    plan.validate(plan.loads)
    assert plan.num_replicas >= 1


def with_changed(plan, name, index, value):
    array = getattr(plan, name).copy()
    array[index] = value
    return replace(plan, **{name: array})


def test_lost_tokens_are_found(plan):
    with pytest.raises(PlanError, match="invariant 1: quotas of expert 0"):
        with_changed(plan, "quota", 0, plan.quota[0] - 1).validate()


def test_negative_quota_is_found(plan):
    with pytest.raises(PlanError, match="invariant 1: negative quota"):
        with_changed(plan, "quota", 0, -1).validate()


def test_other_loads_are_found(plan):
    with pytest.raises(PlanError, match="invariant 1: the plan was made for other loads"):
        plan.validate(plan.loads + 1)


def test_a_moved_main_is_found(plan):
    with pytest.raises(PlanError, match="invariant 2: a main left its home"):
        with_changed(plan, "rank", plan.offsets[7], 0).validate()


def test_a_doubled_expert_is_found(plan):
    first_replica = int(np.flatnonzero(plan.is_replica)[0])
    with pytest.raises(PlanError, match="two instances on one rank"):
        with_changed(plan, "rank", first_replica, plan.rank[0]).validate()


def test_a_slot_too_many_is_found(plan):
    first_replica = int(np.flatnonzero(plan.is_replica)[0])
    with pytest.raises(PlanError, match="more replicas on a rank than slots"):
        with_changed(plan, "slot", first_replica, 2).validate()


def test_a_crossing_replica_is_found(plan):
    layout = EPLayout(4, 8, 2, domain_size=1)
    with pytest.raises(PlanError, match="left the scale-up domain"):
        replace(plan, layout=layout).validate()
    replace(plan, layout=layout, may_cross=True).validate()


def test_counts_follow_from_the_instances(plan):
    assert plan.sends_per_rank.sum() == plan.receives_per_rank.sum() == plan.num_replicas
    assert plan.rank_loads.sum() == plan.loads.sum()
    assert plan.max_fanout == plan.fanout.max()
    assert plan.imbalance <= plan.imbalance_before


def test_json_is_plain_and_complete(plan):
    values = json.loads(json.dumps(plan.to_json()))
    assert sum(values["quota"]) == plan.loads.sum()
    assert values["rank_loads"] == plan.rank_loads.tolist()


def test_remote_fraction_counts_what_leaves_its_rank():
    layout = EPLayout(2, 2, 0)
    assert us.plan(np.array([[5, 0], [0, 5]]), layout).remote_fraction == 0.0
    assert us.plan(np.array([[0, 5], [5, 0]]), layout).remote_fraction == 1.0
    assert us.plan(np.array([10, 10]), layout).remote_fraction == 0.5  # source unknown: even
    assert us.plan(np.array([0, 0]), layout).remote_fraction == 0.0


def test_an_expert_without_an_instance_is_found(plan):
    offsets = plan.offsets.copy()
    offsets[-1] = offsets[-2]
    with pytest.raises(PlanError, match="no instance"):
        replace(plan, offsets=offsets).validate()
