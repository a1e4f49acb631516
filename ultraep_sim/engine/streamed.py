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
    for rows in _micro_batches(positions, pairs):
        even = np.broadcast_to(rows.mean(axis=1, keepdims=True), rows.shape)
        found = [f(values) for values in (rows, even) for f in (_largest, _layer_mean)]
        if not best:
            best = [(value, rows) for value in found]
        best = [
            (value, rows) if value > old else (old, kept)
            for value, (old, kept) in zip(found, best, strict=True)
        ]
    kept = list({id(rows): rows for _, rows in best}.values())
    groups = np.repeat(np.arange(len(kept)), [len(rows) for rows in kept])
    return np.concatenate(kept), groups


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
) -> Iterator[NDArray[np.int32]]:
    held: list[NDArray[np.int32]] = []
    last: NDArray[np.int64] | None = None
    for where, rows in zip(positions, pairs, strict=True):
        if not len(rows):
            continue
        starts = np.flatnonzero((where[1:] != where[:-1]).any(axis=1)) + 1
        if last is not None and (where[0] != last).any():
            yield np.concatenate(held)
            held = []
        first, *others = np.split(rows, starts)
        held.append(first.copy())
        for other in others:
            yield np.concatenate(held)
            held = [other.copy()]
        last = where[-1].copy()
    if held:
        yield np.concatenate(held)


def _largest(values: NDArray) -> float:  # type: ignore[type-arg]
    return float(values.max())


def _layer_mean(values: NDArray) -> float:  # type: ignore[type-arg]
    sums = np.zeros(values.shape[1])
    for row in values:
        sums += row
    return float((sums / len(values)).max())
