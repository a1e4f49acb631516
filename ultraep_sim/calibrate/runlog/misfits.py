"""What is wrong with a log once a law says what its times should be: units, swaps, outliers.

All tests look at ``error = log(ms) - log(law)`` of a robust fit without rank factors. A unit of
seconds is an error of log 1000; an outlier is far from the median error of its rank, so that a
straggler is none. Two ranks are swapped where each one's times fit the other's loads: per step
the gain of exchanging them is summed over the kinds, and the stretch of steps with the largest sum
is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.calibrate.runlog.log import Floats, Ints

Mask = NDArray[np.bool_]
Gains = Callable[[int, int], Floats]

_UNIT = math.log(1000.0)
_NEAR_UNIT = math.log(3.0)
_OUTLIER_SD, _OUTLIER = 8.0, math.log(1.3)
_LEAST_SD = 0.005
_CLIP = 5.0  # standard deviations: what one row can say for or against a swap
_SWAP_SCORE = 15.0  # the largest sum in 72 clean logs of 8 and 32 ranks was 3.5
_STRAGGLER = math.log(1.25)  # a rank may be so much faster or slower before a swap explains it


def spread(errors: Floats) -> float:
    """Robust standard deviation."""
    if not len(errors):
        return _LEAST_SD
    return max(1.4826 * float(np.median(np.abs(errors - np.median(errors)))), _LEAST_SD)


def unit_errors(errors: Floats) -> tuple[Mask, Mask]:
    """Rows in seconds, and rows in microseconds."""
    return np.abs(errors + _UNIT) < _NEAR_UNIT, np.abs(errors - _UNIT) < _NEAR_UNIT


def outliers(errors: Floats, unit: Ints, good: Mask) -> Mask:
    """Rows far from the median error of their rank; the spread is that of good rows."""
    centred = errors.copy()
    for one in np.unique(unit):
        mine = unit == one
        if (mine & good).any():
            centred[mine] -= np.median(errors[mine & good])
    return np.abs(centred) > max(_OUTLIER_SD * spread(centred[good]), _OUTLIER)


@dataclass(frozen=True)
class Swap:
    """Two ranks, and the positions (in the keys of the matrix) where they are exchanged."""

    a: int
    b: int
    first: int
    last: int
    score: float


@dataclass(frozen=True)
class Timed:
    """Times of one kind at K keys in order of time and R ranks; NaN where a row is bad or missing.

    Parameters
    ----------
    log_ms, log_law : float64 [K, R]
        Logarithm of the time of each rank, and of what the law gives for its load.
    sd : float
        Spread of the errors of rows that are right.
    """

    log_ms: Floats
    log_law: Floats
    sd: float

    def gains(self) -> Gains:
        """Return what exchanging two ranks gains at each key, in standard deviations."""
        own = self.log_ms - self.log_law
        middle = np.array(
            [np.median(e[np.isfinite(e)]) if np.isfinite(e).any() else 0 for e in own.T]
        )
        cost = _cost(own - np.clip(middle, -_STRAGGLER, _STRAGGLER), self.sd)

        def gain(a: int, b: int) -> Floats:
            one = cost[:, a] - _cost(self.log_ms[:, a] - self.log_law[:, b], self.sd)
            other = cost[:, b] - _cost(self.log_ms[:, b] - self.log_law[:, a], self.sd)
            return np.nan_to_num(np.minimum(one, other))  # each must fit the other's loads

        return gain


def swaps(kinds: Sequence[Timed]) -> list[Swap]:
    """Find exchanged ranks by the evidence of all kinds together.

    Parameters
    ----------
    kinds : sequence of Timed
        Of the same keys and ranks.

    Returns
    -------
    list of Swap
        Best first; a rank is in one of them at most.
    """
    found: list[Swap] = []
    gains = [kind.gains() for kind in kinds]
    for a, b in combinations(range(kinds[0].log_ms.shape[1]), 2):
        total = np.sum([gain(a, b) for gain in gains], axis=0)
        first, last, score = _best_stretch(total)
        if score > _SWAP_SCORE:
            found.append(Swap(a, b, first, last, score))
    out: list[Swap] = []
    for one in sorted(found, key=lambda s: -s.score):
        if not any({one.a, one.b} & {other.a, other.b} for other in out):
            out.append(one)
    return out


def _cost(errors: Floats, sd: float) -> Floats:
    return np.asarray(np.minimum(np.abs(errors) / sd, _CLIP))


def _best_stretch(gain: Floats) -> tuple[int, int, float]:
    """Return first and last index of the stretch with the largest sum, and the sum (Kadane)."""
    total = np.concatenate([[0.0], np.cumsum(gain)])
    rise = total - np.minimum.accumulate(total)
    last = int(rise.argmax())
    first = int(total[: last + 1].argmin())
    return first, last - 1, float(rise[last])
