"""Draw load matrices of independent tokens that each take top-k different experts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..planning import EPLayout
from ..trace.synth_profile import INNER_EXPONENT, inclusion_probabilities

TOKENS_PER_RANK = 8192
_MAX_EXPONENT = 24.0


class Shape(NamedTuple):
    """Logical experts, ranks of the EP group, redundant slots a rank."""

    experts: int
    ranks: int
    slots: int

    def layout(self) -> EPLayout:
        """One scale-up domain, contiguous homes."""
        return EPLayout(self.ranks, self.experts, self.slots)


def top_k_of(experts: int) -> int:
    """Top-k of the imagined model: 8, or 4 below 64 experts."""
    return 8 if experts >= 64 else 4


def draw_loads(
    rng: np.random.Generator,
    chance: NDArray[np.float64],
    tokens: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Draw the load matrix of independent tokens, each taking top-k different experts.

    Systematic sampling: the chances of a source's experts, in random order, are laid on a line of
    length top-k, and a token takes the experts under u, u + 1, ... for a uniform u. Each expert is
    taken with its chance exactly, and never twice, as no chance is above 1.

    Parameters
    ----------
    rng : Generator
    chance : ndarray of float, shape [experts] or [sources, experts]
        In 0..1, rows summing to top-k.
    tokens : ndarray of int64, shape [sources]

    Returns
    -------
    ndarray of int64, shape [sources, experts]
        Rows sum to tokens x top-k exactly.
    """
    sources, experts = len(tokens), chance.shape[-1]
    rows = np.broadcast_to(chance, (sources, experts))
    out = np.empty((sources, experts), np.int64)
    for s in range(sources):
        order = rng.permutation(experts)
        edges = np.concatenate(([0.0], np.cumsum(rows[s, order])))
        edges[-1] = round(edges[-1])  # whatever was lost to rounding: rows sum exactly
        u = np.sort(rng.random(tokens[s]))
        whole = np.floor(edges)
        below = whole * tokens[s] + np.searchsorted(u, edges - whole, side="left")
        out[s, order] = np.diff(below.astype(np.int64))
    return out


def zipf_loads(
    rng: np.random.Generator, shape: Shape, imbalance: float, tokens_per_rank: int = TOKENS_PER_RANK
) -> NDArray[np.int64] | None:
    """Draw loads that are Zipf over ranks, and Zipf with exponent 4.0 inside a rank.

    The exponent over ranks is found by bisection, so that the expected rank imbalance is the
    target; ranks, and experts inside a rank, take their places in random order. Where the chance
    of an expert would pass 1 it stops there and the others share what is left.

    Parameters
    ----------
    rng : Generator
    shape : Shape
        Homes are contiguous.
    imbalance : float
        Wanted max over mean rank load.
    tokens_per_rank : int

    Returns
    -------
    ndarray of int64, shape [ranks, experts], or None
        None where no exponent reaches the target: no rank can have more than all tokens.
    """
    home = shape.layout().home
    inner, place = np.empty(shape.experts), np.empty(shape.experts)
    for position, rank in enumerate(rng.permutation(np.unique(home)), start=1):
        mine = rng.permutation(np.flatnonzero(home == rank))
        weights = -INNER_EXPONENT * np.log(np.arange(1, len(mine) + 1))
        inner[mine] = weights - np.log(np.exp(weights).sum())
        place[mine] = np.log(position)

    def at(exponent: float) -> tuple[float, NDArray[np.float64]]:
        chance = inclusion_probabilities(inner - exponent * place, top_k_of(shape.experts))
        by_rank = np.bincount(home, chance, minlength=shape.ranks)
        return float(by_rank.max() / by_rank.mean()), chance

    low, high = 0.0, _MAX_EXPONENT
    if not at(low)[0] <= imbalance <= at(high)[0]:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle)[0] < imbalance else (low, middle)
    tokens = np.full(shape.ranks, tokens_per_rank, np.int64)
    return draw_loads(rng, at(high)[1], tokens)
