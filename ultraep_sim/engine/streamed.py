"""Means, percentiles and the hottest micro-batches of columns that do not fit in memory.

The numbers are those NumPy gives for the whole column, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEAF = 1 << 16
_DIGIT = 16


def counted(parts: Iterable[NDArray], mask: NDArray[np.bool_]) -> Iterator[NDArray]:  # type: ignore[type-arg]
    """Keep of consecutive parts of a column what the mask over the whole column keeps."""
    first = 0
    for part in parts:
        yield part[mask[first : first + len(part)]]
        first += len(part)


def mean(parts: Iterable[NDArray], count: int) -> float:  # type: ignore[type-arg]
    """Return the mean of ``count`` numbers that come part by part.

    Sums are made pairwise, halved where NumPy halves a contiguous array, so that rounding agrees.
    """
    return float(_sum(_Stream(parts), count) / count)


def percentile(parts: Callable[[], Iterable[Floats]], count: int, percent: float) -> float:
    """Return the percentile of positive floats, interpolated as `numpy.percentile` does.

    Parameters
    ----------
    parts : callable
        Gives the column part by part, each time it is called.
    count : int
    percent : float
    """
    at = (count - 1) * (percent / 100)
    below = int(at)
    low = _ranked(parts, below)
    high = _ranked(parts, min(below + 1, count - 1))
    share = at - below
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share


def hottest(
    positions: Iterable[NDArray[np.int64]], pairs: Iterable[NDArray[np.int32]]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Keep the micro-batches that set the activation peak of a run.

    Parameters
    ----------
    positions : iterable of ndarray, shape [n, 2]
        Step and micro-batch of consecutive records.
    pairs : iterable of ndarray, shape [n, ranks]

    Returns
    -------
    pairs : ndarray of int32, shape [M, ranks]
    groups : ndarray of int64, shape [M]
        Which micro-batch each of them is. `ultraep_sim.engine.memory.memory_use` finds in these
        records the peaks it finds in all: of one record and of a mean over layers, as they are
        and evened out.
    """
    best: list[tuple[float, NDArray[np.int32]]] = []
    for rows, starts in _micro_batches(positions, pairs):
        ends = np.append(starts[1:], len(rows))
        found = _heat(rows, starts, ends)
        tops = found.argmax(axis=1)  # the first of equals
        new = [
            (float(values[top]), rows[starts[top] : ends[top]].copy())
            for values, top in zip(found, tops, strict=True)
        ]
        best = [one if not best or one[0] > best[at][0] else best[at] for at, one in enumerate(new)]
    kept: list[NDArray[np.int32]] = []
    for _, mine in best:
        if not any(np.array_equal(mine, other) for other in kept):
            kept.append(mine)
    groups = np.repeat(np.arange(len(kept)), [len(rows) for rows in kept])
    return np.concatenate(kept), groups


def _heat(
    rows: NDArray[np.int32], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return what sets a peak, [4, micro-batches]: largest and layer mean, as is and evened out."""
    count = (ends - starts).astype(np.float64)
    even = rows.mean(axis=1)
    sums = np.add.reduceat(rows, starts, axis=0, dtype=np.int64)
    evened = np.zeros(len(starts))
    for layer in range(int(count.max())):  # in this order, so that rounding never differs
        there = starts + layer < ends
        evened[there] += even[starts[there] + layer]
    return np.stack(
        (
            np.maximum.reduceat(rows.max(axis=1), starts).astype(np.float64),
            (sums / count[:, None]).max(axis=1),
            np.maximum.reduceat(even, starts),
            evened / count,
        )
    )


class _Stream:
    """Takes so many numbers at a time from parts of any length."""

    def __init__(self, parts: Iterable[NDArray]) -> None:  # type: ignore[type-arg]
        self._parts = iter(parts)
        self._held: NDArray = np.empty(0)  # type: ignore[type-arg]

    def take(self, count: int) -> NDArray:  # type: ignore[type-arg]
        held, have = [self._held], len(self._held)
        while have < count:
            held.append(next(self._parts))
            have += len(held[-1])
        whole = np.concatenate([part for part in held if len(part)])
        self._held = whole[count:]
        return whole[:count]


def _sum(stream: _Stream, count: int) -> np.float64:
    if count <= _LEAF:
        return np.float64(np.add.reduce(stream.take(count), dtype=np.float64))
    half = count // 2
    half -= half % 8
    return _sum(stream, half) + _sum(stream, count - half)


def _ranked(parts: Callable[[], Iterable[Floats]], rank: int) -> float:
    """Return the value with ``rank`` smaller ones, digit by digit of its bits, largest first."""
    known = np.int64(0)
    for shift in range(64 - _DIGIT, -1, -_DIGIT):
        counts = np.zeros(1 << _DIGIT, np.int64)
        for part in parts():
            bits = part.view(np.int64) >> shift  # positive floats sort as their bits do
            alike = bits[bits >> _DIGIT == known]
            counts += np.bincount(alike & ((1 << _DIGIT) - 1), minlength=len(counts))
        ends = np.cumsum(counts)
        digit = int(np.searchsorted(ends, rank, side="right"))
        rank -= int(ends[digit - 1]) if digit else 0
        known = (known << _DIGIT) | digit
    return float(np.array([known]).view(np.float64)[0])


def _micro_batches(
    positions: Iterable[NDArray[np.int64]], pairs: Iterable[NDArray[np.int32]]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Yield rows of whole micro-batches, and where in them each begins."""
    held: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None
    for where, rows in zip(positions, pairs, strict=True):
        if not len(rows):
            continue
        if held is not None:
            where, rows = np.concatenate((held[0], where)), np.concatenate((held[1], rows))
        starts = np.flatnonzero((where[1:] != where[:-1]).any(axis=1)) + 1
        if len(starts):
            yield rows[: starts[-1]], np.concatenate(([0], starts[:-1]))
            where, rows = where[starts[-1] :], rows[starts[-1] :]
        held = where.copy(), rows.copy()  # the next part may go on with it
    if held is not None:
        yield held[1], np.zeros(1, np.int64)
