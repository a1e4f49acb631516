"""A picture of a trace: where and when experts are out of balance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from .container import Trace
from .heatmap_axis import TimeAxis, fold_gaps
from .layer_stats import rank_starts
from .meta import TraceMeta

EP_SIZE = 64

_SHARE_DECADES = (0.125, 8.0)
_INK = "#1f2430"
_QUIET = "#5b6270"


@dataclass(frozen=True)
class HeatmapData:
    """What the picture shows, column by column.

    Attributes
    ----------
    ep_size : int
        Expert-parallel ranks of the imbalance panel.
    axis : TimeAxis
        The columns: steps, or the micro-batches of a single step.
    layers : ndarray of int, shape [layers]
    imbalance : ndarray of float, shape [layers, columns]
        Mean over the records of a column; NaN where there is none.
    mean_imbalance : float
        Mean over all records, as `trace_stats` has it; columns can hold unequal numbers of them.
    layer : int
        Layer of the second panel.
    shares : ndarray of float, shape [num_experts, columns]
        Load of every expert over the mean load of experts; 1 is balance.
    """

    ep_size: int
    axis: TimeAxis
    layers: NDArray[np.int32]
    imbalance: NDArray[np.float64]
    mean_imbalance: float
    layer: int
    shares: NDArray[np.float64]


def heatmap_data(trace: Trace, ep_size: int = EP_SIZE, layer: int | None = None) -> HeatmapData:
    """Collect the picture's numbers in one pass over the records.

    Parameters
    ----------
    trace : Trace
    ep_size : int
        Ranks for the imbalance; with fewer experts than that, one rank an expert.
    layer : int, optional
        Layer of the expert panel; by default the middle one.

    Returns
    -------
    HeatmapData

    Raises
    ------
    TraceError
        If there is no record, or no such layer.
    """
    meta = trace.meta
    ranks = min(ep_size, meta.num_experts)
    starts = rank_starts(ranks, meta.num_experts)
    keys = trace.keys()
    if not len(keys):
        raise TraceError("the trace has no records", place="heat map", remedy="select more steps")
    layers = np.unique(keys[:, 2])
    chosen = int(layers[len(layers) // 2]) if layer is None else layer
    if chosen not in layers:
        raise TraceError(
            "the trace has no such layer",
            place="heat map",
            value=layer,
            remedy=f"choose one of {layers.tolist()}",
        )
    batches, axis = _time_axis(keys)
    columns = len(axis.edges) - 1
    sums = np.zeros((len(layers), columns))
    counts = np.zeros((len(layers), columns))
    pairs = np.zeros((meta.num_experts, columns))
    row_of = {int(number): at for at, number in enumerate(layers)}
    for record, batch in zip(trace, batches, strict=True):
        loads = record.loads.sum(axis=0, dtype=np.int64)
        column, row = axis.column_of[batch], row_of[record.layer]
        by_rank = np.add.reduceat(loads, starts)
        sums[row, column] += by_rank.max() * ranks / by_rank.sum()
        counts[row, column] += 1
        if record.layer == chosen:
            pairs[:, column] += loads
    with np.errstate(invalid="ignore", divide="ignore"):
        imbalance = sums / counts
        shares = pairs / pairs.mean(axis=0)
    mean = float(sums.sum() / counts.sum())
    return HeatmapData(ranks, axis, layers, imbalance, mean, chosen, shares)


def save_heatmap(
    trace: Trace,
    path: str | Path,
    *,
    ep_size: int = EP_SIZE,
    layer: int | None = None,
    title: str | None = None,
) -> Path:
    """Draw the trace as a PNG (or what the suffix says) and return its path.

    The upper panel shows the rank imbalance of every layer over time; the lower one each
    expert's load, over the mean, in one layer. Colours are perceptually even and safe for
    colour-blind readers; those of experts are logarithmic, white at balance, and clipped at 8
    times the mean. Stretches that were not recorded are folded and hatched.

    Parameters
    ----------
    trace : Trace
    path : str or Path
    ep_size, layer
        See `heatmap_data`.
    title : str, optional
        Name of the trace; by default its model. "recorded" or "SYNTHETIC" is always added.

    Returns
    -------
    Path

    Raises
    ------
    TraceError
        If the trace is empty or the file cannot be written.
    """
    data = heatmap_data(trace, ep_size, layer)
    figure = _draw(data, trace.meta, title or trace.meta.model)
    try:
        figure.savefig(path, dpi=150, facecolor="white", metadata=_no_date(path))
    except (OSError, ValueError) as error:
        raise TraceError(
            "the picture cannot be written",
            file=path,
            value=str(error),
            remedy="check the folder and use a suffix such as .png or .svg",
        ) from None
    return Path(path)


def _time_axis(keys: NDArray[np.int32]) -> tuple[NDArray[np.intp], TimeAxis]:
    """Return which of the axis' times each record has, and the axis."""
    column, label = (0, "step") if keys[0, 0] != keys[-1, 0] else (1, "micro-batch")
    times, which = np.unique(keys[:, column], return_inverse=True)
    return which, fold_gaps(times, label)


