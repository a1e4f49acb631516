"""One layer as a picture: a row a phase, in it a line a rank; what is pale is waiting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .blocks import Span
from .plot_time import PARTS
from .style import INK, MUTED, SKY, heading, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ultraep_sim.engine.job import IterationTimes

_TITLES = {
    "fwd_attention": "attention, gate",
    "fwd_shared": "shared experts",
    "fwd_plan": "plan",
    "fwd_distribute": "weights to replicas",
    "fwd_reroute": "reroute",
    "fwd_dispatch": "dispatch",
    "fwd_compute": "experts",
    "fwd_combine": "combine",
    "bwd_combine": "gradient of combine",
    "bwd_distribute": "weights restored",
    "bwd_compute": "experts",
    "bwd_dispatch": "gradient of dispatch",
    "bwd_attention": "attention, gate",
    "bwd_shared": "shared experts",
    "bwd_grad_reduce": "gradients reduced",
}
_COLOR = {phase: part.color for part in PARTS for phase in part.phases} | {"shared": SKY}
_HEIGHT = 0.78

_Row = tuple[str, str]  # pass, phase


def write_layer(
    stem: Path,
    spans: Sequence[Span],
    times: IterationTimes,
    *,
    title: str = "One MoE layer",
    source: str = "Simulated.",
) -> list[Path]:
    """Draw the kernels of one layer as ``stem.png`` and ``stem.svg``.

    Parameters
    ----------
    stem : Path
    spans : sequence of Span
        Everything one group did, micro-batches and ranks from 0; see
        `ultraep_sim.engine.excerpts`.
    times : IterationTimes
        Of the same run; tells the recomputed forward from the first one.
    title, source : str

    Returns
    -------
    list of Path
        The files written.
    """
    with style():
        return save(_figure(spans, times, title, source), stem)


def rows(spans: Sequence[Span], times: IterationTimes) -> dict[_Row, list[Span]]:
    """Gather spans by pass and phase, in order of their first start."""
    found: dict[_Row, list[Span]] = {}
    forward_end = times.forward_end[0, 0]
    for span in sorted(spans, key=lambda span: span.start_s):
        if span.phase not in _TITLES:
            continue
        again = span.start_s >= forward_end[span.micro_batch]
        first = "recompute" if again else "forward"
        which = first if span.phase.startswith("fwd_") else "backward"
        found.setdefault((which, span.phase), []).append(span)
    order = {"forward": 0, "recompute": 1, "backward": 2}
    return dict(sorted(found.items(), key=lambda row: order[row[0][0]]))


def _figure(spans: Sequence[Span], times: IterationTimes, title: str, source: str) -> Figure:
    import matplotlib.pyplot as plt

    table = rows(spans, times)
    height = 1.35 + 0.34 * len(table)
    fig, axes = plt.subplots(figsize=(9.2, height))
    ranks = 1 + max((span.rank for span in spans), default=0)
    note = f"In each row a line a rank, rank 0 on top; pale: waiting for the slowest. {source}"
    top = heading(fig, title, note)
    fig.subplots_adjust(left=0.205, right=0.985, top=top - 0.06 / height, bottom=0.48 / height)
    whole = max((span.end_s for span in spans), default=1.0)
    scale, unit = (1e3, "ms") if whole >= 1e-3 else (1e6, "us")
    for position, ((_, phase), of_row) in enumerate(table.items()):
        _row(axes, position, phase, of_row, ranks, scale)
        _longest(axes, position, of_row, ranks, scale, unit, whole * scale)
    _passes(axes, list(table))
    axes.set_yticks(range(len(table)), [_TITLES[phase] for _, phase in table], fontsize=8.5)
    axes.set_xlim(0, whole * scale)
    axes.set_ylim(len(table) - 0.45, -0.55)
    axes.set_xlabel(f"time since the start of the layer [{unit}]")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="x", color="#EDEDED", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    return fig


def _row(
    axes: Axes, position: int, phase: str, spans: list[Span], ranks: int, scale: float
) -> None:
    from matplotlib.collections import PolyCollection

    color = _COLOR[phase.partition("_")[2]]
    for start, end in _steps(spans):
        axes.barh(
            position,
            (end - start) * scale,
            left=start * scale,
            height=_HEIGHT,
            color=color,
            alpha=0.22,
            linewidth=0,
            zorder=2,
        )
        # What is too short for the scale still shows where it was.
        ends = position - _HEIGHT / 2, position + _HEIGHT / 2
        axes.vlines(start * scale, *ends, color=color, linewidth=0.7, zorder=3)
    line = _HEIGHT / ranks
    boxes = []
    for span in spans:
        low = position - _HEIGHT / 2 + span.rank * line
        left, right = span.start_s * scale, span.end_s * scale
        boxes.append([(left, low), (right, low), (right, low + line), (left, low + line)])
    axes.add_collection(PolyCollection(boxes, facecolor=color, linewidth=0, zorder=3))


def _steps(spans: list[Span]) -> list[tuple[float, float]]:
    """Start and slowest end of each time the phase ran."""
    ends: dict[float, float] = {}
    for span in spans:
        ends[span.start_s] = max(ends.get(span.start_s, 0.0), span.end_s)
    return sorted(ends.items())


def _longest(
    axes: Axes,
    position: int,
    spans: list[Span],
    ranks: int,
    scale: float,
    unit: str,
    whole: float,
) -> None:
    """Write how long the phase takes at most, and on which rank where they differ."""
    last = max(spans, key=lambda span: (span.end_s - span.start_s, -span.rank))
    seconds = [span.end_s - span.start_s for span in spans if span.start_s == last.start_s]
    text = "up to " if len(_steps(spans)) > 1 else ""
    text += f"{max(seconds) * scale:.3g} {unit}"
    if len(seconds) < ranks or max(seconds) > 1.01 * min(seconds):
        mean = sum(seconds) / ranks
        text += f" on rank {last.rank}, mean {mean * scale:.3g}"
    right = max(span.end_s for span in spans) * scale
    # Beside the bar, on the side where there is room.
    fits = right < 0.72 * whole
    start = min(span.start_s for span in spans) * scale
    axes.text(
        right + 0.008 * whole if fits else start - 0.008 * whole,
        position,
        text,
        ha="left" if fits else "right",
        va="center",
        fontsize=7.5,
        color=INK,
        zorder=4,
    )


def _passes(axes: Axes, table: list[_Row]) -> None:
    """Name forward, recompute and backward beside their rows, and rule lines between them."""
    begin = 0
    for position in range(1, len(table) + 1):
        if position < len(table) and table[position][0] == table[begin][0]:
            continue
        if begin:
            axes.axhline(begin - 0.5, color=MUTED, linewidth=0.6, zorder=1)
        axes.text(
            -0.245,
            (begin + position - 1) / 2,
            table[begin][0],
            transform=axes.get_yaxis_transform(),
            rotation=90,
            ha="center",
            va="center",
            fontsize=8.5,
            fontweight="bold",
            color=MUTED,
        )
        begin = position
