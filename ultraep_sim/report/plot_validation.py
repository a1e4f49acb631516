"""Simulated against published or measured figures, row by row, with bands of 5 % and 10 %."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ultraep_sim.report.style import CYCLE, INK, MUTED, heading, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

_BANDS = ((0.10, 0.16), (0.05, 0.28))  # half width, opacity
#: From so many rows on, points are a cloud: small, translucent, and a picture inside the SVG.
_CLOUD = 1000


def write_plot(
    rows: Sequence[Row],
    stem: Path,
    title: str = "Simulated against published",
    source: str = "Filled: predicted. Hollow: fitted.",
    units: tuple[str, str] = ("published (each in its own unit)", "simulated"),
) -> list[Path]:
    """Draw `figure` as PNG and SVG.

    Returns
    -------
    list of Path
        The files written; none where no row has both values.
    """
    if not _known(rows):
        return []
    with style():
        return save(figure(rows, title, source, units), stem)


def figure(rows: Sequence[Row], title: str, source: str, units: tuple[str, str]) -> Figure:
    """Draw rows by table, and their errors below: over five decades bands are thin.

    Parameters
    ----------
    rows : sequence of mapping
        With ``table``, ``published``, ``simulated``, ``relative_error`` and ``role``; rows without
        a published value are left out, fitted rows are hollow.
    title, source : str
    units : (str, str)
        What the axes count, published and simulated.

    Returns
    -------
    Figure
    """
    import matplotlib.pyplot as plt

    known = _known(rows)
    drawn = plt.figure(figsize=(6.4, 8.0))
    top = heading(drawn, title, source)
    grid = drawn.add_gridspec(
        2, 1, left=0.13, right=0.97, bottom=0.07, top=top - 0.02, height_ratios=(2, 1), hspace=0.06
    )
    above = drawn.add_subplot(grid[0])
    below = drawn.add_subplot(grid[1], sharex=above)
    _values(above, known)
    _errors(below, known)
    above.set_ylabel(units[1])
    above.tick_params(labelbottom=False)
    below.set_xlabel(units[0])
    return drawn


def _known(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["published"] and row["simulated"] and row["simulated"] > 0]


def _values(axes: Axes, rows: Sequence[Row]) -> None:
    values = np.array([(r["published"], r["simulated"]) for r in rows] or [(1.0, 1.0)])
    line = np.array([values.min() / 1.5, values.max() * 1.5])
    for half, opacity in _BANDS:
        axes.fill_between(
            line, line * (1 - half), line * (1 + half), color="0.5", alpha=opacity, linewidth=0,
        )  # fmt: skip
    axes.plot(line, line, color=INK, linewidth=0.8)
    _scatter(axes, rows, lambda row: float(row["simulated"]))
    axes.set(xscale="log", yscale="log", xlim=line, ylim=line)
    legend = axes.legend(loc="upper left", frameon=False, fontsize=7)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    axes.text(0.98, 0.02, "bands: 5 % and 10 %", transform=axes.transAxes, ha="right", color=MUTED)


def _errors(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw relative errors; the far ones of a cloud stay at the edge."""
    percent = np.array([100 * row["relative_error"] for row in rows] or [0.0])
    most = np.abs(percent).max() if len(rows) < _CLOUD else 100.0
    for half, opacity in _BANDS:
        axes.axhspan(-100 * half, 100 * half, color="0.5", alpha=opacity, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.8)
    _scatter(axes, rows, lambda row: float(np.clip(100 * row["relative_error"], -most, most)))
    axes.set(ylabel="error [%]")


def _scatter(axes: Axes, rows: Sequence[Row], height: Callable[[Row], float]) -> None:
    cloud = len(rows) >= _CLOUD
    for index, table in enumerate(dict.fromkeys(row["table"] for row in rows)):
        color = CYCLE[index % len(CYCLE)]
        for role in ("fitted", "predicted"):
            mine = [row for row in rows if row["table"] == table and row["role"] == role]
            if not mine or (cloud and role == "fitted"):  # thousands of hollow points hide the rest
                continue
            axes.scatter(
                [row["published"] for row in mine],
                [height(row) for row in mine],
                s=4 if cloud else 22,
                alpha=0.35 if cloud else 1,
                edgecolors="none" if cloud else color,
                facecolors=color if role == "predicted" else "none",
                label=f"{table}, {role} ({len(mine)})",
                rasterized=cloud,
                zorder=3,
            )
