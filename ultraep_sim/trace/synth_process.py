"""Random popularity in time, as `Dynamics` describe it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .synth_fit import MEMORIES, Dynamics
from .synth_profile import inclusion_probabilities


def stream(seed: int, *place: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=place)))


def log_popularity(d: Dynamics, seed: int, steps: int, white=1.0, slow=1.0) -> Iterator[NDArray[np.float64]]:
    """Yield the log popularity [layers, experts] of every step."""
    layers, experts = d.trend.shape[1:]
    rho = np.array(MEMORIES)[:, None, None]
    fresh = np.sqrt(1.0 - rho**2)
    part = np.sqrt(d.memory.T)[:, :, None]
    total = d.memory.sum(axis=1)[:, None]
    state = np.zeros((len(MEMORIES), layers, experts))
    piece = -1
    for step in range(steps):
        rng = stream(seed, 0, step)
        noise = rng.standard_normal((len(MEMORIES) + 1, layers, experts))
        if d.timeline.piece[step] != piece:
            piece = d.timeline.piece[step]
            state = noise[1:]
        else:
            state = rho * state + fresh * noise[1:]
        trend = d.timeline.at(step, d.trend)
        variance = d.timeline.at(step, d.variance)
        a = np.log1p(variance * total * slow)
        b = np.log1p(white * np.maximum(variance * (1.0 - total) - d.sampling / trend, 0.0))
        known = (part * state).sum(axis=0) / np.sqrt(np.maximum(total, 1e-300))
        yield np.log(trend) + np.sqrt(a) * known + np.sqrt(b) * noise[0] - (a + b) / 2
