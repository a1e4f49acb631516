"""A plot of a sweep: one line for each combination of what tells the lines apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .style import CYCLE, DASHES, FAINT, MUTED, policy_look, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..sweep.spec import PlotSpec

Row = dict[str, Any]
_MARKERS = "osD^vPX*"
NO_FIT = (
    "does not fit in the memory of its fullest GPU; its times are those of a machine that had the "
    "memory"
)


def draw(rows: Sequence[Row], plot: PlotSpec, stem: Path) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg``.

    Parameters
    ----------
    rows : sequence of dict
        Of a sweep; those whose ``fits`` is False get hollow markers, and a line says why.
    plot : PlotSpec
    stem : Path

    Raises
    ------
    InputError
        A column of the plot is not there, or nothing is left to draw.
    """
    import matplotlib.pyplot as plt

    kept = _kept(rows, plot)
    panels = [None] if plot.panels is None else list(dict.fromkeys(r[plot.panels] for r in kept))
    with style():
        width = 1.9 + (4.6 if len(panels) == 1 else 2.9 * len(panels))
        fig, axes = plt.subplots(
            1, len(panels), figsize=(width, 3.5), sharey=True, squeeze=False, layout="constrained"
        )
        for axis, panel in zip(axes[0], panels, strict=True):
            here = [row for row in kept if panel is None or row[str(plot.panels)] == panel]
            _panel(axis, here, plot)
            if panel is not None:
                axis.set_title(f"{plot.panels} {panel}", loc="left", color=MUTED)
        axes[0][0].set_ylabel(plot.y_label or plot.y)
        axes[0][0].set_ylim(bottom=0)  # so that a small difference looks small
        lines = axes[0][0].get_legend_handles_labels()
        fig.legend(*lines, loc="outside right center", fontsize=8, handlelength=2.6)
        if any(row.get("fits") is False for row in kept):
            fig.supxlabel(f"hollow: {NO_FIT}", x=0.01, ha="left", fontsize=7, color=MUTED)
        title = _title(kept, plot)
        if title:
            fig.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        return save(fig, stem)


def _title(rows: Sequence[Row], plot: PlotSpec) -> str:
    drawn = [str(row.get("workload", "")).startswith("SYNTHETIC") for row in rows]
    if not any(drawn):
        return plot.title
    return f"{plot.title} (SYNTHETIC load)" if all(drawn) else f"{plot.title} (partly SYNTHETIC)"


def check_columns(rows: Sequence[Row], plot: PlotSpec) -> None:
    """Refuse a plot of columns that rows do not have.

    Raises
    ------
    InputError
        A column of the plot is not there.
    """
    wanted = [plot.x, plot.y, *plot.lines, *plot.only, *([plot.panels] if plot.panels else [])]
    there = {name for row in rows for name in row}
    for name in wanted:
        if name not in there:
            raise InputError(
                "the rows have no such column",
                place="plot",
                value=name,
                remedy=f"one of {', '.join(sorted(there))}",
            )


def _kept(rows: Sequence[Row], plot: PlotSpec) -> list[Row]:
    check_columns(rows, plot)
    kept = [row for row in rows if all(row.get(k) in v for k, v in plot.only.items())]
    if not kept:
        raise InputError("no row is left to draw", place="plot.only", value=plot.only)
    return kept


def _panel(axis: Axes, rows: Sequence[Row], plot: PlotSpec) -> None:
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault(tuple(row[name] for name in plot.lines), []).append(row)
    look = _look(list(lines), plot)
    places = list(dict.fromkeys(row[plot.x] for row in rows))
    named = any(isinstance(place, str | bool) for place in places)
    for key, mine in lines.items():
        color, dash, marker = look[key]
        xs = [places.index(row[plot.x]) if named else row[plot.x] for row in mine]
        axis.plot(
            xs, [row[plot.y] for row in mine], color=color, linestyle=dash, marker=marker,
            markersize=4, linewidth=1.5, label=", ".join(str(part) for part in key),
        )  # fmt: skip
        hollow = [at for at, row in enumerate(mine) if row.get("fits") is False]
        if hollow:
            axis.plot(
                [xs[at] for at in hollow], [mine[at][plot.y] for at in hollow], color=color,
                linestyle="none", marker=marker, markersize=4, markerfacecolor="white", zorder=3,
            )  # fmt: skip
    if plot.reference is not None:
        axis.axhline(plot.reference, color=MUTED, linewidth=0.8, zorder=0)
    if plot.log_x and not named:
        axis.set_xscale("log", base=2)
    if named or len(places) <= 10:
        axis.minorticks_off()
        axis.set_xticks(range(len(places)) if named else places, [f"{place}" for place in places])
    axis.set_xlabel(plot.x_label or plot.x)
    axis.grid(axis="y", color=FAINT, linewidth=0.6)


def _look(keys: list[tuple[Any, ...]], plot: PlotSpec) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Policies keep the colours of all other plots; other lines take theirs in turn."""
    if plot.lines == ("policy",):
        labels = [str(key[0]) for key in keys]
        known = policy_look(labels, {})
        return {
            key: (*known[label], _MARKERS[i % len(_MARKERS)])
            for i, (key, label) in enumerate(zip(keys, labels, strict=True))
        }
    return {
        key: (CYCLE[i % len(CYCLE)], DASHES[i % len(DASHES)], _MARKERS[i % len(_MARKERS)])
        for i, key in enumerate(keys)
    }
