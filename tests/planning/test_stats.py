"""The flat counts agree with the plans they come from."""

import numpy as np
import pytest
from hypothesis import example, given, settings

import ultraep_sim as us
from ultraep_sim.errors import PlanError
from ultraep_sim.planning import EPLayout, Plan, StatsBuilder

from .strategies import problems


def counts_from_split(plan):
    """Sent and received pairs of every rank, near and far, the slow way."""
    ranks, domain = plan.layout.num_ranks, plan.layout.domain_of
    out = np.zeros((4, ranks), np.int64)
    for s in range(ranks):
        for i, r in enumerate(plan.rank):
            if r != s:
                far = int(domain[r] != domain[s])
                out[2 * far, s] += plan.split[s, i]
                out[2 * far + 1, r] += plan.split[s, i]
    return out


@pytest.mark.parametrize("policy", ["none", "ultraep", "eplb", "eplb_plus", "ideal"])
@given(problem=problems(max_ranks=10))
@example(problem=(EPLayout(10, 1, 1), np.array([[1597]])))  # nine tokens, all to the first instance
@settings(max_examples=40, deadline=None)
def test_counts_agree_with_the_plan(policy, problem):
    layout, loads = problem
    if loads.shape[0] != layout.num_ranks:
        loads = np.repeat(loads, layout.num_ranks, axis=0)
    plan = us.plan(loads, layout, policy=policy)
    builder = StatsBuilder(2, layout, tile_rows=128)
    for _ in range(2):  # the second record must not see the first
        builder.add(plan)
    stats = builder.stats
    near_sent, near_received, far_sent, far_received = counts_from_split(plan)
    # Without locality the one-domain shortcut rounds local shares down instead of exactly. What the
    # floors leave of a source's tokens of an expert is less than one for each of its instances, and
    # all of it may go to the source's own: one token for every instance but the first.
    slack = 0 if plan.locality or layout.num_domains > 1 else len(plan.rank) - layout.num_experts
    for n in range(2):
        assert stats.pairs[n].tolist() == plan.rank_loads.tolist()
        assert np.abs(stats.near_sent[n] - near_sent).max() <= slack
        assert np.abs(stats.near_received[n] - near_received).max() <= slack
        assert stats.near_sent[n].sum() == stats.near_received[n].sum()
        assert stats.far_sent[n].tolist() == far_sent.tolist()
        assert stats.far_received[n].tolist() == far_received.tolist()
        assert stats.copies_sent[n].tolist() == plan.sends_per_rank.tolist()
        assert stats.copies_received[n].tolist() == plan.receives_per_rank.tolist()
        assert stats.relay_sent[n].sum() == plan.num_replicas
        for r in range(layout.num_ranks):
            quota = plan.quota[(plan.rank == r) & (plan.quota > 0)]
            empty = [0] * (layout.instances_per_rank - len(quota))
            assert stats.tiles[n, r].tolist() == [*(-(-quota // 128)).tolist(), *empty]


def test_two_instances_on_a_rank_do_not_use_the_same_tokens():
    """A plan with moved mains may double an expert on a rank: its own tokens stay once."""
    layout = EPLayout(2, 2, 1)
    loads = np.array([[6, 0], [4, 2]])
    plan = Plan(
        layout, loads, np.array([0, 2, 3]), np.array([0, 0, 1], np.int32),
        np.array([-1, 0, -1], np.int32), np.array([5, 5, 2]), moves_mains=True,
    )  # fmt: skip
    plan.validate(loads)
    builder = StatsBuilder(1, layout, 128)
    builder.add(plan)
    assert builder.stats.near_sent[0].tolist() == [0, 4]
    assert builder.stats.near_received[0].tolist() == [4, 0]


def test_a_rank_with_more_instances_than_it_can_hold_is_refused():
    """A policy of somebody else's may not write over its neighbour's tiles."""
    layout = EPLayout(2, 2, 0)
    loads = np.full((2, 2), 9)
    plan = Plan(
        layout, loads, np.array([0, 1, 2]), np.array([0, 0], np.int32),
        np.array([-1, -1], np.int32), np.array([18, 18]), moves_mains=True,
    )  # fmt: skip
    with pytest.raises(PlanError, match="rank computes more instances than mains and slots"):
        StatsBuilder(1, layout, 128).add(plan)
