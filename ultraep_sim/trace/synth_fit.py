"""What a synthetic trace takes from a real one: means over many steps, variances, correlations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .synth_trend import Timeline

MEMORIES = (0.3, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Step-to-step correlations of the processes whose sum is the noise with a memory."""

_LAGS = 24
_SHRINK = 4.0  # steps that an expert's variance is worth in its layer's mean (assumed)
_RARE = 0.5  # pairs a popular-in-no-step expert is taken to have had, so that it has a logarithm
_MOST_VARIANCE = 20.0  # of a popularity relative to its mean squared


@dataclass(frozen=True, eq=False)
class Dynamics:
    """Popularity in time: a trend, noise with a memory around it, and noise without.

    Attributes
    ----------
    timeline : Timeline
    trend : ndarray of float64, shape [knots, layers, experts]
        Shares of a layer's pairs, above 0.
    variance : ndarray of float64, shape [knots, layers, experts]
        Of a step's share, relative to the trend squared.
    memory : ndarray of float64, shape [layers, len(MEMORIES)]
        Part of the variance that each process with a memory has; the rest is new every step.
    sampling : float
        Relative variance of a share that is 1, from the choices of single tokens: a share p has
        this over p.
    """

    timeline: Timeline
    trend: NDArray[np.float64]
    variance: NDArray[np.float64]
    memory: NDArray[np.float64]
    sampling: float


def fit_dynamics(
    timeline: Timeline, shares: NDArray[np.float64], pairs: float
) -> Dynamics:
    """Read trend and noise off a recording.

    Parameters
    ----------
    timeline : Timeline
    shares : ndarray of float64, shape [steps, layers, experts]
        Rows sum to 1.
    pairs : float
        (token, expert) pairs of a layer in a step.

    Notes
    -----
    The trend is the least-squares broken line. Variances are relative to the sample means, so
    that the noise of the trend and the noise around it together are what was seen.
    """
    weights = timeline.weights()
    flat = shares.reshape(len(shares), -1)
    knots = np.linalg.lstsq(weights, flat, rcond=None)[0]
    steps_of = weights.sum(axis=0)
    floor = _RARE / (pairs * steps_of)
    knots = np.maximum(knots, floor[:, None]).reshape(-1, *shares.shape[1:])
    trend = np.tensordot(weights, knots, axes=1)
    strays = shares - trend
    variance = _variance(weights, trend, strays)
    spread = np.sqrt(np.tensordot(weights, variance, axes=1)) * trend
    memory = np.stack([
        _memory(timeline.piece, strays[:, i] / spread[:, i], trend[:, i])
        for i in range(shares.shape[1])
    ])
    return Dynamics(timeline, knots, variance, memory, 1.0 / pairs)


def _variance(
    weights: NDArray[np.float64], trend: NDArray[np.float64], strays: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Relative variance of every knot, layer and expert, drawn a little to the layer's mean.

    The mean is of variance x share, which is the same for rare and popular experts where tokens,
    or whole sequences, choose independently.
    """
    steps = weights.sum(axis=0)[:, None, None]
    squares = np.tensordot(weights.T, strays**2, axes=1)
    means = np.tensordot(weights.T, trend, axes=1) / steps
    own = squares / steps
    layer = (own / means).mean(axis=-1, keepdims=True) * means
    drawn = (steps * own + _SHRINK * layer) / (steps + _SHRINK)
    return np.asarray(np.clip(drawn / means**2, 1e-12, _MOST_VARIANCE))


def _memory(
    piece: NDArray[np.int64], strays: NDArray[np.float64], trend: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fit a sum of first-order autoregressive processes to the correlation of a layer's strays.

    Pairs of steps lie in one piece; experts count as their shares do.
    """
    found, heft = [], []
    roots = strays * np.sqrt(trend)
    energy = float((roots**2).sum(axis=1).mean())
    for lag in range(1, min(_LAGS, len(piece) - 1) + 1):
        together = piece[lag:] == piece[:-lag]
        if together.sum() < 4 or energy == 0.0:
            break
        products = (roots[lag:] * roots[:-lag]).sum(axis=1)[together]
        found.append(float(products.mean()) / energy)
        heft.append(np.sqrt(together.mean()))
    if not found:
        return np.zeros(len(MEMORIES))
    lags = np.arange(1, len(found) + 1)[:, None]
    kernel = np.array(MEMORIES)[None, :] ** lags
    w = np.array(heft)[:, None]
    parts = nonnegative_least_squares(kernel * w, np.array(found) * w[:, 0])
    return np.asarray(parts / max(1.0, float(parts.sum())))


def nonnegative_least_squares(
    matrix: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Minimise |matrix x - target| over x >= 0, one coordinate at a time."""
    gram, right = matrix.T @ matrix, matrix.T @ target
    x = np.zeros(matrix.shape[1])
    for _ in range(2000):
        for j in range(len(x)):
            x[j] = max(0.0, x[j] + (right[j] - gram[j] @ x) / gram[j, j])
    return x
