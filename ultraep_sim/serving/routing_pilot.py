"""Pilot batches: the Zipf exponent at which full batches of a layer have a wanted imbalance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..trace.synth_profile import ZipfProfile
from .routing_profile import ARCHETYPES, Popularity, stream

_BATCHES = 32
_MAX_EXPONENT = 24.0
_TOLERANCE = 0.002
_PILOT = 2  # key of the random stream; routing_profile.py has 0 and 1, routing.py 3 and 4


@dataclass(frozen=True, eq=False)
class Typical:
    """A full batch, for which the target imbalance holds.

    Attributes
    ----------
    tokens_per_rank : float
        The server's budget, say.
    tokens_per_segment : float
        Mean tokens that one request has in a batch.
    shares : ndarray of float64, shape [domains]
        Of the requests; scaled to sum to 1.
    """

    tokens_per_rank: float
    tokens_per_segment: float
    shares: NDArray[np.float64]


class Pilot:
    """Full batches of one layer, drawn once: their mean rank imbalance at any exponent.

    A batch's segments fall on domains and archetypes at random. Their sizes are exponential, as
    cuts at random places leave them, and at most a rank's tokens. Expert loads are their
    expectation with the noise of the tokens (normal approximation); homes are contiguous. The
    random numbers are the same at every exponent.
    """

    def __init__(
        self, zipf: ZipfProfile, popularity: Popularity, typical: Typical, layer: int, seed: int
    ) -> None:
        self._zipf, self._popularity = zipf, popularity
        rng = stream(seed, _PILOT, layer)
        self._tokens = zipf.num_ranks * typical.tokens_per_rank
        mean = min(typical.tokens_per_segment, typical.tokens_per_rank)
        segments = max(1, round(self._tokens / mean))
        chance = np.repeat(typical.shares / typical.shares.sum(), ARCHETYPES) / ARCHETYPES
        self._row = rng.choice(len(chance), (_BATCHES, segments), p=chance)
        size = rng.exponential(mean, (_BATCHES, segments)).clip(max=typical.tokens_per_rank)
        self._share = size / size.sum(axis=1, keepdims=True)
        self._noise = rng.standard_normal((_BATCHES, zipf.num_experts))

    def imbalance(self, exponent: float) -> float:
        """Return the mean over the batches of max rank load / mean rank load."""
        chance = self._popularity.chances(exponent, self._zipf.top_k)
        mean, spread = _moments(chance, self._row, self._share)
        loads = np.maximum(mean + np.sqrt(spread / self._tokens) * self._noise, 0.0)
        return float(self._zipf.imbalance(loads).mean())

    def reach(self) -> tuple[float, float]:
        """Return the imbalance of ranks of equal and of most uneven popularity."""
        return self.imbalance(0.0), self.imbalance(_MAX_EXPONENT)

    def fit(self, target: float) -> float | None:
        """Return the exponent that gives ``target`` to 0.2 %, or None where none does.

        The bracket doubles until it holds the target and is closed by false position (the
        Illinois variant), which takes half of bisection's steps.
        """
        low, below = 0.0, self.imbalance(0.0) - target
        if abs(below) <= _TOLERANCE * target:
            return 0.0
        if below > 0.0:
            return None
        high = 0.5
        while (above := self.imbalance(high) - target) < 0.0:
            if high >= _MAX_EXPONENT:
                return None
            low, below, high = high, above, min(2.0 * high, _MAX_EXPONENT)
        kept = 0  # which end the last step kept: 1 the low one, -1 the high one
        while high - low > 1e-6:
            middle = high - above * (high - low) / (above - below)
            off = self.imbalance(middle) - target
            if abs(off) <= _TOLERANCE * target:
                return middle
            if off < 0.0:
                low, below = middle, off
                above /= 2.0 if kept == -1 else 1.0
                kept = -1
            else:
                high, above = middle, off
                below /= 2.0 if kept == 1 else 1.0
                kept = 1
        return high


@njit(cache=True)
def _moments(chance, row, share):  # type: ignore[no-untyped-def]
    """Mean and token variance of batches [batches, segments], [batches, experts] each.

    No matrix product: BLAS would sum in an order that depends on its threads, and wait for them.
    """
    mean = np.zeros((row.shape[0], chance.shape[1]))
    spread = np.zeros((row.shape[0], chance.shape[1]))
    for b in range(row.shape[0]):
        for s in range(row.shape[1]):
            for e in range(chance.shape[1]):
                part = share[b, s] * chance[row[b, s], e]
                mean[b, e] += part
                spread[b, e] += part * (1.0 - chance[row[b, s], e])
    return mean, spread
