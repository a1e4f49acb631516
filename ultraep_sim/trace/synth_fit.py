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
_POOL = 8.0  # steps, times the lag, that the mean of all knots is worth in one's correlation
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
    memory : ndarray of float64, shape [knots, layers, len(MEMORIES)]
        Part of the variance that each process with a memory has; the rest is new every step.
    within : ndarray of float64, shape [knots, layers, experts]
        Relative variance between the micro-batches of a step, without that of the tokens.
    pairs : float
        (token, expert) pairs of a layer in a step. A share p has the relative variance
        1 / (pairs x p) from the choices of single tokens.
    micro_batches : int
        Of a step.
    """

    timeline: Timeline
    trend: NDArray[np.float64]
    variance: NDArray[np.float64]
    memory: NDArray[np.float64]
    within: NDArray[np.float64]
    pairs: float
    micro_batches: int

    def fresh(
        self, variance: NDArray[np.float64], trend: NDArray[np.float64], within: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return what is left of a step's variance without its tokens and micro-batches."""
        known = 1.0 / (self.pairs * trend) + within / self.micro_batches
        return np.asarray(np.maximum(variance - known, 0.0))


def fit_dynamics(timeline: Timeline, parts: NDArray[np.float64], pairs: float) -> Dynamics:
    """Read trend and noise off a recording.

    Parameters
    ----------
    timeline : Timeline
    parts : ndarray of float64, shape [steps, micro_batches, layers, experts]
        Shares of a layer's pairs; rows sum to 1.
    pairs : float
        (token, expert) pairs of a layer in a step.

    Notes
    -----
    The trend is the least-squares broken line. Variances are relative to the sample means, so
    that the noise of the trend and the noise around it together are what was seen.
    """
    batches = parts.shape[1]
    shares = parts.mean(axis=1)
    weights = timeline.weights()
    knots = np.linalg.lstsq(weights, shares.reshape(len(shares), -1), rcond=None)[0]
    floor = _RARE / (pairs * weights.sum(axis=0))
    knots = np.maximum(knots, floor[:, None]).reshape(-1, *shares.shape[1:])
    trend = np.tensordot(weights, knots, axes=1)
    strays = shares - trend
    variance = _variance(weights, trend, strays**2)
    within = np.zeros_like(variance)
    if batches > 1:
        within = _variance(weights, trend, parts.var(axis=1, ddof=1))
        within = np.maximum(within - batches / (pairs * knots), 0.0)
    spread = np.sqrt(np.tensordot(weights, variance, axes=1)) * trend
    memory = np.stack(
        [
            _memory(timeline.piece, weights, strays[:, i] / spread[:, i], trend[:, i])
            for i in range(shares.shape[1])
        ],
        axis=1,
    )
    return Dynamics(timeline, knots, variance, memory, within, pairs, batches)


def _variance(
    weights: NDArray[np.float64], trend: NDArray[np.float64], squares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Relative variance of every knot, layer and expert, drawn a little to the layer's mean.

    The mean is of variance x share, which is the same for rare and popular experts where tokens,
    or whole sequences, choose independently.
    """
    steps = weights.sum(axis=0)[:, None, None]
    own = np.tensordot(weights.T, squares, axes=1) / steps
    means = np.tensordot(weights.T, trend, axes=1) / steps
    layer = (own / means).mean(axis=-1, keepdims=True) * means
    drawn = (steps * own + _SHRINK * layer) / (steps + _SHRINK)
    return np.asarray(np.clip(drawn / means**2, 1e-12, _MOST_VARIANCE))


def _memory(
    piece: NDArray[np.int64],
    weights: NDArray[np.float64],
    strays: NDArray[np.float64],
    trend: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Fit sums of first-order autoregressive processes to the correlation of a layer's strays.

    Pairs of steps lie in one piece; experts count as their shares do. A knot of few steps is drawn
    to the mean of all, most at long lags.
    """
    roots = strays * np.sqrt(trend)
    energy = (roots**2).sum(axis=1)
    size, knots = weights.shape
    lags = np.array(
        [
            lag
            for lag in range(1, min(_LAGS, size - 1) + 1)
            if (piece[lag:] == piece[:-lag]).sum() >= 4
        ],
        dtype=np.int64,
    )
    if not len(lags) or not energy.any():
        return np.zeros((knots, len(MEMORIES)))
    covariance, due, steps = (np.zeros((len(lags), knots)) for _ in range(3))
    for i, lag in enumerate(lags):
        together = (piece[lag:] == piece[:-lag]).astype(np.float64)
        near = (weights[lag:] + weights[:-lag]) / 2 * together[:, None]
        covariance[i] = (roots[lag:] * roots[:-lag]).sum(axis=1) @ near
        due[i] = ((energy[lag:] + energy[:-lag]) / 2) @ near
        steps[i] = near.sum(axis=0)
    alone = covariance.sum(axis=1) / np.maximum(due.sum(axis=1), 1e-300)
    heft = _POOL * (due.sum(axis=1) / steps.sum(axis=1))[:, None] * lags[:, None]
    found = (covariance + heft * alone[:, None]) / (due + heft)
    kernel = np.array(MEMORIES)[None, :] ** lags[:, None]
    w = np.sqrt(steps.sum(axis=1) / steps.sum(axis=1).max())
    parts = np.stack(
        [nonnegative_least_squares(kernel * w[:, None], found[:, k] * w) for k in range(knots)]
    )
    return np.asarray(parts / np.maximum(1.0, parts.sum(axis=1, keepdims=True)))


def nonnegative_least_squares(
    matrix: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Minimise |matrix x - target| over x >= 0, one coordinate at a time."""
    gram, right = matrix.T @ matrix, matrix.T @ target
    x = np.zeros(matrix.shape[1])
    for _ in range(300):
        for j in range(len(x)):
            x[j] = max(0.0, x[j] + (right[j] - gram[j] @ x) / gram[j, j])
    return x
