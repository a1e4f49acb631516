"""One iteration as a picture: what every pipeline stage does when, and where the time is lost."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from .blocks import Block, blocks
from .style import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, heading, save, style

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ultraep_sim.engine.critical_path import CriticalPath
    from ultraep_sim.engine.job import IterationTimes

_COLORS = {"forward": BLUE, "backward": ORANGE}
_BUBBLE = "#F2F2F2"
_HEIGHT = 0.72  # of a row; the rest keeps stages apart
#: Blocks narrower than this share of the axis carry no number.
_ROOM = 0.011


def write_pipeline(
    stem: Path,
    times: IterationTimes,
    stages: int,
    *,
    replica: int = 0,
    finish_s: NDArray[np.float64] | None = None,
    path: CriticalPath | None = None,
    title: str = "One training iteration",
    source: str = "Simulated.",
) -> list[Path]:
    """Draw the pipeline of one replica as ``stem.png`` and ``stem.svg``.

    Parameters
    ----------
    stem : Path
    times : IterationTimes
    stages : int
        P; rows from the first stage on top.
    replica : int
    finish_s : float64 [P], optional
        The job's, to draw the optimizer.
    path : CriticalPath, optional
        Outlined where it runs on this replica.
    title, source : str

    Returns
    -------
    list of Path
        The files written.
    """
    with style():
        return save(_figure(times, stages, replica, finish_s, path, title, source), stem)


def _figure(
    times: IterationTimes,
    stages: int,
    replica: int,
    finish_s: NDArray[np.float64] | None,
    path: CriticalPath | None,
    title: str,
    source: str,
) -> Figure:
    import matplotlib.pyplot as plt

    row = 0.42 if stages <= 8 else max(0.16, 3.4 / stages)
    height = 1.75 + row * stages
    fig, axes = plt.subplots(figsize=(10.5, height))
    top = heading(fig, title, source)
    fig.subplots_adjust(left=0.075, right=0.985, top=top - 0.36 / height, bottom=0.5 / height)
    virtual = times.forward_start.shape[1]
    scale, unit = _unit(times.iteration_s)
    whole = times.iteration_s * scale
    ran = [blocks(times, replica, range(stage, virtual, stages)) for stage in range(stages)]
    # The bubble is the ground that blocks leave.
    axes.barh(range(stages), whole, height=_HEIGHT, color=_BUBBLE, linewidth=0, zorder=1)
    _units(axes, ran, stages, scale, whole)
    left_over = _tails(axes, ran, times, finish_s, scale)
    if path is not None:
        _outline(axes, path, replica, scale)
    axes.set_xlim(-0.002 * whole, 1.002 * whole)
    axes.set_ylim(stages - 0.45, -0.55)
    busy = [sum(block.end_s - block.start_s for block in of_stage) for of_stage in ran]
    shares = [100 * seconds / max(times.iteration_s, 1e-30) for seconds in busy]
    if row > 0.3:
        labels = [f"stage {stage}\n{share:.0f} % busy" for stage, share in enumerate(shares)]
    else:
        labels = [str(stage) for stage in range(stages)]
        axes.set_ylabel("pipeline stage")
    axes.set_yticks(range(stages), labels, fontsize=8, color=INK)
    axes.set_xlabel(f"time since the start of the iteration [{unit}]")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    _legend(fig, path is not None, left_over, finish_s, virtual // stages, top + 0.05 / height)
    return fig


def _units(axes: Axes, ran: list[list[Block]], stages: int, scale: float, whole: float) -> None:
    """Draw forwards and backwards; what runs jointly shares the height of a row."""
    from matplotlib.collections import PolyCollection

    boxes: dict[tuple[str, bool], list[list[tuple[float, float]]]] = {}
    chunks = max((vs for of in ran for block in of for vs in block.virtual_stages), default=0)
    for stage, of_stage in enumerate(ran):
        for block in of_stage:
            share = _HEIGHT / len(block.parts)
            left, right = block.start_s * scale, block.end_s * scale
            for index, (way, vs, batch) in enumerate(block.parts):
                low = stage - _HEIGHT / 2 + share * index
                corners = [(left, low), (right, low), (right, low + share), (left, low + share)]
                boxes.setdefault((way, batch % 2 == 0), []).append(corners)
                text = str(batch) + ("" if chunks < stages else chr(ord("a") + vs // stages % 26))
                if right - left > _ROOM * whole * len(text) ** 0.5:
                    _number(axes, (left + right) / 2, low + share / 2, text, way, share)
    for (way, even), areas in boxes.items():
        axes.add_collection(
            PolyCollection(
                areas,
                facecolor=_COLORS[way],
                # Neighbours differ in shade, so that a micro-batch can be followed.
                alpha=1.0 if even else 0.72,
                hatch="////" if way == "backward" else None,
                edgecolor="white",
                linewidth=0.4,
                zorder=2,
            )
        )


def _number(axes: Axes, x: float, y: float, text: str, way: str, share: float) -> None:
    box = {"facecolor": _COLORS[way], "edgecolor": "none", "pad": 0.8}
    axes.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=7 if share == _HEIGHT else 5.5,
        color="white" if way == "forward" else INK,
        bbox=box if way == "backward" else None,
        zorder=4,
    )


def _tails(
    axes: Axes,
    ran: list[list[Block]],
    times: IterationTimes,
    finish_s: NDArray[np.float64] | None,
    scale: float,
) -> bool:
    """Draw what follows the last backward of each stage; say whether any sync is left over."""
    left_over = False
    for stage, of_stage in enumerate(ran):
        last = max((block.end_s for block in of_stage), default=0.0)
        synced = max(float(times.sync_end[stage]), last)
        left_over |= synced > last
        ended = synced + (0.0 if finish_s is None else float(finish_s[stage]))
        for start, end, color in ((last, synced, GREEN), (synced, ended, PURPLE)):
            if end > start:
                axes.barh(
                    stage,
                    (end - start) * scale,
                    left=start * scale,
                    height=_HEIGHT,
                    color=color,
                    edgecolor="white",
                    linewidth=0.4,
                    zorder=2,
                )
    return left_over


def _outline(axes: Axes, path: CriticalPath, replica: int, scale: float) -> None:
    """Outline the stretches of the critical path, and join them where it changes stage."""
    stretches: list[tuple[int, float, float]] = []  # stage, start, end
    for segment in path.segments:
        if segment.replica not in (None, replica) or segment.kind in ("hop", "wait"):
            continue
        start, end = segment.start_s * scale, segment.end_s * scale
        if stretches and stretches[-1][0] == segment.stage and stretches[-1][2] >= start:
            stretches[-1] = segment.stage, stretches[-1][1], end
        else:
            stretches.append((segment.stage, start, end))
    half = (_HEIGHT + 0.06) / 2
    for stage, start, end in stretches:
        axes.barh(
            stage,
            end - start,
            left=start,
            height=2 * half,
            fill=False,
            edgecolor=INK,
            linewidth=1.4,
            zorder=5,
        )
    for (stage, _, end), (after, start, _) in pairwise(stretches):
        if stage != after:
            down = half if after > stage else -half
            ends = ([end, start], [stage + down, after - down])
            axes.plot(*ends, color=INK, linewidth=1.4, zorder=5)


def _unit(seconds: float) -> tuple[float, str]:
    """Choose the unit of the axis."""
    for scale, unit, least in ((1.0, "s", 1.0), (1e3, "ms", 1e-3)):
        if seconds >= least:
            return scale, unit
    return 1e6, "us"


def _legend(
    fig: Figure,
    outlined: bool,
    left_over: bool,
    finish_s: NDArray[np.float64] | None,
    chunks: int,
    top: float,
) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=BLUE, label="forward"),
        Patch(facecolor=ORANGE, edgecolor="white", hatch="////", label="backward"),
        Patch(facecolor=_BUBBLE, edgecolor=FAINT, label="waiting (bubble)"),
    ]
    if left_over:
        handles.append(Patch(facecolor=GREEN, label="gradient sync left over"))
    if finish_s is not None and finish_s.any():
        handles.append(Patch(facecolor=PURPLE, label="optimizer"))
    if outlined:
        handles.append(
            Patch(facecolor="white", edgecolor=INK, linewidth=1.4, label="critical path")
        )
    if fig.axes[0].texts:
        handles.append(Patch(facecolor="none", label="numbers: micro-batches"))
    if chunks > 1:
        letters = ", ".join(chr(ord("a") + chunk % 26) for chunk in range(min(chunks, 4)))
        handles.append(Patch(facecolor="none", label=f"{letters}: chunks of a stage"))
    fig.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.004, top),
        ncols=len(handles),
        fontsize=8,
        handlelength=1.3,
        columnspacing=1.2,
        handletextpad=0.5,
    )
