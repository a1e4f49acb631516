"""The time axis of a heat map: recorded stretches side by side, gaps folded and marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_COLUMNS = 480
FOLDED = 0.05  # widest gap, as a share of what was recorded
ALL_FOLDED = 0.3  # the same for all gaps together
TICKS = 10

_QUIET = "#5b6270"


class Gap(NamedTuple):
    """A stretch that was not recorded: its borders on the axis, its first and last time."""

    left: float
    right: float
    first: int
    last: int


@dataclass(frozen=True)
class TimeAxis:
    """Columns for recorded times, and one empty column for each gap.

    Attributes
    ----------
    label : str
        What a time is: "step" or "micro-batch".
    edges : ndarray of float, shape [columns + 1]
        Borders of the columns. The first stretch keeps its times as positions; later ones move
        left by what was folded.
    column_of : ndarray of int, shape [times]
        Column of each distinct time.
    starts, stops : ndarray of int, shape [stretches]
        First and last time of each recorded stretch.
    places : ndarray of float, shape [stretches]
        Position of each stretch's first time.
    gaps : tuple of Gap
    """

    label: str
    edges: NDArray[np.float64]
    column_of: NDArray[np.intp]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    places: NDArray[np.float64]
    gaps: tuple[Gap, ...]

    def draw(self, axes: Any, *, name_gaps: bool) -> None:
        """Set ticks at recorded times; hatch the gaps and, if asked, name what they leave out."""
        ticks = self.ticks()
        axes.set_xticks(list(ticks), [str(time) for time in ticks.values()])
        span = self.edges[-1] - self.edges[0]
        for left, right, first, last in self.gaps:
            axes.axvspan(left, right, facecolor="#f4f5f6", edgecolor="#c9cdd3", hatch="////", lw=0)
            if name_gaps and right - left > 0.015 * span:
                axes.text(
                    (left + right) / 2,
                    0.5,
                    f"{self.label}s {first} to {last} not recorded",
                    transform=axes.get_xaxis_transform(),
                    rotation=90,
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=_QUIET,
                    bbox={"facecolor": "#f4f5f6", "edgecolor": "none", "pad": 1.5},
                )

    def ticks(self) -> dict[float, int]:
        """Return position and time of round times, none too close to its neighbour."""
        from matplotlib.ticker import MaxNLocator

        total = float((self.stops - self.starts).sum())
        span = float(self.edges[-1] - self.edges[0])
        kept: dict[float, int] = {}
        for start, stop, place in zip(self.starts, self.stops, self.places, strict=True):
            count = max(1, round(TICKS * (stop - start) / total)) if total else 1
            found = MaxNLocator(nbins=count, integer=True).tick_values(start, stop)
            inside = [int(time) for time in found if start <= time <= stop] or [int(start)]
            for time in inside:
                at = float(place + time - start)
                if not kept or at - max(kept) > 0.04 * span:
                    kept[at] = time
        return kept


def fold_gaps(times: NDArray[np.integer[Any]], label: str) -> TimeAxis:
    """Lay recorded times out on an axis.

    Neighbours share a column where there are too many for the picture. A jump of more than twice
    the usual distance is a gap; it is drawn at most `FOLDED` of the recorded stretches wide.

    Parameters
    ----------
    times : ndarray of int, shape [times]
        Distinct, ascending.
    label : str
        What a time is.
    """
    times = times.astype(np.int64)
    jumps = np.diff(times)
    spacing = max(1, int(np.median(jumps))) if len(jumps) else 1
    cuts = np.flatnonzero(jumps > 2 * spacing)
    starts, stops = times[np.append(0, cuts + 1)], times[np.append(cuts, len(times) - 1)]
    recorded = int((stops - starts + spacing).sum())
    width = spacing * -(-recorded // (spacing * MAX_COLUMNS))
    widest = recorded * min(FOLDED, ALL_FOLDED / max(1, len(cuts)))

    column_of = np.empty(len(times), dtype=np.intp)
    edges, places, gaps = [float(times[0]) - 0.5 * spacing], [], []
    for at, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        if at:
            before = int(stops[at - 1])
            left = edges[-1]
            edges.append(left + min(float(start - before - spacing), widest))
            gaps.append(Gap(left, edges[-1], before + 1, start - 1))
        inside = (times >= start) & (times <= stop)
        column_of[inside] = len(edges) - 1 + (times[inside] - start) // width
        left, count = edges[-1], (stop - start) // width + 1
        places.append(left + 0.5 * spacing)
        edges += [left + width * n for n in range(1, count)]
        edges.append(left + stop - start + spacing)
    return TimeAxis(label, np.array(edges), column_of, starts, stops, np.array(places), tuple(gaps))
