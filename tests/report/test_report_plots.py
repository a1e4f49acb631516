from __future__ import annotations

import json

import numpy as np
import pytest

from ultraep_sim.errors import InputError
from ultraep_sim.report import plot_imbalance, plot_ranks, plot_time
from ultraep_sim.report.plots import PLOTS, write_plots
from ultraep_sim.report.results import read_run
from ultraep_sim.report.step_axis import StepAxis
from ultraep_sim.report.style import policy_look

from .fake_run import KINDS, write_fake_run

MODULES = (plot_imbalance, plot_ranks, plot_time)


def line(axes, label):
    (found,) = [item for item in axes.get_lines() if item.get_label() == label]
    return found


def test_every_policy_shares_one_axis_that_starts_at_perfect_balance(run, drawn):
    (axes,) = drawn(plot_imbalance, run).axes
    low, high = axes.get_ylim()
    before = run.column("none", "imbalance_before")
    assert 0.9 <= low <= 1.0
    assert high >= before.max()  # nothing is cut off, so nothing looks better than it is
    for label in (plot_imbalance.BEFORE, "eplb", "eplb_plus", "ultraep"):
        line(axes, label)


def test_lines_hold_the_mean_over_layers_and_break_where_steps_are_missing(run, drawn):
    (axes,) = drawn(plot_imbalance, run).axes
    steps, values = run.column("eplb", "step"), run.column("eplb", "imbalance")
    means = [values[steps == step].mean() for step in np.unique(steps)]
    y = line(axes, "eplb").get_ydata()
    assert np.isnan(y).sum() == 1  # the fake run jumps once, from step 38 to 200
    np.testing.assert_allclose(y[~np.isnan(y)], means)
    assert any("40" in t.get_text() or "39" in t.get_text() for t in axes.texts)


def test_the_band_spans_the_layers(run):
    steps, values = run.column("ultraep", "step"), run.column("ultraep", "imbalance")
    band = plot_imbalance.band(steps, values)
    first = values[steps == band.steps[0]]
    assert (band.low[0], band.high[0]) == (first.min(), first.max())
    assert np.all((band.low <= band.mean) & (band.mean <= band.high))


def test_a_history_policy_is_drawn_only_where_it_has_its_history(tmp_path, drawn):
    run = read_run(write_fake_run(tmp_path, steps=[0, 1, 2, 3], cold={"eplb": 2}))
    (axes,) = drawn(plot_imbalance, run).axes
    assert len(line(axes, "eplb").get_xdata()) == 2
    assert len(line(axes, "ultraep").get_xdata()) == 4


def test_rank_panels_share_one_axis_from_zero_and_show_the_worst_record(run, drawn):
    figure = drawn(plot_ranks, run)
    limits = {axes.get_ylim() for axes in figure.axes}
    assert len(limits) == 1
    assert limits.pop()[0] == 0
    worst = plot_ranks.worst_record(run)
    assert worst.imbalance_before == run.column("none", "imbalance_before").max()
    assert list(worst.pairs) == ["none", "eplb", "eplb_plus", "ultraep"]
    for axes, pairs in zip(figure.axes, worst.pairs.values(), strict=True):
        bars = {round(b.get_x() + b.get_width() / 2): b.get_height() for b in axes.patches}
        assert [bars[rank] for rank in range(len(pairs))] == list(pairs)
        (mean,) = axes.get_lines()
        assert mean.get_ydata()[0] == pytest.approx(pairs.mean())
        assert axes.get_ylim()[1] > max(p.max() for p in worst.pairs.values())


def test_bars_of_time_sum_to_the_layer_and_are_labelled(run, drawn):
    (axes,) = drawn(plot_time, run).axes
    texts = " ".join(text.get_text() for text in axes.texts)
    for position, row in enumerate(run.summary["rows"]):
        bars = [b for b in axes.patches if abs(b.get_y() + b.get_height() / 2 - position) < 0.1]
        assert sum(b.get_width() for b in bars) == pytest.approx(row["layer_time_ms"])
        assert f"{row['layer_time_ms']:.2f} ms" in texts
    assert axes.get_xlim()[0] == 0
    (ideal,) = axes.get_lines()
    assert ideal.get_xdata()[0] == pytest.approx(run.ideal_ms)
    assert "ideal" in texts


def test_time_counts_the_records_the_summary_counts(tmp_path):
    run = read_run(write_fake_run(tmp_path, steps=[0, 1, 2, 3], cold={"eplb": 2}))
    assert run.counted.sum() == 2 * 4
    total = sum(plot_time.breakdown(run, "none").values())
    every = 1e3 * run.column("none", "layer_time_s")
    assert total == pytest.approx(every[run.counted].mean())
    assert total != pytest.approx(every.mean())


