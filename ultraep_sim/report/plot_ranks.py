"""Load of every rank, before and after, for the record that was worst before balancing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.report.results import RunDirectory
from ultraep_sim.report.style import FAINT, INK, MUTED, heading, policy_look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 12


class Worst(NamedTuple):
    """The record drawn, and the rank loads of each policy on it."""

    step: int
    micro_batch: int
    layer: int
    imbalance_before: float
    pairs: dict[str, NDArray[np.int64]]


def worst_record(run: RunDirectory) -> Worst:
    """Find the record with the largest imbalance before balancing (the first on a tie)."""
    first = run.labels[0]
    before = run.column(first, "imbalance_before")
    index = int(np.argmax(before))
    key = {name: run.column(first, name)[index] for name in ("step", "micro_batch", "layer")}
    pairs = {}
    for label in _panels(run):
        same = np.ones(len(run.column(label, "step")), dtype=bool)
        for name, value in key.items():
            same &= run.column(label, name) == value
        at = np.flatnonzero(same)
        if len(at):
            pairs[label] = run.column(label, "rank_pairs")[at[0]]
    return Worst(
        int(key["step"]), int(key["micro_batch"]), int(key["layer"]), float(before[index]), pairs
    )


def _panels(run: RunDirectory) -> list[str]:
    """Choose what is drawn: ``none`` first, no ``ideal`` (a flat line), at most `MAX_PANELS`."""
    rest = [label for label in run.labels if run.names.get(label) not in ("none", "ideal")]
    base = run.label_of("none")
    return ([base] if base else [])[:1] + rest[: MAX_PANELS - (base is not None)] or run.labels[:1]


def figure(run: RunDirectory) -> Figure:
    """Draw one panel a policy; all share one axis that starts at 0."""
    import matplotlib.pyplot as plt

    worst = worst_record(run)
    count = len(worst.pairs)
    columns = 2 if count > 1 else 1
    rows = -(-count // columns)
    fig, grid = plt.subplots(
        rows, columns, figsize=(8.4, 1.25 + 1.95 * rows), sharex=True, sharey=True, squeeze=False
    )
    height = fig.get_size_inches()[1]
    top = heading(
        fig,
        "Load of every rank in the worst layer of the run",
        f"Step {worst.step}, micro-batch {worst.micro_batch}, layer {worst.layer}; dashed: mean; "
        f"dark bars lie above it. {_left_out(run)}Workload: {run.summary['workload']}.",
    )
    fig.subplots_adjust(
        left=0.085,
        right=0.985,
        top=top - 0.2 / height,
        bottom=0.48 / height,
        hspace=0.30,
        wspace=0.05,
    )
    look = policy_look(run.labels, run.names)
    for axes, (label, pairs) in zip(grid.flat, worst.pairs.items(), strict=False):
        is_base = run.names.get(label) == "none"
        _panel(axes, f"before ({label})" if is_base else f"after {label}", pairs, look[label][0])
    for axes in list(grid.flat)[count:]:
        axes.set_visible(False)
    peak = max(int(pairs.max()) for pairs in worst.pairs.values())
    grid[0, 0].set_ylim(0, 1.06 * peak)
    _label_axes(fig, grid, rows, columns)
    return fig


def _left_out(run: RunDirectory) -> str:
    shown = len(_panels(run))
    rest = sum(run.names.get(label) != "ideal" for label in run.labels) - shown
    return f"{rest} more policies are not shown. " if rest > 0 else ""


def _panel(axes: Axes, title: str, pairs: NDArray[Any], color: str) -> None:
    mean = float(np.mean(pairs))
    positions = np.arange(len(pairs))
    over = pairs > mean
    axes.bar(positions[over], pairs[over], width=0.82, color=color)
    axes.bar(positions[~over], pairs[~over], width=0.82, color=color, alpha=0.45)
    axes.axhline(mean, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    axes.set_title(f"{title}: max / mean {np.max(pairs) / mean:.2f}", loc="left", fontweight="bold")
    axes.margins(x=0.01)
    axes.grid(axis="y", color="#EDEDED", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _label_axes(fig: Figure, grid: Any, rows: int, columns: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    first = grid[0, 0]
    first.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}"))
    first.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    for row in range(rows):
        grid[row, 0].set_ylabel("load [thousand pairs]")
    for column in range(columns):
        visible = [grid[row, column] for row in range(rows) if grid[row, column].get_visible()]
        if visible:
            visible[-1].set_xlabel("rank")
            visible[-1].tick_params(labelbottom=True)
    for axes in grid.flat:
        axes.spines["left"].set_color(FAINT)
        axes.spines["bottom"].set_color(MUTED)
    fig.align_ylabels(list(grid[:, 0]))
