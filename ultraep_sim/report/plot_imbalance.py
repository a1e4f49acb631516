"""Rank imbalance step by step, before and after every policy, on one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.report.results import RunDirectory
from ultraep_sim.report.style import MUTED, heading, policy_look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE = "before balancing"


class Band(NamedTuple):
    """Mean, smallest and largest imbalance of each step; NaN between steps that were skipped."""

    steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def band(steps: NDArray[Any], values: NDArray[Any]) -> Band:
    """Reduce records to one point a step, over layers and micro-batches.

    Parameters
    ----------
    steps, values : ndarray [records]

    Returns
    -------
    Band
        Where the steps jump by more than their usual stride a NaN is put between, so that a line
        drawn through it is broken: nothing was recorded there.
    """
    unique, inverse = np.unique(np.asarray(steps), return_inverse=True)
    values = np.asarray(values, dtype=np.float64)
    low, high = np.full(len(unique), np.inf), np.full(len(unique), -np.inf)
    np.minimum.at(low, inverse, values)
    np.maximum.at(high, inverse, values)
    mean = np.bincount(inverse, weights=values) / np.bincount(inverse)
    gaps = np.diff(unique)
    jumps = np.flatnonzero(gaps > 2 * np.median(gaps)) + 1 if len(gaps) else np.array([], int)
    between = (unique[jumps - 1] + unique[jumps]) / 2

    def broken(column: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.insert(column, jumps, np.nan)

    return Band(
        np.insert(unique.astype(np.float64), jumps, between),
        broken(mean),
        broken(low),
        broken(high),
    )


def figure(run: RunDirectory) -> Figure:
    """Draw the plot.

    All policies share one axis that starts at 1, the best there is, so that no line looks
    balanced because its axis was stretched.
    """
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(figsize=(8.4, 4.6))
    fig.subplots_adjust(left=0.075, right=0.80, top=0.845, bottom=0.115)
    look = policy_look(run.labels, run.names)
    base = run.label_of("none")
    first = base or run.labels[0]
    steps = run.column(first, "step")
    ends = [_draw(axes, BEFORE, band(steps, run.column(first, "imbalance_before")), MUTED, "-")]
    for label in run.labels:
        if run.names.get(label) in ("none", "ideal"):
            continue
        color, dash = look[label]
        data = band(run.column(label, "step"), run.column(label, "imbalance"))
        ends.append(_draw(axes, label, data, color, dash))
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=(0, (2, 2)))
    ends.append(("perfect balance", 1.0, "black"))
    top = max(float(np.nanmax(line.get_ydata())) for line in axes.get_lines())
    highest = float(np.max(run.column(first, "imbalance_before")))
    # Head-room for the band, but one wild layer may not squeeze all else to the floor.
    axes.set_ylim(
        1 - 0.02 * (min(highest, 1.6 * top) - 1), 1 + 1.04 * (min(highest, 1.6 * top) - 1)
    )
    axes.set_ylabel("rank imbalance (max load / mean load)")
    axes.set_xlabel("step of the trace")
    axes.grid(axis="y", color="#EDEDED", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    _label_ends(axes, ends)
    heading(
        fig,
        "Imbalance of every step, before and after",
        f"mean (line) and range (band) over layers and micro-batches · {run.summary['workload']}",
    )
    return fig


def _draw(axes: Axes, label: str, data: Band, color: str, dash: Any) -> tuple[str, float, str]:
    marker = "o" if np.isfinite(data.mean).sum() < 3 else None
    axes.fill_between(data.steps, data.low, data.high, color=color, alpha=0.16, linewidth=0)
    axes.plot(
        data.steps,
        data.mean,
        color=color,
        linestyle=dash,
        linewidth=1.6,
        marker=marker,
        label=label,
    )
    return label, float(data.mean[-1]), color


def _label_ends(axes: Axes, ends: list[tuple[str, float, str]]) -> None:
    """Write each name beside the end of its line, moved apart where lines meet."""
    low, high = axes.get_ylim()
    gap = 0.048 * (high - low)
    ordered = sorted(ends, key=lambda end: end[1])
    place = low - gap
    for name, value, color in ordered:
        place = max(value, place + gap)
        axes.annotate(
            name,
            xy=(1.0, value),
            xytext=(1.035, place),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            color=color,
            va="center",
            fontsize=8.5,
            fontweight="bold",
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.6,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )
