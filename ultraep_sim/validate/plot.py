"""Simulated against published, all tables in one picture, with bands of 5 and 10 %."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..report.style import save, style
from .rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BANDS = ((0.10, 0.16), (0.05, 0.28))  # half width, opacity


def write_plot(rows: Sequence[Row], stem: str | Path) -> list[Path]:
    """Draw the rows that have both values, as PNG and SVG.

    Parameters
    ----------
    rows : sequence of dict
    stem : path
        Without a suffix.

    Returns
    -------
    list of Path
        The files written; none where no row has both values.
    """
    from matplotlib.figure import Figure

    known = [row for row in rows if row["relative_error"] is not None and row["simulated"] > 0]
    if not known:
        return []
    with style():
        figure = Figure(figsize=(6.4, 7.2), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
        _draw(above, known)
        _draw_errors(below, known)
        return save(figure, Path(stem))


def _draw(axes: Axes, rows: Sequence[Row]) -> None:
    values = np.array([(row["published"], row["simulated"]) for row in rows])
    line = np.array([values.min() / 1.5, values.max() * 1.5])
    for half, opacity in _BANDS:
        axes.fill_between(
            line, line * (1 - half), line * (1 + half), color="0.5", alpha=opacity, linewidth=0,
            label=f"within {half:.0%}",
        )  # fmt: skip
    axes.plot(line, line, color="0.3", linewidth=0.8)
    _scatter(axes, rows, lambda row: float(row["simulated"]))
    axes.set(xscale="log", yscale="log", ylabel="simulated", title="Simulated against published")
    axes.legend(fontsize=7, loc="upper left")


def _draw_errors(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw relative errors: over five decades the bands above are thinner than a point."""
    for half, opacity in _BANDS:
        axes.axhspan(-100 * half, 100 * half, color="0.5", alpha=opacity, linewidth=0)
    axes.axhline(0, color="0.3", linewidth=0.8)
    _scatter(axes, rows, lambda row: 100 * row["relative_error"])
    axes.set(xlabel="published (each in its own unit)", ylabel="error [%]")


def _scatter(axes: Axes, rows: Sequence[Row], height: Callable[[Row], float]) -> None:
    for index, table in enumerate(dict.fromkeys(row["table"] for row in rows)):
        for role, filled in (("predicted", True), ("fitted", False)):
            mine = [row for row in rows if row["table"] == table and row["role"] == role]
            if mine:
                axes.scatter(
                    [row["published"] for row in mine],
                    [height(row) for row in mine],
                    s=22,
                    edgecolors=f"C{index}",
                    facecolors=f"C{index}" if filled else "none",
                    linewidths=1,
                    label=f"{table}, {role}",
                    zorder=3,
                )
