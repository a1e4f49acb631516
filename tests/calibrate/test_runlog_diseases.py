"""Bad rows of a log are found, named with their numbers, and mended only on request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ultraep_sim.calibrate.runlog.context import Context
from ultraep_sim.calibrate.runlog.diagnose import diagnose
from ultraep_sim.calibrate.runlog.findings import DISEASES, REPAIRS, spans
from ultraep_sim.calibrate.runlog.synthetic import Truth, synthetic_log
from ultraep_sim.errors import CalibrationError
from ultraep_sim.model import get_model
from ultraep_sim.model.hardware import get_rack

TRUTH = Truth()
CONTEXT = Context(get_rack("gb200-nvl72"), get_model("qwen3-235b"), 8)
SEEDS = range(3)


def take(log, chosen):
    """Some rows of a log, numbered anew as a file would be."""
    at = np.arange(len(log))[chosen]
    names = ("step", "unit", "layer", "micro_batch", "kind", "ms", "load")
    start = None if log.start_ms is None else log.start_ms[at]
    cut = {name: getattr(log, name)[at] for name in names}
    return replace(log, row=np.arange(1, len(at) + 1), start_ms=start, **cut)


def with_ms(log, mask, ms):
    return replace(log, ms=np.where(mask, ms, log.ms))


def exchanged(log, a, b, steps=None):
    """Give each of two ranks the loads of the other."""
    load = log.load.copy()
    for kind in np.unique(log.kind):
        inside = np.ones(len(log), bool) if steps is None else np.isin(log.step, steps)
        one, other = (np.flatnonzero((log.kind == kind) & (log.unit == u) & inside) for u in (a, b))
        load[one], load[other] = log.load[other], log.load[one]
    return replace(log, load=load)


def only(found, disease):
    """The findings, all of one disease, and the rows they name."""
    assert {one.disease for one in found.findings} == {disease}, [str(f) for f in found.findings]
    return {row for one in found.findings for row in one.rows}


@pytest.mark.parametrize(
    "truth",
    [
        TRUTH,
        Truth(noise=0.1),
        Truth(skew=0.02, jitter=0.01, stragglers=()),
        Truth(ranks=32, steps=30, stragglers=((3, 1.3), (7, 2.0), (20, 0.93))),
        Truth(ranks=4, layers=1, jitter=0.02, stragglers=((1, 1.1), (2, 0.92))),
        Truth(pairs=300, skew=0.6),
    ],
)
def test_clean_logs_raise_no_alarm(truth):
    alarms = [
        str(one)
        for seed in range(8)
        for one in diagnose(
            synthetic_log(truth, seed, ("experts", "dispatch", "layer")), None
        ).findings
    ]
    assert alarms == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("disease", "factor"), [("unit_seconds", 1e-3), ("unit_microseconds", 1e3)]
)
def test_a_block_in_other_units_is_named_and_mended_on_request(seed, disease, factor):
    good = synthetic_log(TRUTH, seed)
    inside = (good.step >= 20) & (good.step < 32) & (good.unit == 3)
    bad = with_ms(good, inside, good.ms * factor)
    found = diagnose(bad, None)
    assert only(found, disease) == set(good.row[inside].tolist())
    assert (found.good == ~inside).all()
    assert found.log is bad  # nothing is mended unasked
    mended = diagnose(bad, None, [disease])
    assert {one.done for one in mended.findings} == {"repaired"}
    assert mended.good.all()
    np.testing.assert_allclose(mended.log.ms, good.ms, rtol=1e-12)


@pytest.mark.parametrize(
    ("disease", "factor"), [("unit_seconds", 1e-3), ("unit_microseconds", 1e3)]
)
def test_a_whole_file_in_other_units_needs_a_rack_to_be_found(disease, factor):
    good = synthetic_log(TRUTH, 0, ("experts", "dispatch"))
    bad = replace(good, ms=good.ms * factor)
    assert diagnose(bad, None).findings == ()
    found = diagnose(bad, CONTEXT)
    assert only(found, disease) == set(good.row.tolist())
    assert not found.good.any()
    assert diagnose(bad, CONTEXT, [disease]).good.all()
    assert diagnose(good, CONTEXT).findings == ()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("truth", [TRUTH, Truth(jitter=0.02), Truth(noise=0.05)])
def test_swapped_ranks_are_named_and_mended_on_request(seed, truth):
    good = synthetic_log(truth, seed, ("experts",))
    bad = exchanged(good, 1, 6)
    found = diagnose(bad, None)
    rows = only(found, "swapped_ranks")
    assert [one.pair for one in found.findings] == [(1, 6)]
    involved = set(good.row[np.isin(good.unit, (1, 6))].tolist())
    assert rows <= involved
    assert len(rows) > 0.95 * len(involved)
    mended = diagnose(bad, None, ["swapped_ranks"])
    assert {one.done for one in mended.findings} == {"repaired"}
    assert np.mean(mended.log.load == good.load) > 0.98


def test_ranks_swapped_for_some_steps_are_named_for_those_steps():
    good = synthetic_log(TRUTH, 4, ("experts",))
    found = diagnose(exchanged(good, 0, 3, range(20, 45)), None)
    only(found, "swapped_ranks")
    steps = good.step[np.array(found.findings[0].rows) - 1]
    assert 20 <= steps.min() <= 21
    assert 43 <= steps.max() <= 44


def test_a_straggler_is_no_swap_and_no_outlier():
    for factor in (0.7, 1.5, 3.0):
        truth = Truth(stragglers=((2, factor),), skew=0.4)
        assert diagnose(synthetic_log(truth, 1, ("experts",)), None).findings == ()


@pytest.mark.parametrize("seed", SEEDS)
def test_clock_jumps_are_named(seed):
    good = synthetic_log(TRUTH, seed)
    chosen = np.random.default_rng(seed).choice(len(good), 9, replace=False)
    ms = good.ms.copy()
    ms[chosen[:3]] -= 3_600_000
    ms[chosen[3:6]] += 3_600_000
    ms[chosen[6:]] *= 1.8
    found = diagnose(replace(good, ms=ms), None)
    assert only(found, "clock_jump") == set((chosen + 1).tolist())
    assert not found.good[chosen].any()


def test_time_that_goes_backwards_is_a_clock_jump():
    good = synthetic_log(TRUTH, 0, ("layer",))
    start = (good.step * 10 + good.layer * 4).astype(float)
    timed = replace(good, start_ms=start)
    assert diagnose(timed, None).findings == ()
    late = (good.unit == 4) & (good.step >= 30)
    found = diagnose(replace(timed, start_ms=start - 1000 * late), None)
    first = good.row[(good.unit == 4) & (good.step == 30) & (good.layer == 0)]
    assert only(found, "clock_jump") == set(first.tolist())


def test_empty_and_zero_cells_are_named():
    good = synthetic_log(TRUTH, 0, ("experts",))
    ms, load = good.ms.copy(), good.load.copy()
    ms[[4, 9, 12]] = np.nan, 0, np.inf
    load[[20, 30, 40]] = np.nan, -1, 0
    found = diagnose(replace(good, ms=ms, load=load), None)
    named = {one.disease: one.rows for one in found.findings}
    assert named == {"missing_time": (5, 10, 13), "missing_load": (21, 31), "idle_rank": (41,)}
    assert (~found.good).sum() == 6


def test_duplicates_are_named_and_the_first_is_kept():
    good = synthetic_log(TRUTH, 0, ("experts",))
    double = take(good, [*range(len(good)), 7, 8])
    double = with_ms(double, double.row == len(double), double.ms * 1.01)
    found = diagnose(double, None)
    assert only(found, "duplicate_row") == {len(double) - 1, len(double)}
    assert [one.what for one in found.findings] == [
        "the same row again", "the same key again with another time",
    ]  # fmt: skip
    assert found.good[[7, 8]].all()


def test_missing_ranks_are_named():
    good = synthetic_log(TRUTH, 0, ("experts", "layer"))
    hole = (good.unit == 2) & (good.step == 10)
    found = diagnose(take(good, ~hole), None)
    rows = only(found, "missing_rank")
    told = [str(one) for one in found.findings]
    assert any("experts: rank 2 lacks 2 of 120, first at step 10" in text for text in told)
    left = take(good, ~hole)
    # Whoever is missing may have been the slowest: the others' rows of that layer are no use.
    assert rows == set(left.row[(left.step == 10) & (left.kind == "layer")].tolist())
    found = diagnose(take(good, good.unit != 5), None)
    only(found, "missing_rank")
    assert "no row of rank [5]" in found.findings[0].what
    assert found.good.all()


def test_a_rank_that_ends_early_is_named():
    good = synthetic_log(TRUTH, 0, ("experts",))
    found = diagnose(take(good, ~((good.unit == 6) & (good.step > 50))), None)
    assert only(found, "uneven_steps") == set()
    assert "rank 6 lacks 18 of 120, first at step 51" in found.findings[0].what


def test_several_diseases_at_once_are_told_apart():
    log = synthetic_log(TRUTH, 2)
    log = exchanged(log, 0, 7)
    seconds = (log.unit == 4) & (log.step < 6)
    log = with_ms(log, seconds, log.ms * 1e-3)
    jump = (log.row == 1001) | (log.row == 1333)
    log = with_ms(log, jump, log.ms + 5000)
    named = {one.disease for one in diagnose(log, None).findings}
    assert named == {"swapped_ranks", "unit_seconds", "clock_jump"}
    mended = diagnose(log, None, REPAIRS)
    assert [one.disease for one in mended.findings if one.done != "repaired"] == ["clock_jump"]


def test_every_finding_tells_place_and_remedy():
    good = synthetic_log(TRUTH, 0, ("experts",))
    bad = with_ms(good, good.row < 4, good.ms * 1e-3)
    (one,) = diagnose(bad, None).findings
    assert str(one).startswith("unit_seconds: rows 1-3: ")
    assert "--repair unit_seconds" in str(one)
    assert one.to_dict()["count"] == 3
    assert set(REPAIRS) < set(DISEASES)
    assert spans([9, 1, 2, 3, 5], most=2) == "1-3, 5 and 1 more places"


def test_what_cannot_be_mended_is_refused():
    with pytest.raises(CalibrationError, match=r"clock_jump.*unit_seconds"):
        diagnose(synthetic_log(TRUTH, 0, ("experts",)), None, ["clock_jump"])
