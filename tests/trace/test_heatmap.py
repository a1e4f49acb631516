import numpy as np
import pytest

from tests.trace.toys import toy_arrays, toy_meta, toy_trace
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import Trace, save_heatmap
from ultraep_sim.trace.heatmap import _MAX_COLUMNS, _draw, heatmap_data


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
    assert data.edges.tolist() == [-0.5, 0.5, 1.5, 2.5]


def test_gaps_stay_gaps_and_long_traces_are_merged():
    meta = toy_meta(num_layers=1)
    keys, loads = toy_arrays(meta, steps=8, micro_batches=1)
    keys[4:, 0] += 4
    data = heatmap_data(Trace.from_arrays(meta, *keys.T, loads))
    assert data.imbalance.shape == (1, 12)
    assert np.isnan(data.imbalance[0, 4:8]).all()
    keys, loads = toy_arrays(meta, steps=3 * _MAX_COLUMNS, micro_batches=1)
    long = heatmap_data(Trace.from_arrays(meta, *keys.T, loads))
    assert long.imbalance.shape == (1, _MAX_COLUMNS)
    assert np.isfinite(long.imbalance).all()


def test_one_step_shows_its_micro_batches():
    data = heatmap_data(toy_trace(steps=1, micro_batches=5))
    assert data.axis == "micro-batch"
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
