"""How source ranks differ: every one holds sequences of some domain, and each is its own.

Domains are found, not told: clusters of source rows that stray from their micro-batch in the same
way, over all layers at once, since a text is of one domain in every layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DOMAINS = 8
"""Clusters of source rows that are looked for at most (assumed; enough for any mix seen)."""

_ROWS_EACH = 24  # rows a cluster rests on at least: never the copy of one
_ROUNDS = 30
_FEW = 0.5  # pairs added to counts whose ratio is taken
_RAKES = 6
_LEAST = 1e-9  # gamma variates are kept above it, for their logarithm


@dataclass(frozen=True, eq=False)
class Sources:
    """The sources of a piece.

    Attributes
    ----------
    mix : ndarray of float64, shape [domains]
        Share of each domain among the rows.
    lean : ndarray of float64, shape [domains, layers, experts]
        Log popularity in a domain relative to the whole micro-batch.
    own : ndarray of float64, shape [layers]
        Overdispersion of a row around its domain that the choices of tokens do not explain.
    stay : float
        Probability that a source keeps its domain for the next step, over chance.
    """

    mix: NDArray[np.float64]
    lean: NDArray[np.float64]
    own: NDArray[np.float64]
    stay: float


def fit_sources(loads: NDArray[np.float64], top_k: int) -> Sources:
    """Read the differences of source rows off some micro-batches.

    Parameters
    ----------
    loads : ndarray of float64, shape [micro-batches, layers, sources, experts]
        Neighbours, two by two, are steps that follow each other.
    top_k : int
    """
    batches, layers, sources, experts = loads.shape
    pairs = loads.sum(axis=-1, keepdims=True)
    share = loads.sum(axis=2, keepdims=True)
    share = share / share.sum(axis=-1, keepdims=True)
    due = pairs * share
    score = (loads - due) / np.sqrt(np.maximum(due, 1.0))
    score = np.swapaxes(score, 1, 2).reshape(batches * sources, layers * experts)
    labels = clusters(score, min(DOMAINS, max(1, batches * sources // _ROWS_EACH)))
    number = int(labels.max()) + 1
    by_row = labels.reshape(batches, sources)
    lean = np.empty((number, layers, experts))
    for domain in range(number):
        mine = (by_row == domain)[:, None, :, None]
        seen, wanted = ((x * mine).sum(axis=(0, 2)) for x in (loads, due))
        lean[domain] = np.log((seen + _FEW) / (wanted + _FEW))
    weights = share * np.exp(np.swapaxes(lean[by_row], 1, 2))
    expected = pairs * weights / weights.sum(axis=-1, keepdims=True)
    used = expected > 0
    squares = np.divide((loads - expected) ** 2, expected, out=np.zeros_like(loads), where=used)
    alone = 1.0 - np.minimum(expected * top_k / np.maximum(pairs, 1e-300), 1.0)
    over = (squares - alone * used).sum(axis=(0, 2, 3)) / np.maximum(used.sum(axis=(0, 2, 3)), 1)
    mix = np.bincount(labels, minlength=number) / len(labels)
    return Sources(mix, lean, np.maximum(over, 0.0), _stay(by_row, mix))


def _stay(labels: NDArray[np.int64], mix: NDArray[np.float64]) -> float:
    first, second = labels[0::2], labels[1::2]
    if not len(second):
        return 0.0
    same = float((first[: len(second)] == second).mean())
    chance = float((mix**2).sum())
    return max(0.0, (same - chance) / (1.0 - chance)) if chance < 1.0 else 0.0


def clusters(score: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    """Group rows by direction (spherical k-means); small groups join their nearest.

    Deterministic: it begins with the row that strays most and goes on with the ones that are least
    like those taken.

    Returns
    -------
    ndarray of int64, shape [rows]
        Group of every row, numbered from 0 without gaps.
    """
    length = np.sqrt((score**2).sum(axis=1))
    unit = score / np.maximum(length, 1e-300)[:, None]
    chosen = [int(np.argmax(length))]
    near = unit @ unit[chosen[0]]
    while len(chosen) < number:
        chosen.append(int(np.argmin(near)))
        near = np.maximum(near, unit @ unit[chosen[-1]])
    centres = unit[chosen]
    labels = np.zeros(len(unit), dtype=np.int64)
    for _ in range(_ROUNDS):
        labels = np.argmax(unit @ centres.T, axis=1)
        size = np.bincount(labels, minlength=len(centres))
        small = int(np.argmin(size))
        if size[small] < _ROWS_EACH and len(centres) > 1:
            centres = np.delete(centres, small, axis=0)
            continue
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, unit)
        moved = sums / np.maximum(np.sqrt((sums**2).sum(axis=1)), 1e-300)[:, None]
        if np.allclose(moved, centres, atol=1e-9):
            break
        centres = moved
    labels = np.argmax(unit @ centres.T, axis=1)
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def draw_domains(
    rng: np.random.Generator, model: Sources, sources: int, before: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Draw the domain of every source; ``before`` are those of the step before, in one piece."""
    drawn = rng.choice(len(model.mix), size=sources, p=model.mix)
    if before is None or model.stay == 0.0:
        return np.asarray(drawn, dtype=np.int64)
    return np.asarray(np.where(rng.random(sources) < model.stay, before, drawn), dtype=np.int64)


def source_weights(
    rng: np.random.Generator,
    model: Sources,
    layer: int,
    chance: NDArray[np.float64],
    domains: NDArray[np.int64],
    pairs: float,
) -> NDArray[np.float64]:
    """Draw log popularity of every source so that their mean is the micro-batch's.

    Parameters
    ----------
    rng : numpy.random.Generator
    model : Sources
    layer : int
    chance : ndarray of float64, shape [experts]
        Of the micro-batch, summing to top-k.
    domains : ndarray of int64, shape [sources]
    pairs : float
        Of a source row.

    Returns
    -------
    ndarray of float64, shape [sources, experts]

    Notes
    -----
    A row's own noise makes its counts Dirichlet-multinomial: the gamma variate of an expert has
    the shape (pairs x share) / overdispersion. Rows and columns are then scaled in turn to their
    sums (iterative proportional fitting).
    """
    weights = chance * np.exp(model.lean[domains, layer])
    over = float(model.own[layer])
    if over > 0.0:
        weights = weights / weights.sum(axis=1, keepdims=True)
        shape = np.maximum(weights * pairs / over, 1e-6)
        weights = np.maximum(rng.standard_gamma(shape), _LEAST * shape)
    total = float(chance.sum())
    for _ in range(_RAKES):
        weights *= total / weights.sum(axis=1, keepdims=True)
        weights *= chance * len(weights) / np.maximum(weights.sum(axis=0), 1e-300)
    return np.asarray(np.log(np.maximum(weights, 1e-300)))
