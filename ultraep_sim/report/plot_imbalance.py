"""Rank imbalance step by step, before and after every policy, on one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.report.results import RunDirectory
from ultraep_sim.report.step_axis import StepAxis
from ultraep_sim.report.style import MUTED, heading, policy_look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE = "before balancing"


class Band(NamedTuple):
    """Mean, smallest and largest imbalance of each step."""

    steps: NDArray[np.int64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def band(steps: NDArray[Any], values: NDArray[Any]) -> Band:
    """Reduce records to one point a step, over layers and micro-batches.

    Parameters
    ----------
    steps, values : ndarray [records]
    """
    unique, inverse = np.unique(np.asarray(steps), return_inverse=True)
    values = np.asarray(values, dtype=np.float64)
    low, high = np.full(len(unique), np.inf), np.full(len(unique), -np.inf)
    np.minimum.at(low, inverse, values)
    np.maximum.at(high, inverse, values)
    mean = np.bincount(inverse, weights=values) / np.bincount(inverse)
    return Band(unique.astype(np.int64), mean, low, high)


def figure(run: RunDirectory) -> Figure:
    """Draw the plot.

    All policies share one axis that starts at 1, the best there is, so that no line looks
    balanced because its axis was stretched. A history policy is drawn from where it has its
    history.
    """
    import matplotlib.pyplot as plt

    base = run.label_of("none")
    first = base or run.labels[0]
    steps = run.column(first, "step")
    x = StepAxis(steps)
    fig, axes = plt.subplots(figsize=(8.4, 4.6))
    top = heading(
        fig,
        "Imbalance of every step, before and after",
        "Mean (line) and range (band) over layers and micro-batches. "
        f"Workload: {run.summary['workload']}.",
    )
    fig.subplots_adjust(left=0.075, right=0.80, top=top, bottom=0.115)
    look = policy_look(run.labels, run.names)
    before = band(steps, run.column(first, "imbalance_before"))
    ends = [_draw(axes, x, BEFORE, before, MUTED, "-")]
    for label in run.labels:
        if run.names.get(label) in ("none", "ideal"):
            continue
        warm = run.warm(label)
        data = band(run.column(label, "step")[warm], run.column(label, "imbalance")[warm])
        ends.append(_draw(axes, x, label, data, *look[label]))
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=(0, (2, 2)))
    ends.append(("perfect balance", 1.0, "black"))
    _limits(axes, before)
    axes.set_ylabel("rank imbalance (max load / mean load)")
    axes.set_xlabel("step of the trace")
    axes.grid(axis="y", color="#EDEDED", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    x.draw(axes)
    _label_ends(axes, ends)
    return fig


def _limits(axes: Axes, before: Band) -> None:
    """Start at perfect balance and leave room for the bands, but not for one wild layer."""
    lines = max(float(np.nanmax(line.get_ydata())) for line in axes.get_lines())
    top = max(min(float(before.high.max()), 2.5 * lines), lines, 1.1)
    axes.set_ylim(1 - 0.02 * (top - 1), 1 + 1.04 * (top - 1))


def _draw(
    axes: Axes, x: StepAxis, label: str, data: Band, color: str, dash: Any
) -> tuple[str, float, str]:
    place, mean, low, high = x.broken(data.steps, data.mean, data.low, data.high)
    few = len(data.steps) < 3
    if few:  # a band over one or two points has no width
        axes.vlines(place, low, high, color=color, alpha=0.4, linewidth=5)
    marker = "o" if few else None
    axes.fill_between(place, low, high, color=color, alpha=0.16, linewidth=0)
    axes.plot(place, mean, color=color, linestyle=dash, linewidth=1.6, marker=marker, label=label)
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
