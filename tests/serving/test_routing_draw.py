"""The kernels that draw loads: exact sums, bounds, means and variances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.batches import full_batch, make_routing
from ultraep_sim.serving.routing import Segments
from ultraep_sim.serving.routing_draw import draw_expected, draw_tokens
from ultraep_sim.trace.synth_profile import inclusion_probabilities

KERNELS = [draw_expected, draw_tokens]


@st.composite
def steps(draw):
    """Bank, segments and sizes of a small step, extreme popularity and idle ranks included."""
    experts = draw(st.integers(2, 40))
    top_k = draw(st.integers(1, experts))
    ranks = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    wide = draw(st.sampled_from([0.0, 1.0, 5.0, 40.0]))
    weights = wide * rng.standard_normal((2, 6, experts))
    bank = inclusion_probabilities(weights, top_k).astype(np.float32)
    size = draw(st.integers(0, 12))
    longest = draw(st.sampled_from([1, 3, 50, 5000]))
    return (
        bank,
        rng.integers(0, 6, (2, size)),
        rng.integers(0, ranks, size),
        rng.integers(0, longest + 1, size),
        top_k,
        ranks,
    )


@pytest.mark.parametrize("kernel", KERNELS)
@given(step=steps(), number=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_sums_are_exact_and_no_token_takes_an_expert_twice(kernel, step, number):
    bank, row, rank, count, top_k, ranks = step
    out = np.zeros((2, ranks, bank.shape[2]), np.int64)
    kernel(bank, np.array([0, 9]), row, rank, count, np.uint64(77), number, top_k, out)
    tokens = np.bincount(rank, count, ranks).astype(np.int64)
    assert (out.sum(axis=2) == tokens * top_k).all()
    assert (out >= 0).all()
    assert (out <= tokens[:, None]).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_experts_of_every_token_and_of_none(kernel):
    chance = np.array([1.0, 0.0, 0.5, 0.5], np.float32)
    out = np.zeros((1, 1, 4), np.int64)
    one = np.zeros(1, np.int64)
    kernel(chance[None, None], one, one[None], one, one + 1000, np.uint64(1), 0, 2, out)
    assert out[0, 0, :2].tolist() == [1000, 0]
    assert 400 < out[0, 0, 2] < 600


@pytest.mark.parametrize("draw", ["expected", "tokens"])
def test_loads_are_unbiased_by_source(draw):
    routing = make_routing(layers=[0], ranks=8, draw=draw, imbalance=1.5)
    batch = full_batch(np.random.default_rng(0), ranks=8, tokens=512, mean=200)
    wanted = routing.expected(batch)[0]
    steps = 1500
    found = np.mean([routing.loads(0, i, batch) for i in range(steps)], axis=0)
    # A cell's variance is at most its expectation (and 1/4 for rounding).
    score = (found - wanted) / np.sqrt((wanted + 0.25) / steps)
    assert np.abs(score).max() < 5.0
    total = (found - wanted).sum(axis=0) / np.sqrt(wanted.sum(axis=0) / steps)
    assert np.abs(total).max() < 4.5


def test_totals_vary_as_those_of_tokens_do():
    batch = full_batch(np.random.default_rng(0), ranks=8, tokens=512, mean=200)
    spread = {}
    for draw in ("expected", "tokens"):
        routing = make_routing(layers=[0], ranks=8, draw=draw, imbalance=1.5)
        totals = [routing.loads(0, i, batch).sum(axis=0) for i in range(1500)]
        spread[draw] = np.var(totals, axis=0)
    chance = routing.bank[0, routing._rows(batch)[0]].astype(float)
    law = (batch.count[:, None] * chance * (1 - chance)).sum(axis=0)
    popular = law > 20  # rounding to integers adds up to 1/4
    for found in spread.values():
        ratio = found[popular] / law[popular]
        assert ratio.mean() == pytest.approx(1.0, abs=0.03)
        assert np.abs(ratio - 1).max() < 0.25  # of 1500 draws: standard deviation 0.037


def test_expected_split_follows_the_requests_of_a_source():
    routing = make_routing(3.0, sequence_noise=1.0)
    batch = full_batch(np.random.default_rng(0))
    wanted = routing.expected(batch)
    off = routing.loads_all(0, batch) - wanted
    # What rounding and the totals' noise leave is far below the tokens' own noise.
    assert np.sqrt((off**2).mean()) < 0.3 * np.sqrt(wanted.mean())


def test_an_empty_step_has_no_loads():
    nobody = np.zeros(0, np.int64)
    for draw in ("expected", "tokens"):
        routing = make_routing(layers=[0], draw=draw)
        assert not routing.loads_all(0, Segments(*[nobody] * 4)).any()
