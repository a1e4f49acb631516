"""Known parameters of a synthetic run are found again within what is stated about them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ultraep_sim.calibrate.runlog.context import Context
from ultraep_sim.calibrate.runlog.profile import calibrate_log
from ultraep_sim.calibrate.runlog.synthetic import Truth, synthetic_log
from ultraep_sim.errors import CalibrationError
from ultraep_sim.model import get_model
from ultraep_sim.model.hardware import get_rack
from ultraep_sim.model.profile_file import read_profile, write_profile

SMALL = Truth(ranks=4, steps=50, layers=1, stragglers=((2, 1.12),))
CONTEXT = Context(get_rack("gb200-nvl72"), get_model("qwen3-235b"), 8)
SEEDS = 50


def known(truth, found):
    """Parameters that the fits of a log should find, by fit and name."""
    median = next(p.name for p in found["experts"].parameters if p.low == p.high)
    middle = truth.factor(int(median.rsplit("_", 1)[1]))
    out = {
        ("experts", "fixed_us"): truth.launch_us * middle,
        ("experts", "pair_ns"): truth.compute_ns * middle,
        ("layer", "fixed_us"): truth.fixed_us,
        ("layer", "exposed_ns"): truth.exposed_ns,
    }
    for rank in range(truth.ranks):
        if f"factor_rank_{rank}" != median:
            out["experts", f"factor_rank_{rank}"] = truth.factor(rank) / middle
    return out


def test_stated_ranges_cover_the_truth_and_clean_logs_raise_no_alarm():
    inside: dict[str, list[bool]] = {}
    alarms = []
    for seed in range(SEEDS):
        found = calibrate_log(synthetic_log(SMALL, seed, ("experts", "layer")), None)
        alarms += found.findings
        for (kind, name), value in known(SMALL, found.fits).items():
            low, high = found.fits[kind].interval(name)
            both = name if name[:6] != "factor" else "factor"
            inside.setdefault(f"{kind} {both}", []).append(low <= value <= high)
    covered = {name: np.mean(hits) for name, hits in inside.items()}
    # 45 of 50 is what a true 95 % falls short of once in 26; fewer is a wrong band.
    assert min(covered.values()) >= 0.88, covered
    assert np.mean(list(covered.values())) >= 0.92, covered
    assert alarms == []


def test_stated_ranges_are_no_wider_than_they_must_be():
    found = calibrate_log(synthetic_log(Truth(), 0), None).fits
    assert found["experts"].relative_sd("pair_ns") < 0.01
    assert found["experts"].relative_sd("factor_rank_5") < 0.01
    assert found["layer"].relative_sd("exposed_ns") < 0.08


def test_excluded_rows_do_not_move_the_fit():
    good = synthetic_log(SMALL, 3, ("experts",))
    ms = good.ms.copy()
    ms[(good.unit == 1) & (good.step < 12)] *= 1e-3
    spoilt = calibrate_log(replace(good, ms=ms), None)
    clean = calibrate_log(good, None).fits["experts"]
    assert len(spoilt.findings) == 1
    for name, value in spoilt.fits["experts"].values.items():
        allowed = 3 * clean.relative_sd(name) + 1e-9
        assert abs(np.log(value / clean.values[name])) < allowed, name


def test_a_layer_alone_tells_only_the_sum_and_says_so():
    truth = Truth(stragglers=())
    found = calibrate_log(synthetic_log(truth, 0, ("layer",)), CONTEXT)
    fit = found.fits["layer"]
    low, high = fit.interval("pair_ns")
    assert low <= truth.compute_ns + truth.exposed_ns <= high
    assert set(fit.values) == {"fixed_us", "pair_ns"}
    assert any("layer tells compute and communication only together" in w for w in fit.warnings)
    # Shared out between them in the rack: as assumptions, with all that is possible as range.
    rate, link = (found.numbers[n] for n in ("gpu.expert_forward_TFLOPs", "alltoall_forward_GBps"))
    assert rate.provenance == link.provenance == "assumed"
    assert rate.high == pytest.approx(2500)
    flops, wire = CONTEXT.model.flops_per_pair, 2 * CONTEXT.wire_bytes("dispatch")
    total = flops / rate.value * 1e-3 + wire / link.value
    assert total == pytest.approx(fit.values["pair_ns"])


def test_a_layer_faster_than_both_in_turn_gives_no_rack_numbers():
    truth = Truth(stragglers=(), compute_ns=16, exposed_ns=1, fixed_us=100, launch_us=50)
    found = calibrate_log(synthetic_log(truth, 0, ("layer",)), CONTEXT)
    assert found.rack is None
    assert "overlap" in found.unfitted["layer"]


def test_loads_that_never_vary_are_reported_as_a_combination():
    log = synthetic_log(Truth(skew=0, jitter=0, stragglers=()), 0, ("dispatch",))
    fit = calibrate_log(log, None).fits["dispatch"]
    assert any("trade off: known is" in text for text in fit.warnings)
    assert any("is not determined" in text for text in fit.warnings)


def test_stages_get_factors_and_are_not_grouped():
    log = synthetic_log(Truth(stragglers=((1, 1.2),)), 0, ("experts",))
    log = replace(log, unit_name="stage", kind=np.full(len(log), "step"))
    fit = calibrate_log(log, None).fits["step"]
    low, high = fit.interval("factor_stage_1")
    assert 1.18 < low <= 1.2 <= high < 1.22


def test_the_rack_holds_what_the_log_told(tmp_path):
    truth = Truth()
    log = synthetic_log(truth, 0, ("experts", "experts_backward", "dispatch", "combine"))
    found = calibrate_log(log, CONTEXT)
    rack = found.rack
    flops = CONTEXT.model.flops_per_pair
    rate = rack.gpu.expert_forward_TFLOPs
    assert rate.low <= flops / truth.compute_ns * 1e-3 <= rate.high
    back = rack.gpu.expert_backward_TFLOPs
    assert back.provenance == "fitted"
    assert back.low <= 2 * flops / truth.backward_ns * 1e-3 <= back.high
    link = rack.alltoall_forward_GBps
    wire = CONTEXT.wire_bytes("dispatch") + CONTEXT.wire_bytes("combine")
    assert link.low <= wire / (truth.dispatch_ns + truth.combine_ns) <= link.high
    assert link.high / link.low < 1.03
    assert rack.stream_GBps == CONTEXT.rack.stream_GBps  # nothing in the log tells it
    for name in found.numbers:
        quantity = rack.quantities()[name]
        assert "rows " in quantity.source or "from the log" in quantity.source
    write_profile(tmp_path / "mine.yaml", rack, found.notes())
    assert read_profile(tmp_path / "mine.yaml") == rack


def test_fp8_rates_are_stated_for_bf16():
    log = synthetic_log(Truth(), 0, ("experts",))
    one = calibrate_log(log, CONTEXT).rack.gpu
    other = calibrate_log(log, replace(CONTEXT, weight_dtype="fp8")).rack.gpu
    assert other.rate("expert", "forward", "fp8") == pytest.approx(
        one.rate("expert", "forward", "bf16")
    )


def test_a_rate_stays_below_the_datasheet():
    log = synthetic_log(Truth(compute_ns=9, launch_us=20, stragglers=()), 0, ("experts",))
    found = calibrate_log(log, CONTEXT)
    assert found.rack.gpu.expert_forward_TFLOPs.value <= 2500 * 1.001
    assert any("lower bound" in text for text in found.fits["experts"].warnings)


def test_few_pairs_warn_that_weights_may_bind():
    found = calibrate_log(synthetic_log(Truth(pairs=900), 0, ("experts",)), CONTEXT)
    assert any("reading the weights" in text for text in found.warnings)


def test_no_good_row_is_an_error_that_tells_why():
    log = synthetic_log(SMALL, 0, ("experts",))
    with pytest.raises(CalibrationError, match=r"no good row.*--repair unit_seconds"):
        calibrate_log(replace(log, ms=log.ms * 1e-3), CONTEXT)
