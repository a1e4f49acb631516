"""Predicted bands of skewed rows: right where the prediction is right, wrong where it is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ultraep_sim.calibrate.fit import fit
from ultraep_sim.calibrate.silicon import moe
from ultraep_sim.calibrate.skew import (
    DRAWS,
    LawError,
    Skewed,
    balanced_error,
    draw_rows,
    learn_error,
)
from ultraep_sim.compute.kernel_laws import grouped_gemm
from ultraep_sim.errors import CalibrationError
from ultraep_sim.model.hardware import GPUS

from .excerpt_path import EXCERPT


def synthetic(factor=1.2, spread=0.05, rows=400, seed=0):
    """Rows whose measured time is one more draw, times the factor and noise."""
    rng = np.random.default_rng(seed)
    drawn = 0.2 * rng.standard_normal((rows, DRAWS + 1))
    measured = drawn[:, -1] + np.log(factor) + spread * rng.standard_normal(rows)
    return Skewed(tuple(map(str, range(rows))), measured, drawn[:, :-1])


def test_factor_and_spread_of_the_law_are_learnt():
    learnt = learn_error(synthetic(), LawError.normal(1.0, 0.03))
    assert np.exp(learnt.centres) == pytest.approx([1.2], rel=0.03)
    # Beside the draws' own 20 % the spread adds little: what counts is the coverage.
    assert 0.88 < learnt.inside(synthetic(seed=1)).mean() < 0.94


def test_narrow_draws_show_the_spread():
    rng = np.random.default_rng(0)
    flat = Skewed(("r",) * 500, 0.08 * rng.standard_normal(500), np.zeros((500, DRAWS)))
    assert learn_error(flat, LawError.normal(1.0, 0.03)).spread == pytest.approx(0.08, rel=0.1)


def test_a_prediction_that_is_off_is_told_by_positions():
    rows = synthetic()
    right = LawError.normal(1.2, 0.05).positions(rows)
    assert right.mean() == pytest.approx(0.5, abs=0.05)
    assert LawError.normal(1.0, 0.05).positions(rows).mean() > 0.7


@pytest.fixture(scope="module")
def measured():
    table = moe.read_moe(EXCERPT, "h200", "trtllm")
    case = moe.cases(table, "h200", "trtllm")[0]
    rows = moe.balanced_rows(table, case)
    law = moe.parameters(GPUS["h200"], case.precision)
    return table, case, fit(grouped_gemm, law, rows, held_out=4, folds=4)


@pytest.mark.parametrize("distribution", ["power_law_1.01", "power_law_1.2"])
def test_balanced_rows_alone_give_a_band_that_holds_skewed_ones(measured, distribution):
    table, case, found = measured
    rows = draw_rows(table, case, distribution, found)
    error = balanced_error(found)
    assert len(rows.keys) == 189
    assert error.inside(rows).mean() >= 0.85
    # Not because it is merely wide.
    assert 1.1 < np.median(error.widths(rows)) < 1.6
    assert np.median(np.abs(error.medians(rows) / np.exp(rows.log_measured) - 1)) < 0.05


def test_without_the_tactics_the_band_is_too_low(measured, monkeypatch):
    table, case, found = measured
    error = balanced_error(found)
    with_tactics = error.positions(draw_rows(table, case, "power_law_1.2", found))
    monkeypatch.setattr("ultraep_sim.calibrate.skew.work_rows", lambda loads, *_: loads)
    without = error.positions(draw_rows(table, case, "power_law_1.2", found))
    assert (without > 0.95).mean() > 2 * (with_tactics > 0.95).mean()


def test_errors_of_rows_that_no_fit_saw_are_asked_for(measured):
    with pytest.raises(CalibrationError, match="folds"):
        balanced_error(replace(measured[2], log_errors_crossed=np.zeros(0)))


def test_an_empirical_error_keeps_its_tails():
    errors = np.concatenate([np.linspace(-0.01, 0.01, 95), np.full(5, 1.0)])
    flat = Skewed(("r",), np.array([0.5]), np.zeros((1, DRAWS)))
    assert LawError(errors, 0.001).positions(flat) == pytest.approx([0.95])


def test_draws_depend_on_the_row_alone(measured):
    table, case, found = measured
    few = table.mask(table.columns["num_tokens"] == 512)
    all_rows, some = (draw_rows(t, case, "power_law_1.2", found) for t in (table, few))
    at = [all_rows.keys.index(key) for key in some.keys]
    assert (all_rows.log_drawn[at] == some.log_drawn).all()