def test_a_phase_nobody_knows_is_not_lost(run):
    table = run.table.append_column("fwd_novelty_s", run.table["fwd_plan_s"])
    parts = plot_time.breakdown(type(run)(run.path, run.summary, table), "ultraep")
    assert parts[("fwd", "other")] > 0


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    "options",
    [
        {"steps": [5]},
        {"kinds": {"ultraep": KINDS["ultraep"]}, "steps": [1, 2]},
        {"kinds": {"ideal": KINDS["ideal"]}, "steps": [1, 2]},
        {"kinds": {f"eplb-{i}": KINDS["eplb"] for i in range(9)}, "steps": [1, 2, 3]},
        {"training": False, "steps": [0, 1, 50, 51], "ranks": 2, "layers": 1},
    ],
    ids=["one step", "no reference", "ideal alone", "nine policies", "prefill"],
)
def test_unusual_runs_are_drawn(module, options, tmp_path, drawn):
    figure = drawn(module, read_run(write_fake_run(tmp_path, **options)))
    assert figure.axes


@pytest.mark.parametrize("module", MODULES)
def test_no_text_leaves_the_picture(module, run, drawn):
    long = dict(run.summary, workload="recorded: " + "a very long provenance of the load, " * 9)
    figure = drawn(module, type(run)(run.path, long, run.table))
    width, height = figure.canvas.get_width_height()
    texts = list(figure.texts) + [t for axes in figure.axes for t in axes.texts]
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= width, text.get_text()
        assert box.y0 >= 0
        assert box.y1 <= height, text.get_text()


def test_plots_are_written_and_say_where_the_load_came_from(tmp_path):
    calls = []
    files = write_plots(write_fake_run(tmp_path), progress=lambda *call: calls.append(call))
    assert {f.name for f in files} == {f"{n}.{s}" for n in PLOTS for s in ("png", "svg")}
    for file in files:
        assert file.stat().st_size > 5000
    assert calls[-1] == ("plots", len(PLOTS), len(PLOTS))


def test_the_same_run_gives_the_same_pictures(tmp_path):
    one, two = (write_plots(write_fake_run(tmp_path / name)) for name in "ab")
    assert [f.read_bytes() for f in one] == [f.read_bytes() for f in two]


def test_plots_read_the_directory_alone(tmp_path):
    write_fake_run(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"result.parquet", "summary.json"}
    assert write_plots(tmp_path)


@pytest.mark.parametrize(
    ("break_it", "needle"),
    [
        (lambda d: (d / "summary.json").unlink(), "summary.json"),
        (lambda d: (d / "result.parquet").unlink(), "result.parquet"),
        (lambda d: (d / "summary.json").write_text("{"), "not the summary"),
        (lambda d: (d / "summary.json").write_text(json.dumps({"rows": []})), "not the summary"),
        (lambda d: (d / "result.parquet").write_bytes(b"PAR1"), "not a result table"),
    ],
)
def test_a_broken_run_directory_is_named(break_it, needle, tmp_path):
    break_it(write_fake_run(tmp_path))
    with pytest.raises(InputError, match=needle):
        read_run(tmp_path)


def test_a_policy_keeps_its_colour_from_run_to_run():
    names = {"none": "none", "ultraep": "ultraep", "x": "other"}
    few = policy_look(["ultraep"], names)
    many = policy_look(["none", "x", "ultraep"], names)
    assert few["ultraep"] == many["ultraep"]
    assert len(set(many.values())) == 3


def test_looks_differ_also_in_grey(run):
    """A grey printer keeps the contenders apart by dash or by lightness."""
    looks = policy_look([f"p{i}" for i in range(6)], {})
    assert len(set(looks.values())) == 6


@pytest.mark.parametrize(
    ("steps", "gaps"),
    [
        ([0], []),
        ([0, 1, 2], []),
        ([0, 10, 20, 30], []),
        ([0, 1, 2, 50, 51], [(2, 50)]),
        ([0, 2, 4, 100, 102, 300, 302], [(4, 100), (102, 300)]),
    ],
)
def test_the_step_axis_finds_and_folds_gaps(steps, gaps):
    axis = StepAxis(steps)
    assert axis.gaps == gaps
    place = axis.place(steps)
    assert np.all(np.diff(place) > 0)
    assert place[-1] <= steps[-1]
    if gaps:
        assert place[-1] < steps[-1]
    else:
        np.testing.assert_allclose(place, steps)
