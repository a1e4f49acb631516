"""How expert popularity moves over a recording: pieces with a slow trend each.

A *piece* is a stretch between gaps of the recording and switches of the domain. Inside one, the
popularity of every expert is a broken line over a few *knots*, each of which is a mean over many
steps: what a seed cannot change. Everything faster is left to the random processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FEWEST = 8
"""Steps a knot rests on at least (assumed): so no knot can be a copy of a record."""

_GROWTH = 0.2  # distance of two knots of a training run, as a share of its steps so far
_BLOCK = 4  # steps averaged before movement is measured, on either side of a switch too
_SWITCH = 0.2  # least distance (1 - correlation) of the profiles on the two sides of a switch
_STANDS_OUT = 4.0  # and how far it rises above the usual distance


@dataclass(frozen=True, eq=False)
class Timeline:
    """Which knots every recorded step lies between.

    Attributes
    ----------
    piece : ndarray of int64, shape [steps]
    knot : ndarray of int64, shape [steps]
        The knot at or before the step.
    after : ndarray of float64, shape [steps]
        Weight of the next knot, 0..1; the rest is that of ``knot``.
    num_knots : int
    moves : bool
        Whether the model is being trained.
    """

    piece: NDArray[np.int64]
    knot: NDArray[np.int64]
    after: NDArray[np.float64]
    num_knots: int
    moves: bool

    def position(self, step: int) -> tuple[int, int]:
        """Return round and position of a step, which may lie beyond the recording.

        A trained model then stays as it was last; a served one begins again with its first domain.
        """
        size = len(self.knot)
        if step < size:
            return 0, step
        return (0, size - 1) if self.moves else divmod(step, size)

    def weights(self) -> NDArray[np.float64]:
        """Return the weight of every knot at every step, [steps, knots]; rows sum to 1."""
        found = np.zeros((len(self.knot), self.num_knots))
        rows = np.arange(len(self.knot))
        found[rows, self.knot] = 1.0 - self.after
        found[rows, np.minimum(self.knot + 1, self.num_knots - 1)] += self.after
        return found

    def at(self, step: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate ``values`` [knots, ...] at a step, by its position."""
        knot, after = int(self.knot[step]), float(self.after[step])
        if after == 0.0:
            return np.asarray(values[knot])
        return np.asarray((1.0 - after) * values[knot] + after * values[knot + 1])


def find_timeline(steps: NDArray[np.int32], cuts: Sequence[int], *, moves: bool) -> Timeline:
    """Place knots in the pieces of a recording.

    Parameters
    ----------
    steps : ndarray of int32, shape [steps]
        Numbers of the recorded steps.
    cuts : sequence of int
        Positions at which a new piece begins, ascending, without 0.
    moves : bool
        Whether the model is being trained; else every piece has one knot, its mean.

    Returns
    -------
    Timeline
    """
    size = len(steps)
    starts = [0, *cuts, size]
    piece, knot = np.zeros((2, size), dtype=np.int64)
    after = np.zeros(size)
    first = 0
    for number, (a, b) in enumerate(pairwise(starts)):
        places = _knots(steps[a:b]) if moves else np.zeros(1, dtype=np.int64)
        at = np.arange(b - a)
        low = np.clip(np.searchsorted(places, at, side="right") - 1, 0, max(len(places) - 2, 0))
        piece[a:b] = number
        knot[a:b] = first + low
        if len(places) > 1:
            after[a:b] = (at - places[low]) / (places[low + 1] - places[low])
        first += len(places)
    return Timeline(piece, knot, after, first, moves)


def find_gaps(steps: NDArray[np.int32]) -> list[int]:
    """Return the positions of the steps before which some were not recorded."""
    gaps = np.diff(steps)
    return (np.flatnonzero(gaps > np.median(gaps)) + 1).tolist() if len(gaps) else []


def find_switches(shares: NDArray[np.float64]) -> list[int]:
    """Return the positions at which the profile changes at once: another domain is served.

    There the means of the steps before and after correlate far less than is usual.
    """
    if len(shares) < 4 * _BLOCK:
        return []
    sums = np.concatenate([np.zeros((1, *shares.shape[1:])), np.cumsum(shares, axis=0)])
    at = np.arange(_BLOCK, len(shares) - _BLOCK + 1)
    before = sums[at] - sums[at - _BLOCK]
    later = sums[at + _BLOCK] - sums[at]
    distance = 1.0 - np.mean(correlations(before, later), axis=-1)
    high = distance > max(_SWITCH, _STANDS_OUT * float(np.median(distance)))
    return [
        int(at[place])
        for place in np.flatnonzero(high)
        if distance[place] == distance[max(place - _BLOCK, 0) : place + _BLOCK + 1].max()
    ]


def pieces_of(cuts: Iterable[int], size: int) -> list[int]:
    """Sort cuts, without those that would leave a piece of fewer than ``_BLOCK`` steps."""
    kept = [0]
    for place in sorted(set(cuts)):
        if place - kept[-1] >= _BLOCK and size - place >= _BLOCK:
            kept.append(place)
    return kept[1:]


def correlations(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation along the last axis; 0 where one of the two does not vary."""
    one = one - one.mean(axis=-1, keepdims=True)
    other = other - other.mean(axis=-1, keepdims=True)
    scale = np.sqrt((one * one).sum(axis=-1) * (other * other).sum(axis=-1))
    found = np.divide((one * other).sum(-1), scale, out=np.zeros_like(scale), where=scale > 0)
    return np.asarray(found)


def _knots(steps: NDArray[np.int32]) -> NDArray[np.int64]:
    """Place knots in a piece of a training run, as positions.

    Training moves with the logarithm of its step: knots lie ``FEWEST`` steps apart at first, later
    a fixed share of the steps so far.
    """
    first, last = int(steps[0]), int(steps[-1])
    spacing = int(np.median(np.diff(steps))) if len(steps) > 1 else 1
    numbers = [first]
    while True:
        far = max(FEWEST * spacing, round(_GROWTH * numbers[-1]))
        if numbers[-1] + 1.5 * far > last:
            break
        numbers.append(numbers[-1] + far)
    if last - first < FEWEST * spacing:
        return np.zeros(1, dtype=np.int64)
    places = np.searchsorted(steps, [*numbers, last])
    return np.asarray(np.unique(places), dtype=np.int64)