def _draw(data: HeatmapData, meta: TraceMeta, title: str) -> Any:
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure

    many = len(data.layers)
    upper = min(max(1.2, 0.24 * many + 0.5), 4.2)
    figure = Figure(figsize=(10.5, upper + 4.9), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[upper, 3.4])
    _title(figure, data, meta, title)

    finite = data.imbalance[np.isfinite(data.imbalance)]
    ceiling = max(float(np.percentile(finite, 99.5)), 1.05)
    mesh = top.pcolormesh(
        data.axis.edges,
        np.arange(many + 1) - 0.5,
        data.imbalance,
        cmap="magma_r",
        norm=Normalize(1.0, ceiling),
        rasterized=True,
    )
    clipped = "max" if float(finite.max()) > ceiling else "neither"
    _colour_bar(figure, mesh, top, "rank imbalance\n(max / mean, 1 = balanced)", clipped)
    _panel(top, f"Rank imbalance at EP{data.ep_size}, contiguous homes", "MoE layer")
    _layer_ticks(top, data.layers)
    top.tick_params(labelbottom=False)

    low, high = _SHARE_DECADES
    mesh = bottom.pcolormesh(
        data.axis.edges,
        np.arange(len(data.shares) + 1) - 0.5,
        np.maximum(data.shares, low / 2),
        cmap="RdBu_r",
        norm=LogNorm(low, high),
        rasterized=True,
    )
    bar = _colour_bar(
        figure, mesh, bottom, "expert load / mean load\n(log scale, white = balanced)", "both"
    )
    ticks = [0.125, 0.25, 0.5, 1, 2, 4, 8]
    bar.set_ticks(ticks, labels=["⅛", "¼", "½", "1", "2", "4", "8"])
    bar.minorticks_off()
    _panel(bottom, f"Load of each expert in layer {data.layer}", "expert")
    experts = len(data.shares)
    bottom.set_yticks(sorted({*range(0, experts, max(1, experts // 8)), experts - 1}))
    bottom.invert_yaxis()
    bottom.set_xlabel(data.axis.label, color=_INK)
    data.axis.draw(top, name_gaps=False)
    data.axis.draw(bottom, name_gaps=True)
    return figure


def _title(figure: Any, data: HeatmapData, meta: TraceMeta, title: str) -> None:
    word = "recorded routing" if not meta.synthetic else "SYNTHETIC routing"
    rescaled = ", rescaled" if "rescaled_to" in meta.notes else ""
    about = (
        f"{meta.num_experts} experts, top-{meta.top_k}, {meta.phase}, "
        f"{meta.source_ranks * meta.tokens_per_rank:,} tokens a micro-batch{rescaled}   |   "
        f"mean imbalance at EP{data.ep_size}: {data.mean_imbalance:.2f}"
    )
    figure.suptitle(
        f"{title}: {word}", fontsize=14, fontweight="bold", color=_INK, x=0.053, ha="left"
    )
    figure.get_axes()[0].annotate(
        about, (0, 1), (0, 26), xycoords="axes fraction", textcoords="offset points",
        fontsize=10, color=_QUIET,
    )  # fmt: skip


def _panel(axes: Any, title: str, label: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK, pad=6)
    axes.set_ylabel(label, color=_INK)
    axes.set_facecolor("#e3e5e8")  # records that are not there
    axes.tick_params(colors=_QUIET, labelsize=9, length=3)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _colour_bar(figure: Any, mesh: Any, axes: Any, label: str, extend: str) -> Any:
    bar = figure.colorbar(mesh, ax=axes, pad=0.015, aspect=18, extend=extend)
    bar.set_label(label, fontsize=9, color=_INK)
    bar.ax.tick_params(colors=_QUIET, labelsize=9, length=3)
    bar.outline.set_visible(False)
    return bar


def _layer_ticks(axes: Any, layers: NDArray[np.int32]) -> None:
    every = max(1, -(-len(layers) // 14))
    axes.set_yticks(range(0, len(layers), every), labels=layers[::every].tolist())
    axes.invert_yaxis()


def _no_date(path: str | Path) -> dict[str, None] | None:
    """Keep the time of drawing out of formats that would store it: same trace, same bytes."""
    key = {".svg": "Date", ".pdf": "CreationDate"}.get(Path(path).suffix.lower())
    return {key: None} if key else None
