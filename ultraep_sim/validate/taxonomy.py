"""The workload taxonomy: ways in which routing is uneven, each a function that draws its loads.

Each takes a random generator and a shape and returns the load matrices, int64 [ranks, experts], of
one or more micro-batches in order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..trace.synth_profile import inclusion_probabilities
from .draws import TOKENS_PER_RANK, Shape, draw_loads, top_k_of

Loads = NDArray[np.int64]


def balanced(rng: np.random.Generator, shape: Shape) -> list[Loads]:
    """Draw experts of equal popularity: what is uneven is chance and the layout."""
    return [_drawn(rng, shape, np.ones(shape.experts))]


def hot_expert_set(rng: np.random.Generator, shape: Shape) -> list[Loads]:
    """Draw a few experts, anywhere, that take a third of all tokens."""
    weights = _even(rng, shape)
    hot = rng.choice(shape.experts, max(2, shape.experts // 32), replace=False)
    weights[hot] = weights.sum() / 2 / len(hot)
    return [_drawn(rng, shape, weights)]


def hot_rank(rng: np.random.Generator, shape: Shape) -> list[Loads]:
    """Draw one rank all of whose experts are popular."""
    weights = _even(rng, shape)
    weights[shape.layout().home == rng.integers(_hosts(shape))] *= 6
    return [_drawn(rng, shape, weights)]


def spread_hot(rng: np.random.Generator, shape: Shape) -> list[Loads]:
    """Draw one hot expert on every rank: very uneven experts, less uneven ranks."""
    weights = _even(rng, shape)
    home = shape.layout().home
    for rank in np.unique(home):
        weights[rng.choice(np.flatnonzero(home == rank))] *= rng.uniform(8, 16)
    return [_drawn(rng, shape, weights)]


def ragged_sources(rng: np.random.Generator, shape: Shape) -> list[Loads]:
    """Draw sources of very different length, a quarter of them empty, each with its own taste."""
    tokens = (TOKENS_PER_RANK * rng.uniform(0.05, 1, shape.ranks)).astype(np.int64)
    tokens[rng.choice(shape.ranks, shape.ranks // 4, replace=False)] = 0
    shared = rng.lognormal(0, 0.8, shape.experts)
    chance = [_chance(shape, shared * rng.lognormal(0, 0.6, shape.experts)) for _ in tokens]
    return [draw_loads(rng, np.stack(chance), tokens)]


def zero_load(rng: np.random.Generator, shape: Shape) -> list[Loads]:
    """Return no load at all: a micro-batch of padding only."""
    return [np.zeros((shape.ranks, shape.experts), np.int64)]


def rotating_hot_spot(rng: np.random.Generator, shape: Shape) -> list[Loads]:
    """Draw a hot spot that wanders from rank to rank, micro-batch by micro-batch."""
    out = []
    for step in range(4):
        weights = _even(rng, shape)
        weights[shape.layout().home == step * _hosts(shape) // 4] *= 5
        out.append(_drawn(rng, shape, weights))
    return out


def burst(rng: np.random.Generator, shape: Shape) -> list[Loads]:
    """Draw calm; then half of the sources send every token to one and the same top-k; calm."""
    calm = _chance(shape, _even(rng, shape))
    struck = np.tile(calm, (shape.ranks, 1))
    half = -(-shape.ranks // 2)
    struck[:half] = 0.0
    struck[:half, rng.choice(shape.experts, top_k_of(shape.experts), replace=False)] = 1.0
    return [draw_loads(rng, chance, _full(shape)) for chance in (calm, struck, calm)]


TAXONOMY: tuple[Callable[[np.random.Generator, Shape], list[Loads]], ...] = (
    balanced,
    hot_expert_set,
    hot_rank,
    spread_hot,
    ragged_sources,
    zero_load,
    rotating_hot_spot,
    burst,
)
"""Every family; a family is called by its function's name."""


def _even(rng: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    return rng.uniform(0.8, 1.25, shape.experts)


def _hosts(shape: Shape) -> int:
    """Ranks that are home to an expert: the first ones."""
    return min(shape.ranks, shape.experts)


def _full(shape: Shape) -> Loads:
    return np.full(shape.ranks, TOKENS_PER_RANK, np.int64)


def _chance(shape: Shape, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return inclusion_probabilities(np.log(weights), top_k_of(shape.experts))


def _drawn(rng: np.random.Generator, shape: Shape, weights: NDArray[np.float64]) -> Loads:
    return draw_loads(rng, _chance(shape, weights), _full(shape))
