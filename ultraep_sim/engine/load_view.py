"""What a reader of load wants to see of every record, gathered in one pass and in bounded memory.

Imbalance is kept of every record. The loads of single ranks and experts are many numbers a record,
so they are kept of every ``stride``-th micro-batch and of the worst record of each layer; their
means over short stretches of time are kept of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..planning import Plan

BEFORE = "before"
MAX_KEPT_VALUES = 2**26  # int32: 256 MiB of single loads in memory at most
MAX_SHARE_VALUES = 2**17  # of a contender's mean rank loads over time
MAX_WORST = 256


@dataclass(frozen=True)
class Away:
    """Instances of one plan that are not at their expert's home: what the policy moved.

    The home's instance processes what is left of the expert's load.

    Attributes
    ----------
    expert, rank : ndarray of int32, shape [instances]
    quota : ndarray of int32, shape [instances]
        (token, expert) pairs, above zero.
    """

    expert: NDArray[np.int32]
    rank: NDArray[np.int32]
    quota: NDArray[np.int32]


@dataclass(frozen=True)
class Detail:
    """One record in full (P contenders, R ranks, E experts).

    Attributes
    ----------
    pairs : ndarray of int32, shape [P, R]
        (token, expert) pairs each rank computes.
    loads : ndarray of int32, shape [E], or None
        Expert loads, where they are known.
    away : list of Away or None
        By contender; None where the plan is not known.
    """

    pairs: NDArray[np.int32]
    loads: NDArray[np.int32] | None
    away: Sequence[Away | None]


@dataclass(frozen=True)
class LoadView:
    """Load of N records under P contenders, on R ranks; times and layers are indices.

    Attributes
    ----------
    contenders : list of str
        `BEFORE`, every expert at its home, and then the labels of the policies.
    known : list of bool
        By contender: whether the loads of single ranks are known.
    positions : ndarray of int64, shape [T, 2]
        Step and micro-batch of each time.
    layers : ndarray of int64, shape [L]
    time, layer : ndarray of int64, shape [N]
        Which of them each record is.
    imbalance : ndarray of float64, shape [P, N]
        Max over mean rank load.
    counted : ndarray of bool, shape [N]
        Records on which every policy had the history it asks for.
    home : ndarray of int32, shape [E], or None
    share : ndarray of float64, shape [P, S, R]
        Mean over layers and ``share_width`` consecutive times of load over mean rank load.
    share_width : int
    details : dict of int to Detail
        By record: every record whose time is a multiple of ``stride``, and the worst ones.
    worst : list of int
        The record with the largest imbalance of each layer, by any contender, largest first.
    stride : int
    """

    contenders: list[str]
    known: list[bool]
    positions: NDArray[np.int64]
    layers: NDArray[np.int64]
    time: NDArray[np.int64]
    layer: NDArray[np.int64]
    imbalance: NDArray[np.float64]
    counted: NDArray[np.bool_]
    num_ranks: int
    home: NDArray[np.int32] | None
    share: NDArray[np.float64]
    share_width: int
    details: dict[int, Detail]
    worst: list[int]
    stride: int


@dataclass(frozen=True)
class Rows:
    """Consecutive records on their way into a view (n records).

    Attributes
    ----------
    imbalance : ndarray of float64, shape [P, n]
    pairs : ndarray of int, shape [P, n, R]
        Zeros for a contender whose rank loads are not known.
    warm : ndarray of bool, shape [n]
    loads : ndarray of int, shape [n, E], or None
    away : list of list of Away or None
        By contender and record; an empty list where no plan of a contender is known.
    """

    imbalance: NDArray[np.float64]
    pairs: NDArray[np.int64]
    warm: NDArray[np.bool_]
    loads: NDArray[np.int64] | None
    away: Sequence[Sequence[Away | None]]


class LoadViewBuilder:
    """Gather a `LoadView` from records in order.

    Parameters
    ----------
    keys : ndarray of int, shape [N, 3]
        Step, micro-batch and layer of every record that will come, in that order.
    contenders : list of str
    known : list of bool
    num_ranks : int
    home : ndarray of int32, shape [E], or None
    max_values : int
        Single loads to hold at most, beside the worst records.
    """

    def __init__(
        self,
        keys: NDArray[np.integer],
        contenders: list[str],
        known: list[bool],
        num_ranks: int,
        home: NDArray[np.int32] | None,
        max_values: int = MAX_KEPT_VALUES,
    ) -> None:
        self._contenders, self._known = contenders, known
        self._ranks, self._home = num_ranks, home
        self._positions, time = np.unique(keys[:, :2], axis=0, return_inverse=True)
        self._layers, layer = np.unique(keys[:, 2], return_inverse=True)
        self._time, self._layer = time.ravel(), layer.ravel()
        count, times = len(contenders), len(self._positions)
        self._imbalance = np.empty((count, len(keys)))
        self._warm = np.empty(len(keys), np.bool_)
        # What a plan moves is about two instances a rank, three numbers each.
        experts = 0 if home is None else len(home) + 6 * num_ranks * (count - 1)
        self._stride = _ceil(len(keys) * (count * num_ranks + experts), max_values)
        bins = max(8, min(times, MAX_SHARE_VALUES // num_ranks))
        self._width = _ceil(times, bins)
        self._share = np.zeros((count, _ceil(times, self._width), num_ranks))
        self._weight = np.zeros(self._share.shape[1])
        self._peak = np.full((count, len(self._layers)), -np.inf)
        self._peak_row = np.full(self._peak.shape, -1)
        self._details: dict[int, Detail] = {}
        self._done = 0

    def add(self, rows: Rows) -> None:
        """Append the next records."""
        first = self._done
        self._done = stop = first + len(rows.warm)
        self._imbalance[:, first:stop] = rows.imbalance
        self._warm[first:stop] = rows.warm
        self._add_share(self._time[first:stop] // self._width, rows.pairs)
        replaced = self._find_peaks(first, rows.imbalance)
        peaks = set(self._peak_row.ravel().tolist())
        for row in replaced - peaks:
            if row < first and self._time[row] % self._stride:
                del self._details[row]
        for row in range(first, stop):
            if self._time[row] % self._stride == 0 or row in peaks:
                self._details[row] = _detail(rows, row - first)

    def finish(self) -> LoadView:
        """Return the view, once every record has come."""
        worst = {int(row) for row in self._peak_row.ravel()}
        largest = self._imbalance.max(axis=0)
        ranked = sorted(worst, key=lambda row: (-largest[row], row))[:MAX_WORST]
        return LoadView(
            self._contenders,
            self._known,
            self._positions.astype(np.int64),
            self._layers.astype(np.int64),
            self._time,
            self._layer,
            self._imbalance,
            self._warm if self._warm.any() else np.ones_like(self._warm),
            self._ranks,
            self._home,
            self._share / np.maximum(self._weight, 1)[:, None],
            self._width,
            self._details,
            ranked,
            self._stride,
        )

    def _add_share(self, bins: NDArray[np.int64], pairs: NDArray[np.int64]) -> None:
        total = pairs.sum(axis=2, dtype=np.float64)
        # A record without tokens says nothing about ranks.
        scale = np.divide(self._ranks, total, out=np.zeros_like(total), where=total > 0)
        for mine, counts, factor in zip(self._share, pairs, scale, strict=True):
            np.add.at(mine, bins, counts * factor[:, None])
        np.add.at(self._weight, bins, (total.max(axis=0) > 0).astype(np.float64))

    def _find_peaks(self, first: int, imbalance: NDArray[np.float64]) -> set[int]:
        """Note the worst record so far of each layer and contender; return those that were."""
        replaced = set()
        layer = self._layer[first : first + imbalance.shape[1]]
        for peak, at, values in zip(self._peak, self._peak_row, imbalance, strict=True):
            for row in np.flatnonzero(values > peak[layer]):
                here = layer[row]
                if values[row] > peak[here]:
                    if at[here] >= 0:
                        replaced.add(int(at[here]))
                    peak[here], at[here] = values[row], first + row
        return replaced


def away_of(plan: Plan) -> Away | None:
    """Return what a plan moved; None for a forced balance, which changes the loads themselves."""
    if plan.forced:
        return None
    moved = (plan.quota > 0) & (plan.rank != plan.layout.home[plan.expert])
    return Away(plan.expert[moved], plan.rank[moved], plan.quota[moved].astype(np.int32))


def _detail(rows: Rows, at: int) -> Detail:
    loads = None if rows.loads is None else rows.loads[at].astype(np.int32)
    return Detail(
        rows.pairs[:, at].astype(np.int32),
        loads,
        [moved[at] if len(moved) else None for moved in rows.away],
    )


def _ceil(value: int, divisor: int) -> int:
    return max(1, -(-value // divisor))
