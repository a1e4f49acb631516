"""Where the time of a layer goes, policy by policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ultraep_sim.report.results import RunDirectory
from ultraep_sim.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    heading,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Part(NamedTuple):
    """One stretch of a bar: the phases it sums."""

    title: str
    color: str
    dark: bool  # white text reads on it
    phases: tuple[str, ...]


# In the order of a bar: a backward pass begins by recomputing the forward one.
PARTS = (
    Part("recompute", GREY, False, ("recompute",)),
    Part("attention", SKY, False, ("attention",)),
    Part("plan, reroute", PURPLE, False, ("plan", "reroute")),
    Part("weights, gradients", GREEN, True, ("distribute", "grad_reduce")),
    Part("token all-to-all", ORANGE, False, ("dispatch", "combine")),
    Part("expert GEMM", BLUE, True, ("compute",)),
)
DIRECTIONS = (("fwd", "forward"), ("bwd", "backward"))


def breakdown(run: RunDirectory, label: str) -> dict[tuple[str, str], float]:
    """Return milliseconds on the critical path by (direction, part), averaged over records.

    A phase column no part knows is shown under "other", so that the bars always sum to the
    layer's time.
    """
    known = {
        f"{d}_{p}_s": (d, part.title) for d, _ in DIRECTIONS for part in PARTS for p in part.phases
    }
    result: dict[tuple[str, str], float] = {}
    for column in run.table.column_names:
        direction = column[:3]
        if direction not in ("fwd", "bwd") or not column.endswith("_s"):
            continue
        key = known.get(column, (direction, "other"))
        result[key] = result.get(key, 0.0) + 1e3 * float(
            np.mean(run.column(label, column)[run.counted])
        )
    return result


def figure(run: RunDirectory) -> Figure:
    """Draw one stacked bar a policy, forward then backward, with its total and the ideal's."""
    import matplotlib.pyplot as plt

    labels = run.labels
    parts = {label: breakdown(run, label) for label in labels}
    totals = {label: sum(parts[label].values()) for label in labels}
    height = 1.78 + 0.52 * len(labels)
    fig, axes = plt.subplots(figsize=(8.4, height))
    left = min(0.26, 0.05 + 0.0115 * max(len(label) for label in labels))
    top = heading(
        fig,
        "Where the time of a layer goes",
        "Simulated, forward then backward, waiting included where it is exposed. "
        f"Workload: {run.summary['workload']}.",
    )
    fig.subplots_adjust(left=left, right=0.985, top=top - 0.33 / height, bottom=0.50 / height)
    widest = max(*totals.values(), run.ideal_ms or 0.0)
    for position, label in enumerate(labels):
        _bar(axes, position, parts[label], widest)
    _totals(axes, run, totals, widest)
    axes.set_yticks(range(len(labels)), labels, fontsize=9.5, color=INK)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set_xlim(0, 1.17 * widest)
    axes.set_xlabel("time of one MoE layer on the critical path [ms], mean over the run")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#EDEDED", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    _legend(fig, parts, top + 0.06 / height)
    return fig


def _bar(axes: Axes, position: int, parts: dict[tuple[str, str], float], widest: float) -> None:
    at = 0.0
    other = Part("other", MUTED, True, ())
    for direction, _ in DIRECTIONS:
        for part in (*PARTS, other):
            width = parts.get((direction, part.title), 0.0)
            if width <= 0:
                continue
            axes.barh(
                position,
                width,
                left=at,
                height=0.66,
                color=part.color,
                hatch="////" if direction == "bwd" else None,
                edgecolor="white",
                linewidth=0.7,
            )
            if width > 0.045 * widest:
                _inside(axes, at + width / 2, position, width, part, hatched=direction == "bwd")
            at += width


def _inside(axes: Axes, x: float, y: float, width: float, part: Part, *, hatched: bool) -> None:
    """Write the milliseconds into a stretch that has room for them."""
    box = {"facecolor": part.color, "edgecolor": "none", "pad": 1.2} if hatched else None
    color = "white" if part.dark else INK
    axes.text(
        x,
        y,
        f"{width:.2f}",
        ha="center",
        va="center",
        fontsize=7.5,
        color=color,
        bbox=box,
        zorder=4,
    )


def _totals(axes: Axes, run: RunDirectory, totals: dict[str, float], widest: float) -> None:
    ideal = run.ideal_ms
    for position, label in enumerate(run.labels):
        text = f"{totals[label]:.2f} ms"
        if ideal is not None and run.names.get(label) != "ideal":
            text += f"\n{100 * ideal / totals[label]:.0f} % of ideal"
        at = max(totals[label], 0.0 if ideal is None else ideal)
        axes.text(at + 0.012 * widest, position, text, va="center", fontsize=8.5, color=INK)
    if ideal is not None:
        axes.axvline(ideal, color=INK, linewidth=1.0, linestyle=(0, (2, 2)), zorder=3)
        axes.annotate(
            "ideal",
            xy=(ideal, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
        )


def _legend(fig: Figure, parts: dict[str, dict[tuple[str, str], float]], top: float) -> None:
    from matplotlib.patches import Patch

    used = {title for bar in parts.values() for (_, title), width in bar.items() if width > 0}
    shown = [*PARTS[1:], PARTS[0]]
    handles = [Patch(facecolor=p.color, label=p.title) for p in shown if p.title in used]
    if "other" in used:
        handles.append(Patch(facecolor=MUTED, label="other"))
    if any(key[0] == "bwd" and width > 0 for bar in parts.values() for key, width in bar.items()):
        handles.append(
            Patch(facecolor="white", edgecolor=MUTED, hatch="////", label="hatched: backward")
        )
    fig.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.002, top),
        ncols=len(handles),
        fontsize=8,
        handlelength=1.1,
        columnspacing=1.1,
        handletextpad=0.45,
    )
