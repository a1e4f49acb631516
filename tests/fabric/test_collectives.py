from __future__ import annotations

import pytest

from ultraep_sim.fabric.collectives import Wire, between, inside, inside_ring, sync_common
from ultraep_sim.model import get_rack

RACK = get_rack("paper-rack64")


def test_a_ring_of_three_by_hand() -> None:
    """Three ranks with 9 bytes: each sends two of its three shards of 3."""
    assert Wire(rate=2.0, floor_s=0.5).ring(9.0, 3) == pytest.approx(0.5 + 6.0 / 2.0)


def test_nothing_to_send_takes_no_time() -> None:
    wire = Wire(1.0, 0.5)
    assert wire.seconds(0.0) == 0.0
    assert wire.ring(9.0, 1) == 0.0
    assert sync_common(wire, wire, 9.0, 1, 1) == 0.0


def test_common_gradients_go_through_the_group_first() -> None:
    """Inside the group all bytes, between replicas one shard of 64."""
    near, far = Wire(663e9, 14e-6), between(RACK)
    got = sync_common(near, far, 64e9, 64, 4)
    assert got == pytest.approx(near.ring(64e9, 64) + far.ring(1e9, 4))


def test_near_is_faster() -> None:
    for near in (inside(RACK), inside_ring(RACK)):
        assert near.seconds(1e8) < between(RACK).seconds(1e8)
