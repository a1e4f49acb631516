"""Predict the time of a skewed row whose load is unknown: a distribution, not a number.

Three things are unknown and drawn. The loads, as the table's documentation says (`power_law`). The
rate of the tactic that the autotuner chose for the mean load (`tactic`), between the bounds that
balanced rows set. The error of the law that balanced rows fitted: it is that of balanced rows which
a cross-validated fit did not see, drawn as it is, for its tails are heavy. No skewed row is used.

Beside it, for comparison, stands an error that skewed rows of *another* exponent taught: a factor
and a spread by maximum likelihood, the draws integrated out. What a row is judged by is its
position: the probability that the prediction gives to less than was measured, uniform if the
prediction is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.calibrate.fit import FitResult, least_squares_module, row_stream
from ultraep_sim.calibrate.power_law import draw_hottest
from ultraep_sim.calibrate.silicon import moe
from ultraep_sim.calibrate.silicon.tables import Table
from ultraep_sim.calibrate.tactic import ridge_rows, work_rows
from ultraep_sim.errors import CalibrationError
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
        Logarithm of the law's seconds, for each draw of loads and tactic.
    """

    keys: tuple[str, ...]
    log_measured: Floats
    log_drawn: Floats


@dataclass(frozen=True)
class LawError:
    """How measured times differ from the law: equally likely normals of the logarithm.

    Parameters
    ----------
    centres : float64 [K]
        One is a normal error; many are an empirical one, smoothed.
    spread : float
        Standard deviation of each.
    """

    centres: Floats
    spread: float

    @classmethod
    def normal(cls, factor: float, spread: float) -> LawError:
        """Return the error of a factor and the spread of its logarithm."""
        return cls(np.array([np.log(factor)]), max(spread, _LEAST_SPREAD))

    def positions(self, rows: Skewed) -> Floats:
        """Probability of less than was measured, float64 [N]."""
        z = (rows.log_measured[:, None] - rows.log_drawn)[..., None] - self.centres
        return np.asarray(_normal_cdf(z / self.spread).mean(axis=(1, 2)))

    def inside(self, rows: Skewed, band: float = BAND) -> NDArray[np.bool_]:
        """Tell which measured values lie in a central band."""
        return in_band(self.positions(rows), band)

    def medians(self, rows: Skewed) -> Floats:
        """Median of the prediction in seconds, float64 [N]."""
        return np.asarray(np.exp(self._quantiles(rows, 0.5)))

    def widths(self, rows: Skewed) -> Floats:
        """Upper end of the band over its lower end, float64 [N]."""
        edge = (1 - BAND) / 2
        return np.asarray(np.exp(self._quantiles(rows, 1 - edge) - self._quantiles(rows, edge)))

    def _quantiles(self, rows: Skewed, q: float) -> Floats:
        return np.asarray(np.quantile(rows.log_drawn + self._one_a_draw(), q, axis=1))

    def _one_a_draw(self) -> Floats:
        """Errors [DRAWS], evenly spread over their distribution, in an order of no meaning."""
        rng = np.random.default_rng(0)
        level = (np.arange(DRAWS) + 0.5) / DRAWS
        centres = np.quantile(self.centres, rng.permutation(level))
        return np.asarray(centres + self.spread * _normal_quantile(rng.permutation(level)))


def in_band(positions: Floats, band: float = BAND) -> NDArray[np.bool_]:
    """Tell which positions lie in a central band."""
    return np.asarray(np.abs(positions - 0.5) <= band / 2)


def balanced_error(found: FitResult) -> LawError:
    """Return the law's error on balanced rows that it was not fitted to, by cross-validation.

    Smoothed by Silverman's rule (Density Estimation, 1986, eq. 3.31).

    Raises
    ------
    CalibrationError
        The fit was not cross-validated.
    """
    errors = found.log_errors_crossed
    if not len(errors):
        raise CalibrationError("errors of unseen rows are not known", remedy="fit with folds")
    low, high = np.quantile(errors, (0.25, 0.75))
    width = 0.9 * min(float(errors.std()), float(high - low) / 1.34) * len(errors) ** -0.2
    return LawError(errors, max(width, _LEAST_SPREAD))


def draw_rows(table: Table, case: moe.Case, distribution: str, found: FitResult) -> Skewed:
    """Draw loads and tactics for the rows of a power law, and time each by the fitted law.

    The random stream depends on the row alone: neither the order of a table nor what else is
    predicted changes a draw.
    """
    model = MODELS[case.model]
    alpha = moe.alpha_of(distribution)
    c = moe.rows_of(table, case, distribution).columns
    keys, drawn = [], []
    for tokens, ranks in zip(c["num_tokens"].tolist(), c["moe_ep_size"].tolist(), strict=True):
        key = f"{case.name}/{distribution}/{tokens}/ep{ranks}"
        rng = row_stream(key)
        loads = draw_hottest(tokens, model.top_k, model.num_experts, ranks, alpha, DRAWS, rng)
        columns = moe.work(
            model,
            case.precision,
            pairs=loads,
            instances=loads > 0,
            hosted=np.full(DRAWS, loads.shape[1]),
            tokens=np.full(DRAWS, tokens),
        )
        ridge = ridge_rows(found.values, columns["weight_bytes"][0], columns["flops_per_pair"][0])
        mean_load = tokens * model.top_k / model.num_experts
        columns["work_rows"] = work_rows(loads, mean_load, ridge, rng)
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

    width = float(np.hypot(start.spread, start.centres.std()))
    best = minimize(surprise, [0.0, np.log(max(width, 0.02))], method="Nelder-Mead")
    return LawError.normal(float(np.exp(best.x[0])), float(np.exp(best.x[1])))


def _normal_cdf(z: Floats) -> Floats:
    from scipy.special import ndtr  # scipy is of the extra; whoever fits has it

    return np.asarray(ndtr(z))


def _normal_quantile(level: Floats) -> Floats:
    from scipy.special import ndtri

    return np.asarray(ndtri(level))
