"""What is drawn of rows: those with both values, fitted ones hollow, clouds without them."""

from __future__ import annotations

import pytest

from ultraep_sim.report.plot_validation import figure, write_plot
from ultraep_sim.validate.rows import make_row


def row(published, simulated, *, fitted=False, table="training"):
    return make_row(
        table, "a/b", "TFLOPS", published, simulated, fitted=fitted, provenance="a test"
    )


def drawn(rows):
    above, below = figure(rows, "title", "source", ("x", "y")).axes
    return {c.get_label(): c for c in above.collections if not c.get_label().startswith("_")}, below


def test_rows_with_both_values_are_drawn_and_fitted_ones_are_hollow():
    rows = [row(100, 110), row(200, 180), row(50, 50, fitted=True), row(None, 7.0)]
    shown, below = drawn(rows)
    assert list(shown) == ["training, fitted (1)", "training, predicted (2)"]
    assert shown["training, predicted (2)"].get_offsets().tolist() == [[100, 110], [200, 180]]
    assert len(shown["training, fitted (1)"].get_facecolors()) == 0
    errors = [float(c.get_offsets()[0][1]) for c in below.collections if len(c.get_offsets())]
    assert errors == pytest.approx([0, 10])


def test_of_a_cloud_only_predictions_are_drawn_and_far_ones_stay_at_the_edge():
    rows = [row(100, 101) for _ in range(1000)] + [row(10, 80), row(9, 9, fitted=True)]
    shown, below = drawn(rows)
    assert list(shown) == ["training, predicted (1001)"]
    heights = [c.get_offsets()[:, 1].max() for c in below.collections if len(c.get_offsets()) > 1]
    assert max(heights) == 100


def test_nothing_is_written_of_nothing(tmp_path):
    assert write_plot([row(None, 7.0)], tmp_path / "p") == []
    files = write_plot([row(5, 7.0)], tmp_path / "p.v2")
    assert sorted(f.name for f in files) == ["p.v2.png", "p.v2.svg"]
    assert all(f.stat().st_size > 1000 for f in files)
