"""Rates of a hot expert's tactic: between the bounds that balanced rows set."""

from __future__ import annotations

import numpy as np
import pytest

from ultraep_sim.calibrate.tactic import LEAST_TILE_ROWS, ridge_rows, work_rows

RIDGE = 400.0
LOADS = np.tile([0, 10, 32, 1000], (2000, 1))


def drawn(mean_load=32.0):
    return work_rows(LOADS, mean_load, RIDGE, np.random.default_rng(0))


def test_balanced_loads_cost_their_rows():
    assert (drawn()[:, :3] == LOADS[:, :3]).all()


def test_a_hot_expert_is_no_faster_than_the_law_and_no_slower_than_a_mean_load():
    hot = drawn()[:, 3]
    # At worst every 32 rows take as long as the weights, which is as long as RIDGE rows.
    assert 1000 <= hot.min() < 1010
    assert hot.max() == pytest.approx(32 + 968 * RIDGE / 32, rel=0.01)
    assert np.median(hot) == pytest.approx(32 + 968 * np.sqrt(RIDGE / 32), rel=0.1)


def test_mean_loads_beyond_the_ridge_leave_nothing_to_draw():
    assert (work_rows(LOADS, 500.0, RIDGE, np.random.default_rng(0)) == LOADS).all()


def test_no_tile_is_smaller_than_an_instruction():
    hot = drawn(mean_load=0.1)[:, 3]
    assert hot.max() <= LEAST_TILE_ROWS + 992 * RIDGE / LEAST_TILE_ROWS


def test_at_the_ridge_arithmetic_takes_as_long_as_weights():
    rows = ridge_rows({"hbm_TBps": 4.0, "rate_TFLOPs": 800.0}, 4e6, 4e6)
    assert rows == pytest.approx(200)
    assert rows * 4e6 / 800e12 == pytest.approx(4e6 / 4e12)
