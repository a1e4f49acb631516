"""An axis of steps that folds long stretches nobody recorded, and says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDED = 0.07  # width of a folded stretch, as a share of what was recorded
TICKS = 9


class StepAxis:
    """Maps steps to positions.

    Parameters
    ----------
    steps : array_like of int
        Steps that were recorded. A jump of more than twice the usual stride is a gap; a gap wider
        than `FOLDED` of the recorded stretches is drawn that wide only.
    """

    def __init__(self, steps: Any) -> None:
        unique = np.unique(np.asarray(steps)).astype(np.float64)
        stride = np.diff(unique)
        usual = float(np.median(stride)) if len(stride) else 1.0
        jumps = np.flatnonzero(stride > 2 * usual)
        self.starts = unique[np.concatenate(([0], jumps + 1))]
        self.stops = unique[np.concatenate((jumps, [len(unique) - 1]))]
        widest = max(FOLDED * float((self.stops - self.starts).sum()), 2 * usual)
        knots, places = [self.starts[0]], [self.starts[0]]
        for index, (start, stop) in enumerate(zip(self.starts, self.stops, strict=True)):
            if index:
                gap = start - knots[-1]
                places.append(places[-1] + min(gap, widest))
                knots.append(start)
            places.append(places[-1] + stop - start)
            knots.append(stop)
        self._knots, self._places = np.array(knots), np.array(places)

    def place(self, steps: Any) -> NDArray[np.float64]:
        """Return the position of each step."""
        return np.asarray(np.interp(steps, self._knots, self._places), dtype=np.float64)

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """Last step before and first step after each gap, folded or not."""
        pairs = zip(self.stops[:-1], self.starts[1:], strict=True)
        return [(int(last), int(first)) for last, first in pairs]

    def broken(self, steps: Any, *columns: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Return positions and columns with a NaN in every gap, so that no line crosses one."""
        steps = np.asarray(steps)
        at = [int(np.searchsorted(steps, first)) for _, first in self.gaps]
        inside = [i for i in at if 0 < i < len(steps)]
        places = self.place(steps)
        between = [(places[i - 1] + places[i]) / 2 for i in inside]
        return (
            np.insert(places, inside, between),
            *(np.insert(column.astype(np.float64), inside, np.nan) for column in columns),
        )

    def draw(self, axes: Axes) -> None:
        """Set ticks at real steps, and name the stretches that were not recorded."""
        from matplotlib.ticker import MaxNLocator

        total = float((self.stops - self.starts).sum())
        ticks: list[float] = []
        for start, stop in zip(self.starts, self.stops, strict=True):
            count = max(1, round(TICKS * (stop - start) / total)) if total else 1
            inside = MaxNLocator(nbins=count, integer=True).tick_values(start, stop)
            found = [step for step in inside if start <= step <= stop]
            ticks += found or [start]
        span = float(self._places[-1] - self._places[0]) or 1.0
        kept: list[float] = []
        for step in ticks:
            if not kept or self.place(step) - self.place(kept[-1]) > 0.05 * span:
                kept.append(step)
        axes.set_xticks(self.place(kept), [f"{step:g}" for step in kept])
        for last, first in self.gaps:
            left, right = float(self.place(last)), float(self.place(first))
            if right - left < 0.03 * span:
                continue
            axes.axvspan(left, right, facecolor="#F4F4F4", edgecolor="#DDDDDD", hatch="///", lw=0)
            axes.text(
                (left + right) / 2,
                0.97,
                f"{last + 1} to {first - 1}\nnot recorded",
                transform=axes.get_xaxis_transform(),
                rotation=90,
                ha="center",
                va="top",
                fontsize=7.5,
                color="#6E6E6E",
                bbox={"facecolor": "#F4F4F4", "edgecolor": "none", "pad": 1.5},
            )
