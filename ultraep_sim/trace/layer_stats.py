"""Running statistics of one layer, in memory that depends on the experts, not on the steps."""

from __future__ import annotations

import math
from array import array
from collections import deque

import numpy as np
from numpy.typing import NDArray

from ..planning.layout import default_home

_EDGE_STEPS = 8
"""Steps averaged at each end for the drift (assumed: enough to quiet the noise)."""


class LayerTally:
    """Everything that `trace_stats` needs of one layer.

    Parameters
    ----------
    num_experts : int
    starts : list of ndarray
        Per expert-parallel size, the first expert of every rank.
    lags : tuple of int
        Distances, in recorded steps, at which loads are correlated.
    """

    def __init__(
        self, num_experts: int, starts: list[NDArray[np.intp]], lags: tuple[int, ...]
    ) -> None:
        self.total = np.zeros(num_experts, dtype=np.int64)
        self._starts = starts
        # 8 bytes a record and size: the only part that grows.
        self._imbalances = [array("d") for _ in starts]
        self._weighted_squares = np.zeros(num_experts)
        self._records = 0
        self._step: int | None = None
        self._current = np.zeros(num_experts, dtype=np.int64)
        self._first: list[NDArray[np.int64]] = []
        self._recent: deque[NDArray[np.int64]] = deque(maxlen=max(*lags, _EDGE_STEPS) + 1)
        self._steps = 0
        self._source_chi, self._source_freedom = 0.0, 0
        self._lag_sums = {lag: [0.0, 0] for lag in lags}

    @property
    def imbalances(self) -> list[NDArray[np.float64]]:
        """Per size, max / mean rank load of every record."""
        return [np.array(values) for values in self._imbalances]

    def add(self, step: int, loads: NDArray[np.int64]) -> None:
        """Add the expert loads of the next record."""
        total = int(loads.sum())
        for starts, values in zip(self._starts, self._imbalances, strict=True):
            ranks = np.add.reduceat(loads, starts)
            values.append(float(ranks.max()) * len(starts) / total)
        if step != self._step:
            self.close_step()
            self._step = step
        self._current += loads
        self.total += loads
        self._weighted_squares += loads.astype(np.float64) ** 2 / total
        self._records += 1

    def add_sources(self, rows: NDArray[np.int32]) -> None:
        """Add the source rows of a record, [sources, experts]."""
        columns = rows.sum(axis=0, dtype=np.float64)
        pairs = rows.sum(axis=1, dtype=np.float64)
        full, used = pairs > 0, columns > 0
        freedom = (int(full.sum()) - 1) * (int(used.sum()) - 1)
        if freedom < 1:
            return
        # As in `overdispersion`: the sum of (c - N p)^2 / (N p) is that of c^2 / (N p), less N.
        squares = (rows[full][:, used].astype(np.float64) ** 2 / pairs[full, None]).sum(axis=0)
        self._source_chi += float((squares / columns[used]).sum() - 1.0) * float(pairs.sum())
        self._source_freedom += freedom

    def source_overdispersion(self) -> float:
        """Chi-squared of source rows against their record's popularity, over its freedom."""
        return self._source_chi / self._source_freedom if self._source_freedom else math.nan

    def close_step(self) -> None:
        """Take the sum of the step's micro-batches as one point in time."""
        if self._step is None:
            return
        now = self._current.copy()
        self._recent.append(now)
        self._steps += 1
        if len(self._first) < _EDGE_STEPS:
            self._first.append(now)
        for lag, sums in self._lag_sums.items():
            if len(self._recent) > lag:
                value = correlation(now, self._recent[-1 - lag])
                if not math.isnan(value):
                    sums[0] += value
                    sums[1] += 1
        self._current[:] = 0
        self._step = None

    def lag_correlation(self) -> dict[int, float]:
        """Mean correlation per lag; NaN where the trace is too short."""
        return {
            lag: total / count if count else math.nan
            for lag, (total, count) in self._lag_sums.items()
        }

    def drift(self) -> float:
        """Correlate the first steps with the last: 8, or half of a shorter trace."""
        edge = min(_EDGE_STEPS, self._steps // 2)
        if not edge:
            return math.nan
        last = list(self._recent)[-edge:]
        return correlation(np.sum(self._first[:edge], axis=0), np.sum(last, axis=0))

    def overdispersion(self) -> float:
        """Chi-squared of the records against the layer's mean popularity, over its freedom.

        With popularity p and pairs N of a record, the sum over records and experts of
        (c - N p)^2 / (N p) equals (sum N) x sum over experts of sum(c^2 / N) / sum(c),
        less sum N: one pass will do.
        """
        used = self.total > 0
        freedom = (self._records - 1) * (int(used.sum()) - 1)
        if freedom < 1:
            return math.nan
        pairs = float(self.total.sum())
        ratio = float((self._weighted_squares[used] / self.total[used]).sum())
        return (pairs * ratio - pairs) / freedom

    def rank_total(self, starts: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the load of every rank over the whole trace."""
        return np.add.reduceat(self.total, starts).astype(np.float64)


def rank_starts(num_ranks: int, num_experts: int) -> NDArray[np.intp]:
    """Return the first expert of every rank with contiguous homes; no rank may be empty."""
    return np.flatnonzero(np.diff(default_home(num_ranks, num_experts), prepend=-1))


def correlation(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """Pearson correlation; NaN where one of the two does not vary."""
    x = np.asarray(one, dtype=np.float64)
    y = np.asarray(other, dtype=np.float64)
    x = x - x.mean()
    y = y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0.0 else math.nan
