"""Draws of a calibrated rack keep what the fit knows about its numbers together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ultraep_sim.calibrate.fit import Parameter, Rows, fit
from ultraep_sim.calibrate.numbers import banded, deviation, number, scaled, spread, together
from ultraep_sim.calibrate.runlog.context import Context
from ultraep_sim.calibrate.runlog.profile import calibrate_log
from ultraep_sim.calibrate.runlog.synthetic import Truth, synthetic_log
from ultraep_sim.model import get_model
from ultraep_sim.model.draws import drawn
from ultraep_sim.model.hardware import get_rack
from ultraep_sim.model.profile_file import read_profile, write_profile

CONTEXT = Context(get_rack("gb200-nvl72"), get_model("qwen3-235b"), 8)
DRAWS = 600


def line(values, columns):
    return values["a"] + columns["x"] * values["b"]


@pytest.fixture(scope="module")
def found():
    """A line known well in its middle, badly at zero."""
    rng = np.random.default_rng(0)
    x = rng.uniform(80, 120, 200)
    seconds = (30 + 1.0 * x) * np.exp(0.03 * rng.standard_normal(200))
    parameters = [
        Parameter("a", "s", 10, 0.1, 1e3),
        Parameter("b", "s", 1, 1e-3, 1e3),
        Parameter("pinned", "1", 1, 1, 1),
    ]
    return fit(line, parameters, Rows({"x": x}, seconds, tuple(map(str, range(200)))))


def draws_of(function):
    out = []
    for draw in range(1, DRAWS + 1):
        with drawn(draw):
            out.append(function())
    return np.array(out)


def test_spreads_give_back_the_covariance(found):
    a, b = spread(found, "a"), spread(found, "b")
    assert deviation(a) == pytest.approx(found.relative_sd("a"))
    assert deviation(b) == pytest.approx(found.relative_sd("b"))
    shared = sum(a[f] * b.get(f, 0) for f in a)
    assert shared == pytest.approx(found.covariance[0, 1])
    assert spread(found, "pinned") == {}
    assert deviation(together(a, scaled(a, -1))) == pytest.approx(0)


def test_the_sum_is_drawn_as_narrow_as_the_fit_knows_it(found):
    a, b = number(found, "a", "s", "rows"), number(found, "b", "s", "rows")
    middle = 100.0

    def time_of(one, two):
        return draws_of(lambda: np.log(float(one) + middle * float(two))).std()

    shares = np.array([a.value, middle * b.value, 0])
    shares /= shares.sum()
    known = np.sqrt(shares @ found.covariance @ shares)
    apart = time_of(replace(a, shared=()), replace(b, shared=()))
    assert time_of(a, b) == pytest.approx(known, rel=0.15)
    assert apart > 5 * known


def test_two_numbers_of_two_fits_are_drawn_apart(found):
    other = fit(line, found.parameters, Rows({"x": np.arange(1.0, 41)}, np.arange(1.0, 41) + 5,
                                             tuple(f"other {i}" for i in range(40))))  # fmt: skip
    one, two = number(found, "b", "s", "rows"), number(other, "b", "s", "rows")
    pairs = draws_of(lambda: (float(one), float(two)))
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.12


def test_a_drawn_number_stays_in_its_range():
    wide = replace(banded(10, {"x": 0.5}, "us", "rows"), high=11)
    values = draws_of(lambda: float(wide))
    assert values.min() >= wide.low
    assert values.max() == 11
    assert abs((values < 10).mean() - 0.5) < 0.06


def test_a_rack_from_a_log_predicts_times_as_narrowly_as_the_log_tells(tmp_path):
    log = synthetic_log(Truth(steps=40), 1, ("experts", "experts_backward"))
    found = calibrate_log(log, CONTEXT)
    fit_ = found.fits["experts"]
    write_profile(tmp_path / "mine.yaml", found.rack, found.notes())
    rack = read_profile(tmp_path / "mine.yaml")
    assert rack == found.rack
    load = float(np.mean(log.load))
    pair = CONTEXT.model.flops_per_pair

    def seconds(gpu):
        return gpu.expert_launch_us.si + load * pair / gpu.rate("expert", "forward", "bf16")

    names = [p.name for p in fit_.parameters]
    shares = np.zeros(len(names))
    shares[names.index("fixed_us")] = fit_.values["fixed_us"] * 1e-6
    shares[names.index("pair_ns")] = fit_.values["pair_ns"] * 1e-9 * load
    shares /= shares.sum()
    known = np.sqrt(shares @ fit_.covariance @ shares)
    assert draws_of(lambda: np.log(seconds(rack.gpu))).std() == pytest.approx(known, rel=0.15)


def test_a_backward_rate_taken_over_moves_with_the_forward_rate():
    found = calibrate_log(synthetic_log(Truth(steps=20), 1, ("experts",)), CONTEXT)
    gpu = found.rack.gpu
    assert gpu.expert_backward_TFLOPs.provenance == "assumed"
    rates = draws_of(lambda: (float(gpu.expert_forward_TFLOPs), float(gpu.expert_backward_TFLOPs)))
    ratio = CONTEXT.rack.gpu.expert_backward_TFLOPs
    assert ratio.low is not None
    slack = np.log(rates[:, 1] / rates[:, 0]).std()
    assert slack == pytest.approx(np.log(ratio.high / ratio.low) / 4, rel=0.12)
    assert np.corrcoef(np.log(rates).T)[0, 1] > 0


def test_a_layer_shared_out_keeps_its_sum_better_than_its_parts():
    found = calibrate_log(synthetic_log(Truth(stragglers=()), 0, ("layer",)), CONTEXT)
    rate, link = (found.numbers[n] for n in ("gpu.expert_forward_TFLOPs", "alltoall_forward_GBps"))
    flops, wire = CONTEXT.model.flops_per_pair * 1e-3, 2 * CONTEXT.wire_bytes("dispatch")

    def parts(one, two):
        return draws_of(lambda: (flops / float(one), wire / float(two)))

    both = parts(rate, link)
    apart = parts(replace(rate, shared=()), replace(link, shared=()))
    assert np.corrcoef(np.log(both).T)[0, 1] < -0.9
    assert np.log(both.sum(axis=1)).std() < 0.6 * np.log(apart.sum(axis=1)).std()
