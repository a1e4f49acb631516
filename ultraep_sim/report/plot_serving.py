"""Plots of serving: imbalance and queue over time, times to first token, and TTFT against rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .style import FAINT, INK, MUTED, heading, policy_look, save, style

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..serving.capacity import Point
    from ..serving.run import ServingResult

Floats = NDArray[np.float64]

#: Points a line over time has at most; each is the mean of the steps it stands for.
_BINS = 160


def write_serving_plots(result: ServingResult, directory: str | Path) -> list[Path]:
    """Draw every plot of a serving run into its directory, as PNG and SVG."""
    stem, written = Path(directory), []
    with style():
        for name, draw in PLOTS.items():
            written += save(draw(result), stem / name)
    return written


def over_time(result: ServingResult) -> Figure:
    """Imbalance, and requests that wait, over time; changes of the mix are marked."""
    import matplotlib.pyplot as plt

    fig, (above, below) = plt.subplots(2, 1, figsize=(7.4, 5.4), sharex=True)
    for label, color, dash, part in _by_policy(result, result.steps):
        began = part["began_s"].to_numpy()
        for axis, name in ((above, "imbalance"), (below, "waiting")):
            at, values = _binned(began, part[name].to_numpy().astype(np.float64))
            axis.plot(at, values, color=color, linestyle=dash, linewidth=1.4, label=label)
    above.set_ylabel("rank imbalance [max/mean]")
    above.set_ylim(bottom=1.0)
    below.set_ylabel("waiting [requests]")
    below.set_ylim(bottom=0)
    below.set_xlabel("time [s]")
    _mark_changes(result, (above, below))
    _finish(fig, above, result, "Rank imbalance and queue over time")
    return fig


def first_tokens(result: ServingResult) -> Figure:
    """Share of the requests whose first token came within a time."""
    import matplotlib.pyplot as plt

    spec = result.scenario.serving
    assert spec is not None  # noqa: S101  (it was served)
    fig, axis = plt.subplots(figsize=(7.4, 4.0))
    for label, color, dash, part in _by_policy(result, result.requests):
        arrival = part["arrival_s"].to_numpy()
        end = part["end_s"].to_numpy(zero_copy_only=False)
        served = np.asarray(part["outcome"].to_pylist()) == "served"
        counted = arrival >= spec.warmup_s
        waits = np.sort((end - arrival)[served & counted])
        if waits.size:
            quantiles = np.linspace(0, 1, 400)
            share = quantiles * waits.size / max(1, int(counted.sum()))
            axis.plot(
                np.quantile(waits, quantiles), 100 * share, color=color, linestyle=dash, label=label
            )
    axis.axvline(spec.slo.ttft_s, color=INK, linewidth=0.9, linestyle=":")
    axis.annotate(
        f"SLO {spec.slo.ttft_s:g} s", (spec.slo.ttft_s, 2), xytext=(4, 0),
        textcoords="offset points", fontsize=8,
    )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlabel("time to first token [s]")
    axis.set_ylabel("requests [% of those sent]")
    axis.set_ylim(0, 101)
    _finish(fig, axis, result, "Time to first token")
    return fig


PLOTS: dict[str, Callable[[ServingResult], Figure]] = {
    "over_time": over_time,
    "first_tokens": first_tokens,
}


def draw_capacity(
    curves: Mapping[str, Sequence[Point]],
    names: Mapping[str, str],
    line_s: float,
    what: str,
    source: str,
    stem: Path,
) -> list[Path]:
    """Draw TTFT against rate per policy with the SLO's line, as PNG and SVG.

    Parameters
    ----------
    curves : mapping of str to sequence of Point
        By label; points without a TTFT are left out.
    names : mapping of str to str
        Policy by label.
    line_s : float
    what : str
        ``mean`` or ``p99``.
    source : str
        Where the load comes from, under the title.
    stem : Path
    """
    import matplotlib.pyplot as plt

    with style():
        fig, axis = plt.subplots(figsize=(7.4, 4.4))
        look = policy_look(list(curves), dict(names))
        for label, points in curves.items():
            told = sorted((p.rate_per_s, p.ttft_s) for p in points if p.ttft_s is not None)
            color, dash = look[label]
            axis.plot(
                [rate for rate, _ in told], [ttft for _, ttft in told], color=color,
                linestyle=dash, marker="o", markersize=3, label=label,
            )  # fmt: skip
        axis.axhline(line_s, color=INK, linewidth=0.9, linestyle=":")
        axis.annotate(
            f"SLO {line_s:g} s", (0.01, line_s), xycoords=("axes fraction", "data"),
            xytext=(0, 3), textcoords="offset points", fontsize=8,
        )  # fmt: skip
        axis.set_ylim(0, 2.5 * line_s)
        axis.set_xlim(left=0)
        axis.set_xlabel("requests [1/s]")
        axis.set_ylabel(f"{what} time to first token [s]")
        axis.grid(axis="y", color=FAINT, linewidth=0.6)
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        top = heading(fig, "Time to first token against request rate", source)
        fig.tight_layout(rect=(0, 0, 1, top))
        return save(fig, stem)


def _by_policy(result: ServingResult, table: pa.Table) -> list[tuple[str, str, Any, pa.Table]]:
    import pyarrow.compute as pc

    labels = [spec.label for spec in result.scenario.policies]
    names = {spec.label: spec.name for spec in result.scenario.policies}
    look = policy_look(labels, names)
    return [
        (label, *look[label], table.filter(pc.equal(table["policy"], label))) for label in labels
    ]


def _binned(at: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Mean of both in at most `_BINS` groups of consecutive steps."""
    size = max(1, -(-len(at) // _BINS))
    starts = np.arange(0, len(at), size)
    counts = np.diff(np.append(starts, len(at)))
    if not len(at):
        return at, values
    return np.add.reduceat(at, starts) / counts, np.add.reduceat(values, starts) / counts


def _mark_changes(result: ServingResult, axes: Sequence[Axes]) -> None:
    work = result.scenario.workload.requests
    assert work is not None  # noqa: S101  (it was served)
    for change in work.domains.changes:
        for axis in axes:
            end = change.at_s + max(change.over_s, 1e-9)
            axis.axvspan(change.at_s, end, color=FAINT, zorder=0, linewidth=1.0)


def _finish(fig: Figure, axis: Axes, result: ServingResult, title: str) -> None:
    for each in fig.axes:
        each.grid(axis="y", color=FAINT, linewidth=0.6)
        each.tick_params(colors=MUTED)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    top = heading(fig, f"{result.scenario.name}: {title}", result.workload_label)
    fig.tight_layout(rect=(0, 0, 1, top))
