"""Known parameters are found again, within what the fit says it knows."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ultraep_sim.calibrate.fit import Parameter, Rows, bucket, fit
from ultraep_sim.errors import CalibrationError

TRUE = {"floor_us": 12.0, "rate": 300.0}
BOUNDS = [Parameter("floor_us", "us", 5, 1, 100), Parameter("rate", "GB/s", 100, 10, 450)]


def law(values, columns):
    return values["floor_us"] * 1e-6 + columns["bytes"] / (values["rate"] * 1e9)


def rows(seed=0, noise=0.03, count=200, wild=0):
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(np.log(1e4), np.log(1e9), count))
    seconds = law(TRUE, {"bytes": size}) * np.exp(noise * rng.standard_normal(count))
    seconds[:wild] *= 20  # autotuning accidents
    return Rows({"bytes": size}, seconds, tuple(f"row{i}" for i in range(count)), (("f", "ab"),))


@pytest.mark.parametrize("seed", range(5))
def test_known_parameters_lie_within_three_standard_deviations(seed):
    found = fit(law, BOUNDS, rows(seed))
    for name, value in TRUE.items():
        sd = found.relative_sd(name)
        assert 0 < sd < 0.02
        assert abs(np.log(found.values[name] / value)) < 3.5 * sd


def test_stated_uncertainty_covers_repeated_experiments():
    errors = []
    for seed in range(40):
        found = fit(law, BOUNDS, rows(seed))
        errors.append(np.log(found.values["rate"] / TRUE["rate"]) / found.relative_sd("rate"))
    assert 0.6 < np.std(errors) < 1.6


def test_a_few_wild_rows_do_not_move_the_fit():
    found = fit(law, BOUNDS, rows(wild=8))
    assert found.values["rate"] == pytest.approx(TRUE["rate"], rel=0.02)
    assert found.fitted.worst > 0.9


def test_held_out_rows_are_picked_by_their_key_and_do_not_matter_to_the_fit():
    good = rows()
    spoilt = good.seconds.copy()
    unseen = np.array([bucket(key, 4) == 0 for key in good.keys])
    assert 30 < unseen.sum() < 70
    spoilt[unseen] *= 10
    one, other = fit(law, BOUNDS, good), fit(law, BOUNDS, Rows(good.columns, spoilt, good.keys))
    assert one.values == other.values
    assert other.held_out.median > 0.8
    assert one.held_out.rows == unseen.sum()
    assert one.manifest["fitted_sha256"] == other.manifest["fitted_sha256"]
    assert one.manifest["held_out_sha256"] != other.manifest["held_out_sha256"]


def test_order_of_rows_does_not_matter():
    good = rows()
    order = np.random.default_rng(1).permutation(len(good))
    one, other = fit(law, BOUNDS, good), fit(law, BOUNDS, good.take(order))
    assert one.manifest["rows_sha256"] == other.manifest["rows_sha256"]
    assert one.values["rate"] == pytest.approx(other.values["rate"], rel=1e-6)


def test_parameters_that_trade_off_are_reported_as_their_combination():
    def product(values, columns):
        return values["a"] * values["b"] * columns["x"]

    x = np.linspace(1, 2, 60)
    measured = Rows({"x": x}, 6 * x, tuple(map(str, range(60))))
    pair = [Parameter("a", "1", 1, 0.1, 100), Parameter("b", "1", 1, 0.1, 100)]
    noisy = Rows(
        {"x": x}, 6 * x * np.exp(0.01 * np.random.default_rng(0).standard_normal(60)), measured.keys
    )
    found = fit(product, pair, noisy)
    told = [text for text in found.warnings if "trade off" in text]
    assert len(told) == 1
    known = re.search(r"(a x b|b x a)\^(\S+) = (\S+) \+-(\S+)%", told[0])
    assert known is not None
    assert float(known[2]) == pytest.approx(1, abs=0.01)
    assert float(known[3]) == pytest.approx(6, rel=0.01)
    assert float(known[4]) < 1  # neither of the two is known to a factor of two
    assert min(found.relative_sd(name) for name in "ab") > 0.5


def test_a_parameter_at_its_bound_is_named():
    tight = [BOUNDS[0], Parameter("rate", "GB/s", 100, 10, 200)]
    found = fit(law, tight, rows())
    assert found.values["rate"] == pytest.approx(200, rel=1e-3)
    assert any("rate is at its upper bound" in text for text in found.warnings)


def test_cross_validation_sees_every_fitted_row():
    found = fit(law, BOUNDS, rows(), folds=5)
    assert found.cross_validated.rows == found.fitted.rows
    assert 0.01 < found.cross_validated.median < 0.04


def test_bad_input_is_named():
    with pytest.raises(CalibrationError, match="0 < low"):
        Parameter("x", "1", 1, 2, 3)
    with pytest.raises(CalibrationError, match="more rows"):
        fit(law, BOUNDS, rows(count=2), held_out=0)
    with pytest.raises(CalibrationError, match="row3: a measured time is not positive"):
        Rows({"bytes": np.ones(4)}, np.array([1, 1, 1, 0.0]), tuple(f"row{i}" for i in range(4)))
    with pytest.raises(CalibrationError, match="different lengths"):
        Rows({"bytes": np.ones(3)}, np.ones(4), ("a",) * 4)
