from __future__ import annotations

import pytest

from ultraep_sim.fabric.collectives import (
    Wire,
    between,
    inside,
    sync_common,
    sync_expert_gradients,
)
from ultraep_sim.model import get_rack

RACK = get_rack("paper-rack64")


def test_a_ring_of_three_by_hand() -> None:
    """Three ranks with 9 bytes: each sends two of its three shards of 3."""
    assert Wire(rate=2.0, floor_s=0.5).ring(9.0, 3) == pytest.approx(0.5 + 6.0 / 2.0)


def test_nothing_to_send_takes_no_time() -> None:
    wire = Wire(1.0, 0.5)
    assert wire.seconds(0.0) == 0.0
    assert wire.ring(9.0, 1) == 0.0
    assert sync_expert_gradients(RACK, 1e9, 1, near=False) == 0.0


def test_common_gradients_go_through_the_group_first() -> None:
    """Inside the group all bytes, between replicas one shard of 64."""
    near, far = Wire(663e9, 14e-6), between(RACK)
    got = sync_common(RACK, 64e9, 64, 4, near_group=True, near=False)
    assert got == pytest.approx(near.ring(64e9, 64) + far.ring(1e9, 4), rel=1e-3)


def test_near_is_faster() -> None:
    assert inside(RACK).seconds(1e8) < between(RACK).seconds(1e8)
    near, far = (sync_expert_gradients(RACK, 1e9, 4, near=n) for n in (True, False))
    assert near < far
