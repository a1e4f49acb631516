"""Popularity of experts: two Zipf laws, and the exponent that gives a wanted imbalance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from ..planning.layout import default_home

INNER_EXPONENT = 4.0
"""Zipf exponent inside a rank (published: the planner experiments of arXiv 2606.04101)."""

_MAX_EXPONENT = 24.0
_PILOT_DRAWS = 48
_TOLERANCE = 0.002
_PILOT_STREAM, _PILOT_SOURCES = 3, 6  # the other streams' numbers are in synth.py


@dataclass(frozen=True)
class ZipfProfile:
    """Experts of a layer whose popularity is Zipf over ranks and Zipf inside a rank.

    Parameters
    ----------
    num_experts, top_k, num_ranks : int
        With contiguous homes.
    """

    num_experts: int
    top_k: int
    num_ranks: int

    def home(self) -> NDArray[np.int32]:
        """Rank of every expert."""
        return default_home(self.num_ranks, self.num_experts)

    def draw_order(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Put ranks, and the experts inside each, in random order of popularity.

        Returns
        -------
        inner : ndarray of float, shape [num_experts]
            Log of every expert's share of its rank.
        log_place : ndarray of float, shape [num_experts]
            Log of the place of its rank, 1 for the most popular. With a Zipf exponent a over
            ranks, the log popularity is ``inner - a * log_place``.
        """
        home = self.home()
        inner = np.empty(self.num_experts)
        log_place = np.empty(self.num_experts)
        for place, rank in enumerate(rng.permutation(np.unique(home)), start=1):
            mine = rng.permutation(np.flatnonzero(home == rank))
            weights = -INNER_EXPONENT * np.log(np.arange(1, len(mine) + 1))
            inner[mine] = weights - np.log(np.exp(weights).sum())
            log_place[mine] = np.log(place)
        return inner, log_place

    def imbalance(self, loads: NDArray[np.float64]) -> NDArray[np.float64]:
        """Max over mean rank load of expert loads [..., num_experts]."""
        starts = np.flatnonzero(np.diff(self.home(), prepend=-1))
        ranks = np.add.reduceat(loads, starts, axis=-1)
        return np.asarray(ranks.max(axis=-1) * self.num_ranks / ranks.sum(axis=-1))


def inclusion_probabilities(log_weights: NDArray[np.float64], top_k: int) -> NDArray[np.float64]:
    """Probability of every expert to be among a token's top-k: popularity, capped at 1.

    The cap is filled like water: the most popular experts are always chosen, and what is left
    of top-k goes to the others in proportion to their popularity.

    Parameters
    ----------
    log_weights : ndarray of float, shape [..., experts]
    top_k : int

    Returns
    -------
    ndarray of float, same shape
        In 0..1, summing to ``top_k`` along the last axis.

    Examples
    --------
    >>> import numpy as np
    >>> inclusion_probabilities(np.log([8.0, 1.0, 1.0]), 2).tolist()
    [1.0, 0.5, 0.5]
    """
    order = np.argsort(-log_weights, axis=-1, kind="stable")
    ranked = np.take_along_axis(log_weights, order, axis=-1)
    # log of the sums of the tails, safe for weights of any size
    tails = np.logaddexp.accumulate(ranked[..., ::-1], axis=-1)[..., ::-1]
    place = np.arange(ranked.shape[-1])
    room = np.maximum(top_k - place, 0)
    # With the first m experts at 1, the next gets room * weight / tail; the first m that
    # leaves it at 1 or less is right. m = top_k leaves nothing to share and always is.
    first = ranked - tails + np.log(np.maximum(room, 1e-300)) <= 1e-12
    m = np.argmax(first, axis=-1)[..., None]
    tail = np.take_along_axis(tails, m, axis=-1)
    # The capped ones may lie far above the tail: the exponent is cut before it overflows.
    share = np.minimum(np.exp(np.minimum(ranked - tail, 1.0)) * room[m], 1.0)
    chance = np.where(place < m, 1.0, share)
    result = np.empty_like(chance)
    np.put_along_axis(result, order, chance, axis=-1)
    return result


@dataclass(frozen=True)
class Spread:
    """How far log popularity strays from its profile.

    Parameters
    ----------
    shared : float
        Standard deviation of what all sources of a record share: drift and noise together.
    own : float
        Of what each source has for itself.
    sources : int
    """

    shared: float = 0.0
    own: float = 0.0
    sources: int = 1


def calibrate(
    zipf: ZipfProfile, target: float, *, tokens: int, spread: Spread, seed: int
) -> tuple[float, float]:
    """Find the Zipf exponent over ranks that gives a mean rank imbalance.

    Pilot draws with the noise of the tokens (normal approximation), of the drift and of
    micro-batches and sources are repeated, with the same random numbers, for every exponent that
    the bisection tries.

    Parameters
    ----------
    zipf : ZipfProfile
    target : float
        Mean over records of max rank load / mean rank load.
    tokens : int
        Tokens of a record.
    spread : Spread
        Standard deviations of the log popularity.
    seed : int

    Returns
    -------
    exponent, imbalance : float
        And the pilot's mean imbalance at it.

    Raises
    ------
    TraceError
        If the target is below what chance alone gives, or above what top-k allows.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_PILOT_STREAM,)))
    pilots = [
        (*zipf.draw_order(rng), *rng.standard_normal((2, zipf.num_experts)))
        for _ in range(_PILOT_DRAWS)
    ]

    def mean_imbalance(exponent: float) -> float:
        found = []
        for at, (inner, log_place, shift, noise) in enumerate(pilots):
            weights = inner - exponent * log_place + spread.shared * shift
            weights = weights + _own_noise(zipf, spread, seed, at)
            chance = inclusion_probabilities(weights, zipf.top_k).mean(axis=0)
            loads = chance + np.sqrt(chance * (1.0 - chance) / tokens) * noise
            found.append(float(zipf.imbalance(np.maximum(loads, 0.0))))
        return float(np.mean(found))

    low, high = 0.0, _MAX_EXPONENT
    least, most = mean_imbalance(low), mean_imbalance(high)
    if not least * (1 - _TOLERANCE) <= target <= most * (1 + _TOLERANCE):
        why = (
            "chance, drift and noise alone give"
            if target < least
            else "top-k choices allow at most"
        )
        bound = least if target < least else most
        raise TraceError(
            f"the target imbalance cannot be reached at {zipf.num_ranks} ranks",
            place="synthesize(imbalance=...)",
            value=target,
            remedy=f"with {zipf.num_experts} experts, top-{zipf.top_k} and {tokens} tokens a "
            f"record, {why} {bound:.3f}",
        )
    while True:
        middle = (low + high) / 2
        found = mean_imbalance(middle)
        if abs(found - target) <= _TOLERANCE * target or high - low < 1e-6:
            return middle, found
        if found < target:
            low = middle
        else:
            high = middle


def _own_noise(zipf: ZipfProfile, spread: Spread, seed: int, pilot: int) -> NDArray[np.float64]:
    """Return what the sources of one pilot have for themselves, [sources, experts]."""
    if not spread.own:
        return np.zeros((1, zipf.num_experts))
    stream = np.random.SeedSequence(seed, spawn_key=(_PILOT_SOURCES, pilot))
    size = (spread.sources, zipf.num_experts)
    return spread.own * np.random.default_rng(stream).standard_normal(size)
