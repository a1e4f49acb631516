"""Predict the time of a skewed row whose load is unknown: a distribution, not a number.

Loads are drawn (`power_law`), each gives a time by the law that balanced rows fitted, and the
error of the law widens the result. Two widths: that of the balanced rows (``plain``), and one that
also knows how the law errs under skew: a factor and a spread, learnt on rows of *another* exponent
by maximum likelihood, the draws integrated out. What a row is judged by is its position: the
probability that the prediction gives to less than was measured, uniform if the prediction is right.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.calibrate.fit import FitResult, least_squares_module
from ultraep_sim.calibrate.power_law import draw_hottest
from ultraep_sim.calibrate.silicon import moe
from ultraep_sim.calibrate.silicon.tables import Table
from ultraep_sim.model.shapes import MODELS

Floats = NDArray[np.float64]
DRAWS = 100
#: A predicted band holds this share of the probability, half of the rest on either side.
BAND = 0.9
_LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class Skewed:
    """Rows of one distribution with what was drawn for them.

    Parameters
    ----------
    keys : tuple of str [N]
    log_measured : float64 [N]
        Logarithm of the measured seconds.
    log_drawn : float64 [N, DRAWS]
        Logarithm of the law's seconds, for each draw of the load.
    """

    keys: tuple[str, ...]
    log_measured: Floats
    log_drawn: Floats


@dataclass(frozen=True)
class LawError:
    """How measured times differ from the law: a factor, and the spread of its logarithm."""

    factor: float
    spread: float

    def positions(self, rows: Skewed) -> Floats:
        """Probability of less than was measured, float64 [N]."""
        shift = np.log(self.factor)
        z = (rows.log_measured[:, None] - rows.log_drawn - shift) / self.spread
        return np.asarray(_normal_cdf(z).mean(axis=1))

    def inside(self, rows: Skewed) -> NDArray[np.bool_]:
        """Tell which measured values lie in the central band."""
        edge = (1 - BAND) / 2
        position = self.positions(rows)
        return np.asarray((position >= edge) & (position <= 1 - edge))

    def medians(self, rows: Skewed) -> Floats:
        """Median of the prediction in seconds, float64 [N]."""
        return np.asarray(self.factor * np.exp(np.median(rows.log_drawn, axis=1)))


def balanced_error(found: FitResult) -> LawError:
    """Return the law's error on the balanced rows that it was fitted to."""
    return LawError(1.0, max(float(np.sqrt(np.mean(found.log_errors**2))), _LEAST_SPREAD))


def draw_rows(table: Table, case: moe.Case, distribution: str, found: FitResult) -> Skewed:
    """Draw loads for the rows of a power law, and time each by the fitted law.

    The random stream depends on the row alone: neither the order of a table nor what else is
    predicted changes a draw.
    """
    model = MODELS[case.model]
    alpha = moe.alpha_of(distribution)
    c = moe.rows_of(table, case, distribution).columns
    keys, drawn = [], []
    for tokens, ranks in zip(c["num_tokens"].tolist(), c["moe_ep_size"].tolist(), strict=True):
        key = f"{case.name}/{distribution}/{tokens}/ep{ranks}"
        rng = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()[:16]))
        loads = draw_hottest(tokens, model.top_k, model.num_experts, ranks, alpha, DRAWS, rng)
        columns = moe.work(
            model,
            case.precision,
            pairs=loads,
            instances=loads > 0,
            hosted=np.full(DRAWS, loads.shape[1]),
            tokens=np.full(DRAWS, tokens),
        )
        keys.append(key)
        drawn.append(np.log(found.predict(columns)))
    return Skewed(tuple(keys), np.log(c["latency"] * 1e-3), np.array(drawn).reshape(-1, DRAWS))


def learn_error(rows: Skewed, start: LawError) -> LawError:
    """Fit factor and spread of the law's error to skewed rows, the draws integrated out."""
    minimize = least_squares_module().minimize

    def surprise(x: Floats) -> float:
        spread = max(float(np.exp(x[1])), _LEAST_SPREAD)
        z = (rows.log_measured[:, None] - rows.log_drawn - x[0]) / spread
        # A share of wild rows (an autotuner's accident) must not set the width: 1 % uniform.
        density = np.exp(-0.5 * z**2).mean(axis=1) / (spread * np.sqrt(2 * np.pi))
        return float(-np.log(0.99 * density + 0.01).sum())

    best = minimize(surprise, [0.0, np.log(max(start.spread, 0.02))], method="Nelder-Mead")
    return LawError(float(np.exp(best.x[0])), max(float(np.exp(best.x[1])), _LEAST_SPREAD))


def _normal_cdf(z: Floats) -> Floats:
    from scipy.special import ndtr  # scipy is of the extra; whoever fits has it

    return np.asarray(ndtr(z))
