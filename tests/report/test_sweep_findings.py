"""Winners, margins, losses and advice on rows whose answers are worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ultraep_sim.report.sweep_findings import Choice, advice, pareto, regrets, winners
from ultraep_sim.report.sweep_table import Sample, SweepTable, band, percentile
from ultraep_sim.report.sweep_text import findings, use
from ultraep_sim.sweep.report_spec import ReportSpec

from .sweep_rows import AXES, VALUES, grid, hand_made, row


def table(rows=None, axes=AXES, **spec):
    return SweepTable(hand_made() if rows is None else rows, axes, ReportSpec(**spec))


def told(rows, axes=AXES, **spec):
    found = table(rows, axes, **spec)
    return " ".join([*findings(found), use(found)])


def test_winner_and_margin_at_each_place() -> None:
    found = {one.place: one for one in winners(table())}
    assert {place: one.policy for place, one in found.items()} == {
        (1, "calm"): "a", (2, "calm"): "a", (1, "wild"): "b", (2, "wild"): "b",
    }  # fmt: skip
    first = found[1, "calm"]
    assert first.runner_up == "b"
    assert first.margin is not None
    assert first.margin.center == pytest.approx(100 * 10 / 110)
    assert first.margin.low is None
    assert not first.tie


def test_a_metric_that_grows_is_read_the_other_way() -> None:
    rows = [
        row("a", 10.0, metric="tflops_per_gpu", x=1),
        row("b", 8.0, metric="tflops_per_gpu", x=1),
    ]
    found = table(rows, ["x"], metric="tflops_per_gpu")
    (one,) = winners(found)
    assert (one.policy, one.margin.center) == ("a", 25.0)
    assert [r.mean.center for r in regrets(found)] == [0.0, 20.0]


def test_margins_are_paired_within_seed_and_draw() -> None:
    # Seeds differ by far more than the policies do; in every pair a is 1 % better.
    rows = [
        row(policy, base * part, x=0, seed=seed, draw=draw)
        for seed, base in enumerate((100.0, 300.0, 900.0))
        for draw, scale in enumerate((1.0, 2.0))
        for policy, part in (("a", 0.99 * scale), ("b", scale))
    ]
    (one,) = winners(table(rows, ["x"]))
    assert one.policy == "a"
    assert one.margin == pytest.approx((1.0, 1.0, 1.0, 6))
    assert not one.tie
    # The center has the nominal draw only, the band all.
    assert one.value.center == pytest.approx(0.99 * (100 + 300 + 900) / 3)
    assert one.value.samples == 6
    every = [0.99 * base * scale for base in (100, 300, 900) for scale in (1, 2)]
    assert one.value[1:3] == pytest.approx(np.percentile(every, [5, 95]))


def test_a_band_that_includes_zero_is_a_tie() -> None:
    rows = [
        row(policy, value, x=0, seed=seed)
        for seed, pair in enumerate([(99.0, 100.0), (101.0, 100.0), (98.0, 100.0)])
        for policy, value in zip("ab", pair, strict=True)
    ]
    (one,) = winners(table(rows, ["x"]))
    assert one.policy == "a"
    assert one.tied == ("b",)
    assert one.margin.low < 0 < one.margin.high
    text = told(rows, ["x"])
    assert "1 of these is a tie" in text
    assert "Use a. It is a tie with b: 0.67 %" in text


def test_equal_numbers_of_one_sample_are_a_tie() -> None:
    (one,) = winners(table([row("a", 5.0, x=1), row("b", 5.0, x=1)], ["x"]))
    assert one.tie
    assert one.margin.center == 0.0


def test_what_does_not_fit_cannot_win_and_that_is_said() -> None:
    rows = hand_made()
    for one in rows:
        one["fits"] = one["policy"] != "a"
    found = table(rows)
    assert {one.policy for one in winners(found)} == {"b"}
    assert all(one.not_fitting == ("a",) for one in winners(found))
    assert "Not in memory, so it cannot win: a at 4 of 4 points" in told(rows)
    for one in rows:
        one["fits"] = False
    assert all(one.policy is None for one in winners(table(rows)))
    assert advice(table(rows)) is None
    assert "Nothing can be advised" in told(rows)


def test_a_misfit_in_one_seed_is_a_misfit() -> None:
    rows = [row(p, v, x=0, seed=s, fits=(p, s) != ("a", 1)) for p, v in (("a", 1.0), ("b", 2.0))
            for s in range(2)]  # fmt: skip
    assert winners(table(rows, ["x"]))[0].policy == "b"


def test_the_bound_never_wins_and_the_baseline_may() -> None:
    rows = [row("none", 10.0, x=1), row("a", 11.0, x=1), row("ideal", 5.0, x=1)]
    (one,) = winners(table(rows, ["x"]))
    assert (one.policy, one.runner_up) == ("none", "a")
    text = told(rows, ["x"])
    assert "none (no balancing) wins at 1 of 1 point" in text
    assert "Do not balance. It is 9.1 % better than the runner-up, a" in text
    only = [row("ideal", 5.0, x=1)]
    assert winners(table(only, ["x"]))[0].policy is None


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, "", True])
def test_values_that_are_no_numbers_are_missing(nothing) -> None:
    rows = [row("a", nothing, x=1), row("b", 3.0, x=1), row("a", 1.0, x=2), row("b", 2.0, x=2)]
    found = {one.place: one for one in winners(table(rows, ["x"]))}
    assert found[1,].policy == "b"
    assert found[1,].missing == ("a",)
    assert found[2,].policy == "a"
    assert "No comparable value of iteration_ms: a at 1 of 2 points" in told(rows, ["x"])


def test_missing_seeds_are_left_out_of_both_sides() -> None:
    # Without pairing, a would look better only because its slow seed is missing.
    rows = [
        row("a", 101.0, x=0, seed=0),
        row("b", 100.0, x=0, seed=0),
        row("b", 900.0, x=0, seed=1),
    ]
    (one,) = winners(table(rows, ["x"]))
    assert one.policy == "b"
    assert one.margin.samples == 1


def test_missing_points_do_not_count_as_losses() -> None:
    rows = [one for one in hand_made() if (one["slots"], one["load"]) != (2, "wild")]
    found = table(rows)
    assert len(winners(found)) == 3
    by_policy = {r.choice.policy: r for r in regrets(found)}
    assert by_policy["a"].places == by_policy["a"].out_of == 3


def test_losses_of_one_policy_everywhere() -> None:
    found = {one.choice.policy: one for one in regrets(table())}
    of_a, of_b = [0.0, 0.0, 25.0, 25.0], [10.0, 100 * 5 / 95, 0.0, 0.0]
    for name, losses in (("a", of_a), ("b", of_b)):
        one = found[name]
        assert one.mean.center == pytest.approx(np.mean(losses))
        assert one.p90 == pytest.approx(np.percentile(losses, 90))
        assert one.worst == pytest.approx(max(losses))
    assert found["a"].worst_at in {(1, "wild"), (2, "wild")}
    assert found["b"].worst_at == (1, "calm")
    assert "ideal" not in found
    assert next(iter(found)) == "b"  # the least mean loss first


def test_losses_of_one_setting_leave_the_policy_open() -> None:
    found = {one.choice: one for one in regrets(table(), ["slots"], by_policy=False)}
    one = found[Choice(None, (1,))]
    losses = [100 * (100 / 95 - 1), 100 * (128 / 120 - 1)]
    assert one.mean.center == pytest.approx(np.mean(losses))
    assert found[Choice(None, (2,))].worst == 0.0


def test_bands_of_a_mean_loss_are_of_means_within_a_seed() -> None:
    rows = [
        row(policy, value, x=x, seed=seed)
        for seed, extra in enumerate((0.0, 10.0, 20.0))
        for x in (0, 1)
        for policy, value in (("a", 100.0), ("b", 100.0 + extra + 10.0 * x))
    ]
    one = next(r for r in regrets(table(rows, ["x"])) if r.choice.policy == "b")
    means = [5.0, 15.0, 25.0]
    assert one.mean.center == pytest.approx(15.0)
    assert one.mean[1:3] == pytest.approx(np.percentile(means, [5, 95]))


def test_advice_names_policy_settings_and_margin() -> None:
    found = advice(table())
    assert found.choice.choice == Choice("b", (2,))
    assert found.runner_up.choice == Choice("a", (2,))
    margins = [100 * (95 - 100) / 95, 100 * (150 - 120) / 150]
    assert found.margin.center == pytest.approx(np.mean(margins))
    text = use(table())
    assert text.startswith(
        "Use b with slots 2. It is 7.4 % better than the runner-up, a with slots 2"
    )
    assert "over all 2 conditions (one sample: no band)" in text


def test_memory_decides_between_settings_that_are_as_good() -> None:
    rows = hand_made()
    found = advice(table(rows, tolerance_percent=9.0))
    assert (found.choice.choice, found.fastest.choice) == (Choice("b", (1,)), Choice("b", (2,)))
    # Of b, slots 1 lose 15.8 and 6.7 % to the best, slots 2 lose 5.3 and 0 %.
    text = use(table(rows, tolerance_percent=9.0))
    assert "slots 2 would lose 8.6 percentage points less, within the tolerance of 9 %" in text
    assert "takes 10 GB more" in text


def test_one_policy_and_one_axis_and_none() -> None:
    one = [row("a", 2.0, slots=1), row("a", 1.0, slots=2)]
    assert winners(table(one, ["slots"]))[0].margin is None
    text = told(one, ["slots"])
    assert "There is one policy only" in text
    assert "Use a with slots 2. There is no other policy to compare with." in text
    seeds = [row(p, v + s, seed=s) for p, v in (("a", 10.0), ("b", 20.0)) for s in range(3)]
    (only,) = winners(table(seeds, []))
    assert (only.place, only.policy, only.margin.samples) == ((), "a", 3)
    # A seed that is named as an axis is still a sample.
    assert winners(table(seeds, ["seed"]))[0].place == ()
    assert "5-95 % bands over 3 seeds" in told(seeds, [])


def test_a_choice_that_fits_everywhere_comes_before_a_faster_one() -> None:
    rows = hand_made()
    for one in rows:
        one["fits"] = (one["policy"], one["load"]) != ("b", "calm")
    found = regrets(table(rows))
    assert [one.choice.policy for one in found] == ["a", "none", "b"]
    assert (found[2].not_fitting, found[2].places, found[2].out_of) == (2, 2, 4)


def test_pareto_front_by_hand() -> None:
    found = {one.choice: one for one in pareto(table())}
    # Speeds over the best choice of each condition: 95 in the calm, 120 in the wild.
    assert found[Choice("b", (2,))].speed == pytest.approx((100 * 95 / 100 + 100) / 2)
    assert found[Choice("a", (1,))].speed == pytest.approx((95 + 100 * 120 / 160) / 2)
    front = [one.choice for one in pareto(table()) if one.on_front]
    assert front == [Choice("none", (1,)), Choice("b", (1,)), Choice("b", (2,))]
    rows = hand_made()
    for one in rows:
        one["fits"] = one["policy"] != "b"
    hollow = {one.choice: one for one in pareto(table(rows))}
    assert not hollow[Choice("b", (2,))].on_front
    for one in rows:
        one["memory_GB"] = None
    assert pareto(table(rows)) == []


def test_a_baseline_of_zero_gives_no_share() -> None:
    rows = [row("none", 0.0, x=1), row("a", 3.0, x=1)]
    (one,) = winners(table(rows, ["x"]))
    assert (one.policy, one.margin.center) == ("none", 100.0)
    assert [r.choice.policy for r in regrets(table(rows, ["x"]))] == ["none"]


def test_synthetic_loads_are_said() -> None:
    rows = grid(VALUES, workload="SYNTHETIC: Zipf")
    assert "The loads are SYNTHETIC." in told(rows)
    assert "partly SYNTHETIC" in told([*rows, row("c", 1.0, slots=1, load="calm")])
    assert "SYNTHETIC" not in told(hand_made())


def test_times_of_unequal_work_are_warned_of() -> None:
    rows = [row("a", 1.0, **{"ep.ranks": n}) for n in (8, 16)]
    assert "sound only if a step does the same work" in told(rows, ["ep.ranks"])
    slots = [row("a", 1.0, **{"ep.slots_per_rank": n}) for n in (1, 2)]
    assert "same work" not in told(slots, ["ep.slots_per_rank"])


def test_percentiles_are_numpys() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
    for at in (0, 5, 37.5, 90, 95, 100):
        assert percentile(values, at) == pytest.approx(np.percentile(values, at))
    assert band({Sample(None, 3): 2.0, Sample(None, 4): 4.0}).center == 3.0  # none is nominal
