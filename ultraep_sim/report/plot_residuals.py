"""What a fit leaves: how far each fitted row lies from its law, fit by fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.report.style import CYCLE, FAINT, INK, MUTED, heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BANDS = (5.0, 10.0)
_WIDEST = 100.0  # percent: what lies beyond is drawn at the edge


def figure(errors: Mapping[str, NDArray[np.float64]], title: str, source: str) -> Figure:
    """Draw one strip a fit.

    Parameters
    ----------
    errors : mapping of str to float64 [rows]
        ``log(measured / predicted)`` by name of the fit.
    title, source : str
        Heading and provenance.

    Returns
    -------
    Figure
        Percent on the horizontal axis, rows of a fit in the order of the file from bottom to top
        of its strip, with the median and 90th percentile of the absolute error in words.
    """
    import matplotlib.pyplot as plt

    drawn = plt.figure(figsize=(7.2, 1.5 + 0.5 * max(len(errors), 2)))
    top = heading(drawn, title, source)
    axes = drawn.add_axes(
        (0.24, 0.62 / drawn.get_figheight(), 0.72, top - 1.0 / drawn.get_figheight())
    )
    percent = {name: 100 * np.expm1(e) for name, e in errors.items()}
    reach = max([2 * _BANDS[0], *(float(np.abs(p).max(initial=0.0)) for p in percent.values())])
    reach = 1.05 * min(reach, _WIDEST)
    for band in reversed(_BANDS):
        axes.axvspan(-band, band, color=FAINT, alpha=0.5, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    for at, values in enumerate(percent.values()):
        height = at + np.linspace(-0.3, 0.3, len(values)) if len(values) > 1 else np.array([at])
        shown = np.clip(values, -reach, reach)
        axes.scatter(
            shown, height, s=5, alpha=0.5, linewidths=0, color=CYCLE[at % len(CYCLE)],
            rasterized=True,
        )  # fmt: skip
        middle, p90 = np.quantile(np.abs(values), (0.5, 0.9))
        text = f"{len(values)} rows, median {middle:.1f} %, p90 {p90:.1f} %"
        axes.text(
            1.0, at + 0.33, text, transform=axes.get_yaxis_transform(), ha="right", va="bottom",
            fontsize=7, color=MUTED,
        )  # fmt: skip
    axes.set(xlim=(-reach, reach), ylim=(-0.5, len(percent) - 0.2))
    axes.set_yticks(range(len(percent)), list(percent))
    axes.set_xlabel("measured over predicted, % off (bands: 5 % and 10 %)")
    return drawn
