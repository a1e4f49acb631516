"""Residuals of every grouped-GEMM set of a system on one page: small multiples by tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.report.style import BLUE, FAINT, GREY, INK, MUTED, VERMILION, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

_ACROSS = 4
_BANDS = (5.0, 10.0)
_WIDEST = 30.0  # percent: what lies beyond is drawn at the edge
_PANEL_INCHES = (2.9, 2.15)
_LEFT, _BOTTOM, _GAP = 0.5, 0.5, 0.42
#: Tokens have few values, which would cover each other: rows are spread by so much of an octave.
_JITTER = 0.3


def figure(
    rows: Sequence[Mapping[str, Any]], positions: Mapping[str, float], title: str, source: str
) -> Figure:
    """Draw a panel a set.

    Parameters
    ----------
    rows : sequence of mapping
        Balanced rows with ``case`` (``SET/TOKENS/epRANKS``), ``relative_error`` and ``role``.
    positions : mapping of str to float
        Of skewed rows in their prediction, 0 to 1, by case (``SET/DISTRIBUTION/TOKENS/epRANKS``).
    title, source : str
        Heading and provenance.

    Returns
    -------
    Figure
        Above: simulated over measured in percent, fitted rows grey, held-out ones blue. Below:
        positions of skewed rows, those outside the central 90 % in vermilion.
    """
    import matplotlib.pyplot as plt

    sets = list(dict.fromkeys(_set_of(row["case"], 2) for row in rows))
    down = max(math.ceil(len(sets) / _ACROSS), 1)
    width = _LEFT + _ACROSS * _PANEL_INCHES[0]
    height = 1.0 + down * (_PANEL_INCHES[1] + _GAP) + _BOTTOM
    drawn = plt.figure(figsize=(width, height))
    top = heading(drawn, title, source) * height
    step = (top - _BOTTOM) / down
    for at, name in enumerate(sets):
        left = _LEFT + (at % _ACROSS) * _PANEL_INCHES[0]
        low = top - (at // _ACROSS + 1) * step + 0.18
        tall = step - _GAP - 0.1
        box = (left / width, 0, (_PANEL_INCHES[0] - 0.3) / width, 0)
        upper = drawn.add_axes((box[0], (low + 0.4 * tall) / height, box[2], 0.6 * tall / height))
        lower = drawn.add_axes((box[0], low / height, box[2], 0.36 * tall / height))
        ours = [row for row in rows if _set_of(row["case"], 2) == name]
        _errors(upper, ours)
        skewed = {case: p for case, p in positions.items() if _set_of(case, 3) == name}
        _positions(lower, skewed)
        _label(upper, lower, name, first=at % _ACROSS == 0, last=at + _ACROSS >= len(sets))
    return drawn


def _set_of(case: str, tail: int) -> str:
    return case.rsplit("/", tail)[0]


def _across(cases: Sequence[str]) -> Floats:
    """Tokens of rows, spread a little by their ranks so that none covers another."""
    tokens = np.array([float(case.split("/")[-2]) for case in cases])
    ranks = np.log2([float(case.rsplit("/ep", 1)[1]) for case in cases])
    return np.asarray(tokens * 2 ** (_JITTER * (ranks / max(float(ranks.max(initial=0)), 1) - 0.5)))


def _errors(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for band in reversed(_BANDS):
        axes.axhspan(-band, band, color=FAINT, alpha=0.5, linewidth=0)
    axes.axhline(0, color=INK, linewidth=0.6)
    for role, color in (("fitted", GREY), ("predicted", BLUE)):
        ours = [row for row in rows if row["role"] == role]
        percent = np.array([100 * row["relative_error"] for row in ours])
        shown = np.clip(percent, -_WIDEST, _WIDEST)
        axes.scatter(
            _across([row["case"] for row in ours]), shown, s=5, color=color, linewidths=0,
            rasterized=True,
        )  # fmt: skip
        if role == "predicted" and len(ours):
            middle, p90 = np.quantile(np.abs(percent), (0.5, 0.9))
            axes.text(
                0.99, 0.97, f"held out: median {middle:.1f} %, p90 {p90:.1f} %",
                transform=axes.transAxes, ha="right", va="top", fontsize=6.5, color=BLUE,
            )  # fmt: skip
    axes.set(xscale="log", xlim=(0.7, 24000), ylim=(-1.15 * _WIDEST, 1.45 * _WIDEST))
    axes.set_yticks([-30, -10, 0, 10, 30])
    axes.set_xticklabels([])


def _positions(axes: Axes, positions: Mapping[str, float]) -> None:
    axes.axhspan(0.05, 0.95, color=FAINT, alpha=0.5, linewidth=0)
    values = np.array(list(positions.values()))
    outside = np.abs(values - 0.5) > 0.45
    axes.scatter(
        _across(list(positions)), values, s=3, linewidths=0, alpha=0.7,
        color=[VERMILION if one else GREY for one in outside], rasterized=True,
    )  # fmt: skip
    if len(values):
        axes.text(
            0.99, 0.5, f"{1 - outside.mean():.0%} in band", transform=axes.transAxes, ha="right",
            va="center", fontsize=6.5, color=INK, bbox={"color": "white", "alpha": 0.7, "pad": 1},
        )  # fmt: skip
    axes.set(xscale="log", xlim=(0.7, 24000), ylim=(-0.06, 1.06))
    axes.set_yticks([0, 1])


def _label(upper: Axes, lower: Axes, name: str, *, first: bool, last: bool) -> None:
    _, _, kernel, model, precision = name.split("/")
    upper.set_title(
        f"{model}, {precision}\n{kernel.removeprefix('moe_torch_flow_')}",
        loc="left", fontsize=7.5, pad=2,
    )  # fmt: skip
    for axes in (upper, lower):
        axes.tick_params(labelsize=6.5, length=2, pad=1.5)
        axes.minorticks_off()
    if first:
        upper.set_ylabel("% off", fontsize=7)
        lower.set_ylabel("position", fontsize=7)
    if last:
        lower.set_xlabel("tokens of the group", fontsize=7, color=MUTED)
    else:
        lower.set_xticklabels([])
