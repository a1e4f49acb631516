"""Loads of power-law benchmark rows: drawn by inverse CDF, the hottest rank kept.

The tables time the rank with most pairs under loads that they do not store. How they were drawn:
one weight an expert from the density ``x^-alpha`` on [1, 0.8 tokens] (on [0.01, 2] where there are
no more pairs than experts), by the inverse of its distribution function; weights scaled to tokens
x top-k pairs and rounded; contiguous ranks. Not documented is who gets the pairs that rounding
loses. Here the largest remainders do: the memory-bound rows of one rank (expert parallelism of 1)
tell how many experts were touched, and of the ways that were tried only this one agrees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import CalibrationError

Counts = NDArray[np.int64]
_SHARE = 0.8  # largest weight, of the tokens
_FEW = (0.01, 2.0)  # range of the weights where pairs are no more than experts


def draw_hottest(
    tokens: int,
    top_k: int,
    experts: int,
    ranks: int,
    alpha: float,
    draws: int,
    rng: np.random.Generator,
) -> Counts:
    """Draw the loads of the hottest rank.

    Parameters
    ----------
    tokens, top_k : int
        Tokens of the whole group, and experts of each.
    experts, ranks : int
        Experts of the group, a multiple of its ranks.
    alpha : float
        Exponent of the density; not 1.
    draws : int
        How many load vectors.
    rng : Generator
        Source of randomness.

    Returns
    -------
    int64 [draws, experts / ranks]
        Pairs of the hottest rank's experts.

    Raises
    ------
    CalibrationError
        Experts do not divide over the ranks, or alpha is 1.
    """
    if experts % ranks:
        raise CalibrationError(
            "experts do not divide over the ranks", value=(experts, ranks), remedy="give a divisor"
        )
    if alpha == 1:
        raise CalibrationError("the inverse CDF has a pole at 1", value=alpha, remedy="give 1.01")
    low, high = (1.0, _SHARE * tokens) if tokens * top_k > experts else _FEW
    if high <= low:
        low, high = _FEW
    power = 1 - alpha
    u = rng.random((draws, experts))
    weight = ((high**power - low**power) * u + low**power) ** (1 / power)
    loads = _apportion(weight, tokens * top_k).reshape(draws, ranks, experts // ranks)
    hottest = loads.sum(axis=2).argmax(axis=1)
    return np.asarray(loads[np.arange(draws), hottest])


def _apportion(weight: NDArray[np.float64], total: int) -> Counts:
    """Round weights [draws, experts] to counts of a given sum, largest remainders first."""
    exact = weight * (total / weight.sum(axis=1, keepdims=True))
    counts = np.floor(exact).astype(np.int64)
    left = total - counts.sum(axis=1, keepdims=True)
    order = np.argsort(counts - exact, axis=1, kind="stable")
    ranking = np.empty_like(order)
    np.put_along_axis(ranking, order, np.arange(weight.shape[1])[None], axis=1)
    return np.asarray(counts + (ranking < left))
