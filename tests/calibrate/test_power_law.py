"""Drawn loads of power-law rows."""

from __future__ import annotations

import numpy as np
import pytest

from ultraep_sim.calibrate.power_law import draw_hottest
from ultraep_sim.errors import CalibrationError


@pytest.mark.parametrize("tokens", [1, 2, 16, 17, 4096])
@pytest.mark.parametrize("alpha", [1.01, 1.2])
def test_one_rank_gets_every_pair(tokens, alpha):
    loads = draw_hottest(tokens, 8, 128, 1, alpha, 50, np.random.default_rng(0))
    assert loads.shape == (50, 128)
    assert (loads.sum(axis=1) == 8 * tokens).all()
    assert (loads >= 0).all()


def test_the_hottest_rank_has_at_least_its_share():
    loads = draw_hottest(4096, 8, 128, 16, 1.01, 200, np.random.default_rng(0)).sum(axis=1)
    assert (loads >= 8 * 4096 / 16).all()
    assert 1.5 < loads.mean() / (8 * 4096 / 16) < 3


def test_a_steeper_law_is_more_skewed_than_a_flat_one():
    mean = [
        draw_hottest(4096, 8, 128, 16, alpha, 400, np.random.default_rng(0)).sum(axis=1).mean()
        for alpha in (0.3, 1.01, 1.2)
    ]
    assert mean[0] < mean[1] < mean[2]


def test_weights_follow_the_density():
    """Near an exponent of 1 the logarithms of the weights are uniform."""
    tokens = 1_000_000
    loads = draw_hottest(tokens, 8, 64, 1, 1.0001, 300, np.random.default_rng(0))
    ranked = np.log(loads / loads.max(axis=1, keepdims=True))
    span = np.log(0.8 * tokens)
    assert np.median(ranked) == pytest.approx(-span / 2, rel=0.06)


def test_bad_shapes_are_named():
    rng = np.random.default_rng(0)
    with pytest.raises(CalibrationError, match="do not divide"):
        draw_hottest(16, 8, 128, 3, 1.01, 1, rng)
    with pytest.raises(CalibrationError, match="pole at 1"):
        draw_hottest(16, 8, 128, 4, 1.0, 1, rng)
