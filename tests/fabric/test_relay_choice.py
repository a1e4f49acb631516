"""Relay by rule or by gain: gain is never slower than either way, and says so in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.relay_choice import candidate_tree, choose_tiles, distribute_gain
from ultraep_sim.fabric.streaming import distribute
from ultraep_sim.fabric.tile_stream import StreamModel
from ultraep_sim.model import get_rack
from ultraep_sim.planning import relay_tree

from .transfer_cases import number, plans, toy_stream, wide_plan

PAPER = get_rack("paper-rack64")
COPY = 36 * 2**20


@given(plan=plans(max_ranks=16))
@settings(max_examples=60, deadline=None)
def test_candidate_is_the_rules_tree_where_the_rule_relays(plan):
    ranks = plan.layout.num_ranks
    parent, sent = candidate_tree(plan.offsets, plan.rank, ranks)
    replica = plan.is_replica
    assert sent.tolist() == np.bincount(parent[replica], minlength=ranks).tolist()
    ruled, relayed = relay_tree(plan.offsets, plan.rank, ranks, ranks)
    if relayed:
        assert parent.tolist() == ruled.tolist()
    far, _ = candidate_tree(plan.offsets, plan.rank, ranks, min_fanout=1000)
    assert far[replica].tolist() == plan.rank[plan.offsets[plan.expert]][replica].tolist()


@given(plan=plans(max_ranks=16))
@settings(max_examples=25, deadline=None)
def test_gain_is_never_slower_than_direct_or_rule(plan):
    model = toy_stream(link=number(10, "GB/s"))
    seconds = {
        decide: choose_tiles(plan, 200_000, model, decide=decide)[1].seconds
        for decide in ("off", "rule", "gain")
    }
    assert seconds["gain"] <= min(seconds["off"], seconds["rule"])


def test_gain_weighs_the_launch_of_a_relay():
    plan = wide_plan()
    cheap, dear = StreamModel.of(PAPER), toy_stream(relay=number(10, "ms"))
    assert choose_tiles(plan, 4_000_000, cheap, decide="gain")[0].relayed
    assert not choose_tiles(plan, 200_000, dear, decide="gain")[0].relayed
    assert choose_tiles(plan, 200_000, dear, decide="rule")[0].relayed  # the rule does not look


def test_gain_in_closed_form_by_hand():
    """Record 0: 10 copies or 3 and 15 us; record 1: 4 or 3.9, no; record 2 has no tree."""
    sent = np.array([[10, 0, 0], [4, 0, 0], [2, 0, 0]])
    tree = np.array([[3, 3, 0], [4, 1, 0], [2, 0, 0]])
    received = np.array([[0, 1, 1], [0, 1, 1], [0, 1, 1]])
    seconds, relayed = distribute_gain(PAPER, sent, received, tree, COPY)
    assert relayed.tolist() == [True, False, False]
    one = 51.5e-6
    np.testing.assert_allclose(
        seconds.max(axis=1), [23e-6 + 3 * one, 8e-6 + 4 * one, 8e-6 + 2 * one]
    )
    small, kept = distribute_gain(PAPER, sent, received, tree, COPY / 100)
    assert not kept.any()  # 7 copies of 0.36 MiB take less than the relay's launch
    np.testing.assert_array_equal(small, distribute(PAPER, sent, received, COPY / 100))


def test_gain_in_closed_form_knows_far_copies():
    sent, tree = np.array([[6, 0, 0]]), np.array([[2, 2, 2]])
    received = np.array([[0, 2, 2]])
    far = (np.array([[6, 0, 0]]), np.array([[0, 2, 2]]))
    near = (np.zeros_like(sent), np.zeros_like(sent))
    slow, relayed = distribute_gain(PAPER, sent, received, tree, COPY, far, far)
    assert not relayed[0]  # the tree saves nothing on the NIC, and costs a launch
    fast, relayed = distribute_gain(PAPER, sent, received, tree, COPY, far, near)
    assert relayed[0]
    assert fast.max() < slow.max()


def test_another_choice_is_refused():
    with pytest.raises(InputError, match="decide"):
        choose_tiles(wide_plan(), COPY, toy_stream(), decide="maybe")  # type: ignore[arg-type]
