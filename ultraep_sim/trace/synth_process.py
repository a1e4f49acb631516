"""Random popularity in time, as `Dynamics` describe it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .layer_stats import rank_starts
from .stats import LAGS
from .synth_fit import MEMORIES, Dynamics
from .synth_profile import inclusion_probabilities
from .synth_trend import correlations

STEP, BATCH, PILOT, SOURCES, DRAW = range(5)
"""Keys of the random streams."""

_ROUNDS, _PILOTS = 4, 2
_PILOT_SEED = 20_240_607  # of the calibration alone: never that of a trace
_MOST_CHANGE = 4.0


def stream(seed: int, *place: int) -> np.random.Generator:
    """Return the random stream of one purpose at one place."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=place)))


def popularity(dynamics: Dynamics, seed: int, steps: int) -> Iterator[NDArray[np.float64]]:
    """Yield the log popularity of every step.

    Popularity is the trend times a gamma variate, whose normal score is a sum of autoregressive
    processes and fresh noise. A new piece begins with processes drawn anew.

    Yields
    ------
    ndarray of float64, shape [layers, experts]
    """
    layers, experts = dynamics.trend.shape[1:]
    rho = np.array(MEMORIES)[:, None, None]
    fresh = np.sqrt(1.0 - rho**2)
    state = np.zeros((len(MEMORIES), layers, experts))
    last = None
    for step in range(steps):
        round_, at = dynamics.timeline.position(step)
        piece = (round_, int(dynamics.timeline.piece[at]))
        noise = stream(seed, STEP, step).standard_normal((len(MEMORIES) + 1, layers, experts))
        state = noise[1:] if piece != last else rho * state + fresh * noise[1:]
        last = piece
        yield _moved(dynamics, at, state, noise[0])


def _moved(
    d: Dynamics, at: int, state: NDArray[np.float64], new: NDArray[np.float64]
) -> NDArray[np.float64]:
    trend, variance, memory, within = (
        d.timeline.at(at, values) for values in (d.trend, d.variance, d.memory, d.within)
    )
    total = memory.sum(axis=1)[:, None]
    fresh = d.fresh(variance * (1.0 - total), trend, within)
    score = (np.sqrt(memory.T)[:, :, None] * state).sum(axis=0) * np.sqrt(variance)
    both = variance * total + fresh
    score = (score + np.sqrt(fresh) * new) / np.sqrt(np.maximum(both, 1e-300))
    return np.asarray(np.log(trend) + log_gamma(score, both))


def log_gamma(score: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log of gamma variates of mean 1 at the quantiles of normal scores.

    By Wilson and Hilferty (PNAS 17, 1931): the cube root of a gamma variate is nearly normal.
    """
    root = 1.0 - variance / 9.0 + np.sqrt(variance) / 3.0 * score
    return np.asarray(3.0 * np.log(np.maximum(root, 1e-3)))


def batch_noise(
    dynamics: Dynamics, seed: int, step: int, batch: int
) -> NDArray[np.float64] | float:
    """Return the log of what is a micro-batch's own, [layers, experts]."""
    if dynamics.micro_batches == 1:
        return 0.0
    _, at = dynamics.timeline.position(step)
    within = dynamics.timeline.at(at, dynamics.within)
    return log_gamma(stream(seed, BATCH, step, batch).standard_normal(within.shape), within)


def calibrated(
    dynamics: Dynamics, shares: NDArray[np.float64], top_k: int, sizes: tuple[int, ...]
) -> Dynamics:
    """Scale variance and memory until pilots agree with the recording.

    Two numbers for the whole trace: the variance follows the mean rank imbalance, the part of it
    that has a memory follows the correlation of steps. What moments alone give is close already;
    what is left are the cap on chances, the shape of the noise and the pieces' short length.

    Parameters
    ----------
    dynamics : Dynamics
    shares : ndarray of float64, shape [steps, layers, experts]
        As recorded.
    top_k : int
    sizes : tuple of int
        Expert-parallel sizes at which the imbalance counts.
    """
    due_imbalance, due_lags = _seen(shares, sizes)
    best, least = dynamics, np.inf
    now, noise, memory = dynamics, 1.0, 1.0
    for _ in range(_ROUNDS):
        found = [_seen(_pilot(now, top_k, seed), sizes) for seed in range(_PILOTS)]
        imbalance = np.mean([pilot[0] for pilot in found], axis=0) / due_imbalance - 1.0
        lags = np.mean([pilot[1] for pilot in found], axis=0) - due_lags
        # in units of what is asked for: 5 % of imbalance, 0.05 of correlation
        miss = float(max(np.abs(imbalance).max(), np.abs(lags).max(initial=0.0)))
        if miss < least:
            best, least = now, miss
        middle = (imbalance.max() + imbalance.min()) / 2
        noise *= float(np.exp(-np.clip(4.0 * middle, -0.3, 0.3)))
        if len(lags):
            memory *= float(np.exp(-np.clip(8.0 * (lags.max() + lags.min()) / 2, -0.5, 0.5)))
        noise, memory = (np.clip(x, 1 / _MOST_CHANGE, _MOST_CHANGE) for x in (noise, memory))
        now = _scaled(dynamics, float(noise), float(memory))
    return best


def _scaled(d: Dynamics, noise: float, memory: float) -> Dynamics:
    parts = d.memory * memory
    parts = parts / np.maximum(1.0, parts.sum(axis=-1, keepdims=True))
    return replace(d, variance=d.variance * noise, memory=parts)


def _pilot(dynamics: Dynamics, top_k: int, seed: int) -> NDArray[np.float64]:
    """Draw the shares of steps, the choices of tokens as normal noise."""
    size = len(dynamics.timeline.knot)
    tokens = dynamics.pairs / top_k
    found = np.empty((size, *dynamics.trend.shape[1:]))
    for step, weights in enumerate(popularity(dynamics, _PILOT_SEED + seed, size)):
        _, at = dynamics.timeline.position(step)
        spread = np.sqrt(dynamics.timeline.at(at, dynamics.within) / dynamics.micro_batches)
        rng = stream(_PILOT_SEED + seed, PILOT, step)
        own, luck = rng.standard_normal((2, *found.shape[1:]))
        chance = inclusion_probabilities(weights + log_gamma(own, spread**2), top_k)
        loads = chance + np.sqrt(chance * (1.0 - chance) / tokens) * luck
        found[step] = np.maximum(loads, 0.0) / top_k
    return found


def _seen(
    shares: NDArray[np.float64], sizes: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean imbalance by size and step correlation by lag."""
    imbalance = []
    for size in sizes:
        ranks = np.add.reduceat(shares, rank_starts(size, shares.shape[-1]), axis=-1)
        imbalance.append(float((ranks.max(-1) / ranks.mean(-1)).mean()))
    lags = [float(correlations(shares[h:], shares[:-h]).mean()) for h in LAGS if h < len(shares)]
    return np.array(imbalance), np.array(lags)
