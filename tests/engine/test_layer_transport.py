"""Weights that were sent ahead, and weights that travel as a broadcast, on hand-worked layers."""

from dataclasses import replace

import numpy as np
import pytest

from ultraep_sim.engine.layer import attention_seconds

from .counts import make_stats
from .test_layer import COPY, GRADIENT, HOT, OPTIONS, RACK, ROW, SHAPE, STREAM, attention, run

AHEAD = replace(STREAM, prefetched=True)
SLOW = RACK.with_overrides({"stream_GBps": 20})  # 8 us and 2 x 1228.8 us for rank 0's two copies
RESTORE = 8e-6 + 2 * COPY / 20e9
REDUCE = 2 * GRADIENT / 10e9  # 9.8 ms
# Rank 0 takes 12 tiles and 1500 pairs, and receives 1200: it is the slowest in each phase.
TILE = 128 * 6 * 4096 * 1000
FORWARD = 2 * (10e-6 + 1200 * ROW / 100e9) + 5e-6 + 12 * TILE / 100e12 + 1500e-9
BACKWARD = 2 * (10e-6 + 1200 * ROW / 50e9) + 2 * (5e-6 + 1500e-9 + 12 * TILE / 50e12)


def test_sent_ahead_costs_nothing_where_the_layer_below_is_longer() -> None:
    ahead, exposed = run(price=AHEAD), run()
    distribute = 8e-6 + 2 * COPY / 200e9
    assert distribute < FORWARD
    assert ahead.critical["fwd_distribute"] == ahead.critical["bwd_distribute"] == 0
    # Reroute has lost what it hid behind; exchange, split and launch stay.
    assert ahead.critical["fwd_reroute"] == pytest.approx(20e-6)
    assert ahead.critical["fwd_plan"] == pytest.approx(105e-6)
    assert exposed.forward_s - ahead.forward_s == pytest.approx(distribute - 20e-6)
    assert exposed.backward_s - ahead.backward_s == pytest.approx(distribute)
    np.testing.assert_array_equal(ahead.phases["fwd_distribute"], exposed.phases["fwd_distribute"])


def test_what_sticks_out_of_the_layer_below_is_exposed() -> None:
    got = run(price=AHEAD, rack=SLOW).critical
    late = RESTORE - (attention() + FORWARD)
    assert late > 20e-6
    assert got["fwd_distribute"] == pytest.approx(late)
    assert got["fwd_reroute"] == 0


def test_restore_sent_ahead_leaves_gradient_reduction_its_window() -> None:
    """Reduction takes all of attention backward: only the rest of the backward hides."""
    got = run(price=AHEAD, rack=SLOW).critical
    assert attention("backward") < REDUCE
    assert RESTORE > BACKWARD
    assert got["bwd_distribute"] == pytest.approx(RESTORE - BACKWARD)
    assert got["bwd_grad_reduce"] == pytest.approx(REDUCE - attention("backward"))


def test_restore_sent_ahead_uses_what_reduction_leaves_of_attention() -> None:
    slower = RACK.with_overrides({"stream_GBps": 20, "stream_base_us": 40_000})
    options = replace(OPTIONS, tokens_per_rank=65_536, restore="overlapped")
    window = attention_seconds(SHAPE, slower, options, "backward")
    assert window > REDUCE
    got = run(price=AHEAD, rack=slower, options=options).critical
    restore = 40e-3 + 2 * COPY / 20e9
    assert got["bwd_distribute"] == pytest.approx(restore - BACKWARD - (window - REDUCE))
    assert got["bwd_grad_reduce"] == 0


def test_recompute_hides_a_restore_that_was_sent_ahead() -> None:
    got = run(price=AHEAD, rack=SLOW, options=replace(OPTIONS, recompute="full")).critical
    late = RESTORE - BACKWARD - (attention() + FORWARD)
    assert got["bwd_distribute"] == pytest.approx(max(late, 0.0))
    assert got["bwd_distribute"] < run(price=AHEAD, rack=SLOW).critical["bwd_distribute"]


def test_broadcast_carries_one_copy_and_one_gradient_a_port() -> None:
    """One expert of rank 0 on all of 40 ranks, then a second one, of rank 1."""
    one = {"copies_sent": [39] + [0] * 39, "copies_received": [0] + [1] * 39}
    two = {"copies_sent": [39, 39] + [0] * 38, "copies_received": [1, 1] + [2] * 38}
    common = {"pairs": [10] * 40, "tiles": [1] * 40}
    price = replace(STREAM, transport="broadcast")
    for counts, copies in ((one, 1), (two, 2)):
        got = run(stats=make_stats(**common, **counts), price=price)
        weights = 8e-6 + copies * COPY / 200e9
        assert got.critical["fwd_distribute"] == pytest.approx(weights)
        assert got.critical["bwd_distribute"] == pytest.approx(weights)  # restored the same way
        reduce = copies * GRADIENT / 200e9
        assert got.phases["bwd_grad_reduce"].max() == pytest.approx(reduce)
        exposed = max(reduce - attention("backward"), 0.0)
        assert got.critical["bwd_grad_reduce"] == pytest.approx(exposed)
    streamed = run(stats=make_stats(**common, **one), price=STREAM)
    assert streamed.critical["fwd_distribute"] == pytest.approx(8e-6 + 39 * COPY / 200e9)
    assert streamed.phases["bwd_grad_reduce"].max() == pytest.approx(39 * GRADIENT / 10e9)


def test_broadcast_ignores_the_relay() -> None:
    price = replace(STREAM, transport="broadcast", relay=True)
    relayed = replace(HOT, relayed=np.array([True]), relay_sent=HOT.copies_sent * 7)
    np.testing.assert_array_equal(run(stats=relayed, price=price).layer_s, run(price=price).layer_s)
