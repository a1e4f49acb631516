"""Monotonicity: more bandwidth is never slower, more load never faster (closed-form path)."""

from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.engine.layer import LayerOptions, layer_times
from ultraep_sim.model import RackProfile, get_model, get_rack
from ultraep_sim.planning.stats import LoadStats

from .counts import PER_RANK, make_price, make_stats

SHAPE = get_model("glm-4.5-air-106b")
RACK = get_rack("paper-rack64")
#: Everything that gets faster when the number grows.
RATES = [
    name
    for name in RACK.quantities()
    if name.endswith(("GBps", "Gbps", "TBps", "TFLOPs", "speedup"))
]
#: Everything that gets slower when the number grows.
DELAYS = [name for name in RACK.quantities() if name.endswith(("_us", "_ns"))]


@st.composite
def stats(draw: Any) -> LoadStats:
    ranks = draw(st.integers(1, 4))
    counts = {}
    for name in PER_RANK:
        top = 8 if "copies" in name or name == "relay_sent" else 30_000
        counts[name] = draw(st.lists(st.integers(0, top), min_size=ranks, max_size=ranks))
    counts["tiles"] = [[_tiles(draw, p) for p in counts["pairs"]]]
    return make_stats(**counts, relayed=draw(st.booleans()))


def _tiles(draw: Any, pairs: int) -> list[int]:
    """Split the pairs of a rank over three instances."""
    ends = sorted(draw(st.integers(0, pairs)) for _ in range(2))
    return [-(-(b - a) // 128) for a, b in pairwise([0, *ends, pairs])]


prices = st.builds(
    make_price,
    exchange=st.integers(0, 20),
    solve=st.integers(0, 200),
    tasks=st.integers(0, 50),
    reroute=st.integers(0, 500),
    transport=st.sampled_from(["none", "stream", "broadcast", "migrate", "free"]),
    relay=st.booleans(),
    hidden=st.booleans(),
    prefetched=st.booleans(),
)
options = st.builds(
    LayerOptions,
    tokens_per_rank=st.sampled_from([16, 512, 8192]),
    phase=st.sampled_from(["training", "prefill"]),
    weight_dtype=st.sampled_from(["bf16", "fp8", "fp4"]),
    dispatch_dtype=st.sampled_from(["bf16", "fp8"]),
    recompute=st.sampled_from(["none", "full"]),
    overlap=st.sampled_from(["none", "shared_expert"]),
    restore=st.sampled_from(["exposed", "overlapped"]),
)


def seconds(rack: RackProfile, counts: LoadStats, price: Any, opts: LayerOptions) -> float:
    return float(layer_times(SHAPE, rack, counts, price, opts).layer_s[0])


def scaled(name: str, factor: float) -> RackProfile:
    return RACK.with_overrides({name: RACK.quantities()[name].value * factor})


@pytest.mark.parametrize("name", RATES)
@settings(max_examples=15, deadline=None)
@given(counts=stats(), price=prices, opts=options, factor=st.floats(0.1, 10))
def test_a_faster_part_never_lengthens_a_layer(
    name: str, counts: LoadStats, price: Any, opts: LayerOptions, factor: float
) -> None:
    slow, fast = sorted((1.0, factor))
    times = [seconds(scaled(name, f), counts, price, opts) for f in (slow, fast)]
    assert times[1] <= times[0] * (1 + 1e-12)


@pytest.mark.parametrize("name", DELAYS)
@settings(max_examples=15, deadline=None)
@given(counts=stats(), price=prices, opts=options, extra=st.floats(0, 1000))
def test_a_longer_delay_never_shortens_a_layer(
    name: str, counts: LoadStats, price: Any, opts: LayerOptions, extra: float
) -> None:
    before = seconds(RACK, counts, price, opts)
    slower = RACK.with_overrides({name: RACK.quantities()[name].value + extra})
    assert seconds(slower, counts, price, opts) >= before * (1 - 1e-12)


@pytest.mark.parametrize("name", PER_RANK)
@settings(max_examples=25, deadline=None)
@given(
    counts=stats(), price=prices, opts=options, rank=st.integers(0, 3), extra=st.integers(1, 9999)
)
def test_more_load_is_never_faster(
    name: str, counts: LoadStats, price: Any, opts: LayerOptions, rank: int, extra: int
) -> None:
    more = getattr(counts, name).copy()
    more[0, rank % more.shape[1]] += extra
    before = seconds(RACK, counts, price, opts)
    assert seconds(RACK, replace(counts, **{name: more}), price, opts) >= before * (1 - 1e-12)


@settings(max_examples=50, deadline=None)
@given(counts=stats(), price=prices, opts=options)
def test_the_parts_add_up_and_nothing_is_negative(
    counts: LoadStats, price: Any, opts: LayerOptions
) -> None:
    times = layer_times(SHAPE, RACK, counts, price, opts)
    total = sum(times.critical.values())
    np.testing.assert_allclose(times.layer_s, total, rtol=1e-12)
    np.testing.assert_allclose(times.layer_s, times.forward_s + times.backward_s, rtol=1e-12)
    assert times.exposed_overhead_s <= times.layer_s
    for name, busy in times.phases.items():
        assert busy.shape == counts.pairs.shape
        assert busy.dtype == np.float64
        assert (busy >= 0).all()
        assert (times.critical[name] >= 0).all()


@settings(max_examples=30, deadline=None)
@given(counts=stats(), price=prices, opts=options)
def test_renaming_ranks_changes_nothing(counts: LoadStats, price: Any, opts: LayerOptions) -> None:
    turned = {
        f.name: np.flip(getattr(counts, f.name), axis=1)
        for f in fields(counts)
        if f.name in PER_RANK
    }
    assert seconds(RACK, replace(counts, **turned), price, opts) == seconds(
        RACK, counts, price, opts
    )
