"""Whole experts by send and receive: by hand, in order, one message a port at a time."""

import numpy as np
import pytest
from hypothesis import given, settings

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.bulk import BulkModel, bulk, bulk_plan

from .transfer_cases import assert_one_at_a_time, number, plans

TOY = BulkModel(number(40, "us"), number(1, "GB/s"))
MS = 1e-3


def test_three_ranks_by_hand():
    """0 sends to 1 and 2, then 1 sends to 2: the last waits for both its ends."""
    source, to = np.array([0, 0, 1], np.int32), np.array([1, 2, 2], np.int32)
    got = bulk(source, to, 1e6, 3, TOY)
    np.testing.assert_allclose(got.start, np.array([0.04, 1.04, 2.04]) * MS)
    np.testing.assert_allclose(got.finish, np.array([2.04, 3.04, 3.04]) * MS)


def test_a_busy_partner_blocks_those_behind():
    """Rank 0's second message waits for rank 2, its third for the second, though 3 is idle."""
    source, to = np.array([1, 1, 0, 0], np.int32), np.array([2, 2, 2, 3], np.int32)
    got = bulk(source, to, 1e6, 4, TOY)
    np.testing.assert_allclose(got.start, np.array([0.04, 1.04, 2.04, 3.04]) * MS)


def test_sends_and_receives_are_full_duplex():
    got = bulk(np.array([0, 1], np.int32), np.array([1, 0], np.int32), 1e6, 2, TOY)
    np.testing.assert_allclose(got.finish, [1.04 * MS] * 2)


def test_a_message_within_a_rank_takes_no_time():
    got = bulk(np.array([0, 0], np.int32), np.array([0, 1], np.int32), 1e6, 2, TOY)
    np.testing.assert_allclose(got.end, np.array([0.04, 1.04]) * MS)


@given(plan=plans(max_ranks=16))
@settings(max_examples=50, deadline=None)
def test_every_replica_once_and_ports_serve_one_at_a_time(plan):
    got = bulk_plan(plan, 1e6, TOY)
    ranks = plan.layout.num_ranks
    assert np.bincount(got.source, minlength=ranks).tolist() == plan.sends_per_rank.tolist()
    received = np.bincount(got.destination, minlength=ranks)
    assert received.tolist() == plan.receives_per_rank.tolist()
    assert_one_at_a_time(got.source, got.start, got.end)
    assert_one_at_a_time(got.destination, got.start, got.end)
    busiest = max(plan.sends_per_rank.max(), plan.receives_per_rank.max())
    assert got.seconds >= 40e-6 + busiest * 1e-3 - 1e-12
    assert (got.finish[(plan.sends_per_rank == 0) & (received == 0)] == 0).all()
    faster = bulk_plan(plan, 1e6, BulkModel(TOY.base, number(2, "GB/s")))
    assert faster.seconds < got.seconds
    assert bulk_plan(plan, 1e6, TOY).finish.tobytes() == got.finish.tobytes()


def test_a_rate_of_zero_is_refused():
    with pytest.raises(InputError, match="rate"):
        BulkModel(rate=number(0, "GB/s"))
