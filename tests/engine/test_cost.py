"""The cost model is the layer's own laws, made linear."""

from dataclasses import replace
from typing import Any

import pytest

from ultraep_sim.engine.cost import cost_model
from ultraep_sim.engine.layer import layer_times
from ultraep_sim.policies import CostModel

from .counts import make_price, make_stats
from .test_layer import COPY, GRADIENT, OPTIONS, RACK, ROW, SHAPE, STREAM, attention

# 512 tokens x top-2: 1024 pairs a rank, 8 full tiles.
LOAD = OPTIONS.tokens_per_rank * SHAPE.top_k
TILE = 128 * 6 * 4096 * 1000
PREFILL = replace(OPTIONS, phase="prefill")
RELAY = replace(STREAM, relay=True)


def model(price: Any = STREAM, options: Any = OPTIONS, **overrides: float) -> CostModel:
    return cost_model(SHAPE, RACK.with_overrides(overrides), price, options)


def test_prefill_by_hand() -> None:
    got = model(RELAY, options=PREFILL)
    assert got.pair_s == pytest.approx(8 * TILE / 100e12 / LOAD + 1e-9)
    assert got.wire_s == pytest.approx(2 * ROW / 100e9)
    assert got.copy_s == pytest.approx(COPY / 200e9)
    assert got.copy_base_s == pytest.approx(8e-6)  # the floor; the decision is paid either way
    assert got.relay_s == pytest.approx(15e-6)
    assert got.gradient_s == got.gradient_window_s == 0
    assert got.exposed_gradient(99) == 0


def test_training_adds_the_backward() -> None:
    got, forward = model(RELAY), model(RELAY, options=PREFILL)
    assert got.pair_s - forward.pair_s == pytest.approx(2 * (8 * TILE / 50e12 / LOAD + 1e-9))
    assert got.wire_s - forward.wire_s == pytest.approx(2 * ROW / 50e9)
    assert got.copy_s == pytest.approx(2 * forward.copy_s)  # and restored
    assert got.copy_base_s - forward.copy_base_s == pytest.approx(8e-6)
    assert got.relay_s == pytest.approx(30e-6)
    assert got.gradient_s == pytest.approx(GRADIENT / 10e9)
    assert got.gradient_window_s == pytest.approx(attention("backward"))
    hidden = model(options=replace(OPTIONS, restore="overlapped"))
    assert hidden.copy_s == pytest.approx(forward.copy_s)


def test_gradients_of_a_broadcast_go_at_the_rate_of_the_link() -> None:
    got = model(make_price(transport="broadcast"))
    assert got.gradient_s == pytest.approx(GRADIENT / 200e9)
    assert got.copy_s == pytest.approx(2 * COPY / 200e9)


def test_an_sm_budget_changes_the_gradient_alone() -> None:
    budget = int(RACK.grad_reduce_sms.si) // 2
    half = model(options=replace(OPTIONS, grad_reduce_sms=budget))
    assert half.gradient_s == pytest.approx(GRADIENT / RACK.grad_reduce_rate(budget))
    assert half.gradient_s > model().gradient_s
    assert replace(half, gradient_s=0.0) == replace(model(), gradient_s=0.0)


@pytest.mark.parametrize("options", [OPTIONS, PREFILL])
@pytest.mark.parametrize("transport", ["stream", "broadcast"])
def test_slopes_are_the_differences_a_layer_shows(options: Any, transport: Any) -> None:
    """From 8 to 16 full tiles, from 1024 to 2048 pairs on the wire, from one copy to two."""
    price = replace(STREAM, transport=transport)
    cost = cost_model(SHAPE, RACK, price, options)

    def layer(pairs: int = LOAD, wire: int = LOAD, copies: int = 1) -> Any:
        counts = make_stats(
            pairs=[pairs], tiles=[pairs // 128],
            near_sent=[wire], near_received=[wire],
            copies_sent=[copies], copies_received=[copies],
        )  # fmt: skip
        return layer_times(SHAPE, RACK, counts, price, options)

    once = layer()
    assert layer(pairs=2 * LOAD).layer_s - once.layer_s == pytest.approx(LOAD * cost.pair_s)
    assert layer(wire=2 * LOAD).layer_s - once.layer_s == pytest.approx(LOAD * cost.wire_s)
    gradients = cost.exposed_gradient(2) - cost.exposed_gradient(1)
    assert layer(copies=2).layer_s - once.layer_s == pytest.approx(cost.copy_s + gradients)
    decided = price.exchange.si + price.solve.si + price.tasks.si
    overhead = decided + cost.copy_base_s + cost.copy_s + cost.exposed_gradient(1)
    assert once.exposed_overhead_s == pytest.approx(overhead)


def test_only_what_sticks_out_of_the_window_counts() -> None:
    cost = CostModel(0, 0, 0, 0, 0, gradient_s=3.0, gradient_window_s=10.0)
    assert [cost.exposed_gradient(n) for n in (0, 3, 4, 10)] == [0, 0, 2, 20]


@pytest.mark.parametrize(
    ("price", "options"),
    [
        (RELAY, replace(OPTIONS, relay="off")),
        (STREAM, OPTIONS),
        (replace(RELAY, transport="broadcast"), OPTIONS),
    ],
)
def test_a_relay_that_is_ruled_out_is_never_worth_it(price: Any, options: Any) -> None:
    assert cost_model(SHAPE, RACK, price, options).relay_s == float("inf")
    assert cost_model(SHAPE, RACK, RELAY, OPTIONS).relay_s == pytest.approx(30e-6)
