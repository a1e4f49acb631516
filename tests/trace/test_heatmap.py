import numpy as np
import pytest

from tests.trace.toys import toy_arrays, toy_meta, toy_trace
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import Trace, save_heatmap, trace_stats
from ultraep_sim.trace.heatmap import _draw, heatmap_data
from ultraep_sim.trace.heatmap_axis import MAX_COLUMNS, fold_gaps


def texts(trace):
    figure = _draw(heatmap_data(trace, 4), trace.meta, trace.meta.model)
    return " ".join(
        [figure.get_suptitle()]
        + [a.get_title(loc="left") + a.get_xlabel() + a.get_ylabel() for a in figure.axes]
    )


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_draws_a_file_with_same_bytes_every_time(tmp_path, suffix, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    one = save_heatmap(toy_trace(), tmp_path / f"1.{suffix}")
    assert one.stat().st_size > 5000
    if suffix == "png":
        two = save_heatmap(toy_trace(), tmp_path / f"2.{suffix}")
        assert one.read_bytes() == two.read_bytes()
        assert one.read_bytes().startswith(b"\x89PNG")


def test_says_whether_it_was_recorded():
    assert "toy: SYNTHETIC routing" in texts(toy_trace())
    recorded = texts(toy_trace(toy_meta(synthetic=False)))
    assert "toy: recorded routing" in recorded
    assert "EP4" in recorded
    assert "step" in recorded
    assert "max / mean" in recorded


def test_shows_the_numbers_of_the_trace():
    trace = toy_trace(steps=3, micro_batches=1)
    data = heatmap_data(trace, ep_size=4, layer=1)
    assert data.imbalance.shape == (2, 3)
    assert data.layer == 1
    record = next(r for r in trace if r.step == 2 and r.layer == 1)
    by_rank = record.loads.sum(axis=0).reshape(4, 2).sum(axis=1)
    assert data.imbalance[1, 2] == pytest.approx(by_rank.max() / by_rank.mean())
    loads = record.loads.sum(axis=0)
    assert data.shares[:, 2] == pytest.approx(loads / loads.mean())
    assert data.axis.edges.tolist() == [-0.5, 0.5, 1.5, 2.5]


def trace_at(steps, **changes):
    meta = toy_meta(num_layers=1, **changes)
    keys, loads = toy_arrays(meta, steps=len(steps), micro_batches=1)
    keys[:, 0] = steps
    return Trace.from_arrays(meta, *keys.T, loads)


def test_long_traces_are_merged():
    long = heatmap_data(trace_at(range(3 * MAX_COLUMNS)))
    assert long.imbalance.shape == (1, MAX_COLUMNS)
    assert np.isfinite(long.imbalance).all()


def test_wide_gaps_are_folded_and_named():
    steps = [*range(32), *range(1184, 1216), *range(2368, 2400)]
    trace = trace_at(steps)
    data = heatmap_data(trace)
    axis = data.axis
    assert [(gap.first, gap.last) for gap in axis.gaps] == [(32, 1183), (1216, 2367)]
    hollow = np.isnan(data.imbalance[0])
    assert hollow.sum() == 2
    width = np.diff(axis.edges)
    assert width[hollow].sum() < 0.15 * width.sum()
    np.testing.assert_allclose(width[~hollow], 1)
    # Ticks and columns agree on where a step is, on both sides of a gap.
    for place, step in axis.ticks().items():
        column = axis.column_of[steps.index(step)]
        assert axis.edges[column] < place < axis.edges[column + 1]
        loads = next(r for r in trace if r.step == step).loads.sum(axis=0)
        assert data.imbalance[0, column] == pytest.approx(loads.max() / loads.mean())
    assert {0, 1200, 2370} <= set(axis.ticks().values())
    figure = _draw(data, trace.meta, "toy")
    said = [text.get_text() for text in figure.axes[1].texts]
    assert said == ["steps 32 to 1183 not recorded", "steps 1216 to 2367 not recorded"]


def test_many_gaps_leave_room_for_what_was_recorded():
    axis = fold_gaps(np.array([100 * n + m for n in range(60) for m in range(3)]), "step")
    hatched = sum(gap.right - gap.left for gap in axis.gaps)
    assert len(axis.gaps) == 59
    assert hatched < 0.25 * (axis.edges[-1] - axis.edges[0])
    assert (np.diff(axis.edges) > 0).all()
    assert len(np.unique(axis.column_of)) == 180


def test_the_stated_mean_is_that_of_the_statistics():
    # Three steps share a column, all but the last; a mean of columns would give that one more.
    steps = range(2 * MAX_COLUMNS + 1)
    trace = trace_at(steps, num_experts=4)
    loads = np.array([record.loads for record in trace])
    loads[-1] = [[6, 6, 0, 0]] * 4
    loads[:-1] = [[3, 3, 3, 3]] * 4
    at = np.array(steps)
    trace = Trace.from_arrays(trace.meta, at, 0 * at, 0 * at, loads)
    data = heatmap_data(trace, 4)
    wanted = trace_stats(trace, [4]).overall.imbalance[4].mean
    assert data.mean_imbalance == pytest.approx(wanted, rel=1e-12)
    assert abs(np.nanmean(data.imbalance) - wanted) > 1e-4


def test_one_step_shows_its_micro_batches():
    data = heatmap_data(toy_trace(steps=1, micro_batches=5))
    assert data.axis.label == "micro-batch"
    assert data.imbalance.shape == (2, 5)


def test_balanced_and_tiny_traces_draw(tmp_path):
    meta = toy_meta(num_experts=1, top_k=1, num_layers=1, source_ranks=1)
    save_heatmap(Trace.from_arrays(meta, [5], [0], [0], [[[6]]]), tmp_path / "one.png")


def test_errors_are_one_line(tmp_path):
    with pytest.raises(TraceError, match="no such layer"):
        save_heatmap(toy_trace(), tmp_path / "x.png", layer=9)
    with pytest.raises(TraceError, match="no records"):
        save_heatmap(toy_trace().select(steps=99), tmp_path / "x.png")
    with pytest.raises(TraceError, match="cannot be written"):
        save_heatmap(toy_trace(), tmp_path / "x.spreadsheet")
    with pytest.raises(TraceError, match="cannot be written"):
        save_heatmap(toy_trace(), tmp_path / "none" / "x.png")
