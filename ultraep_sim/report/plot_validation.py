"""Simulated against published figures, row by row, with bands of 5 % and 10 %."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ultraep_sim.report.style import CYCLE, FAINT, INK, MUTED, heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BANDS = (0.05, 0.10)


def figure(rows: Sequence[Mapping[str, Any]], title: str, source: str, unit: str) -> Figure:
    """Draw predicted rows by table; those without a published value are left out.

    Parameters
    ----------
    rows : sequence of mapping
        With ``table``, ``published``, ``simulated`` and ``role``.
    title, source, unit : str
        Heading, provenance, and what both axes count.

    Returns
    -------
    Figure
        Logarithmic axes with the diagonal and its bands; points of fitted rows are not drawn.
    """
    import matplotlib.pyplot as plt

    shown = [r for r in rows if r["role"] == "predicted" and r["published"] and r["simulated"]]
    drawn = plt.figure(figsize=(6.4, 6.6))
    top = heading(drawn, title, source)
    axes = drawn.add_axes((0.12, 0.09, 0.85, top - 0.11))
    values = np.array([[r["published"], r["simulated"]] for r in shown] or [[1.0, 1.0]])
    ends = np.array([values.min() / 1.5, values.max() * 1.5])
    for band in reversed(_BANDS):
        axes.fill_between(
            ends, ends * (1 - band), ends * (1 + band), color=FAINT, alpha=0.6, linewidth=0
        )
    axes.plot(ends, ends, color=INK, linewidth=0.8)
    for index, table in enumerate(dict.fromkeys(r["table"] for r in shown)):
        points = np.array([[r["published"], r["simulated"]] for r in shown if r["table"] == table])
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=4,
            alpha=0.35,
            linewidths=0,
            color=CYCLE[index % len(CYCLE)],
            label=f"{table} ({len(points)})",
            rasterized=True,
        )
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set_xlabel(f"published, {unit}")
    axes.set_ylabel(f"simulated, {unit}")
    legend = axes.legend(loc="upper left", frameon=False, markerscale=3)
    for text in legend.get_texts():
        text.set_color(INK)
    axes.text(0.98, 0.02, "bands: 5 % and 10 %", transform=axes.transAxes, ha="right", color=MUTED)
    return drawn
