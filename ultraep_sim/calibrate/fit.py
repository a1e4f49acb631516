"""Robust fits of a law to timed rows: values, covariance, residuals, warnings, manifest.

The sum of ``soft_l1(log(predicted) - log(measured))`` is minimised over the logarithms of the
parameters, inside their physical bounds: times span four decades, and a few rows are autotuning
accidents. Rows are held out by a hash of their key, so that neither the order of a file nor a
seed decides what a law is judged on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.calibrate.identify import AT_BOUND, what_rows_do_not_tell
from ultraep_sim.errors import CalibrationError

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]
Law = Callable[[Mapping[str, float], Columns], Floats]

_NOISE = 0.03  # log error from which a row counts linearly: about the noise of good tables


@dataclass(frozen=True)
class Parameter:
    """One named parameter of a law, positive.

    Parameters
    ----------
    name, unit : str
        For reports; the law takes it by its name, in this unit.
    start, low, high : float
        First guess and physical bounds, ``0 < low <= start <= high``.
    """

    name: str
    unit: str
    start: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.start <= self.high < math.inf:
            raise CalibrationError(
                "bounds and start of a parameter are positive and in order",
                place=self.name,
                value=(self.low, self.start, self.high),
                remedy="give 0 < low <= start <= high",
            )


@dataclass(frozen=True)
class Rows:
    """Timed rows of one kind.

    Parameters
    ----------
    columns : mapping of str to ndarray, first axis [N]
        What the law needs to know of every row.
    seconds : float64 [N]
        What was measured.
    keys : tuple of str [N]
        What identifies a row; decides by its hash whether it is held out.
    sources : tuple of (str, str)
        Name and SHA-256 of the files that were read.
    """

    columns: Columns
    seconds: Floats
    keys: tuple[str, ...]
    sources: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.seconds), len(self.keys), *(len(c) for c in self.columns.values())}
        if len(lengths) != 1:
            raise CalibrationError(
                "columns of different lengths", value=sorted(lengths), remedy="give one per row"
            )
        wrong = np.flatnonzero(~(np.isfinite(self.seconds) & (self.seconds > 0)))
        if len(wrong):
            raise CalibrationError(
                "a measured time is not positive",
                place=self.keys[wrong[0]],
                value=float(self.seconds[wrong[0]]),
                remedy="leave the row out",
            )

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, index: NDArray[Any]) -> Rows:
        """Return some of the rows, by index or mask."""
        chosen = np.arange(len(self))[index]
        return Rows(
            {name: column[chosen] for name, column in self.columns.items()},
            self.seconds[chosen],
            tuple(self.keys[i] for i in chosen),
            self.sources,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of keys and times, whatever their order."""
        lines = sorted(f"{k}={s!r}" for k, s in zip(self.keys, self.seconds.tolist(), strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Residuals:
    """Absolute relative errors of some rows: how many, median, 90th percentile, worst, where."""

    rows: int
    median: float
    p90: float
    worst: float
    worst_row: str

    @classmethod
    def of(cls, predicted: Floats, rows: Rows) -> Residuals:
        """Judge predicted seconds [N]; NaN where there are no rows."""
        if not len(rows):
            return cls(0, math.nan, math.nan, math.nan, "")
        error = np.abs(predicted / rows.seconds - 1)
        at = int(error.argmax())
        middle, high = np.quantile(error, (0.5, 0.9))
        return cls(len(rows), float(middle), float(high), float(error[at]), rows.keys[at])

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping; null for what no row tells."""
        found = {"median": self.median, "p90": self.p90, "worst": self.worst}
        return {
            "rows": self.rows,
            **{k: None if math.isnan(v) else v for k, v in found.items()},
            "worst_row": self.worst_row,
        }


@dataclass(frozen=True)
class FitResult:
    """A fitted law.

    Parameters
    ----------
    values : dict of str to float
        In the units of the parameters.
    parameters : tuple of Parameter
        What was fitted, in the order of `covariance`.
    covariance : float64 [P, P]
        Of the logarithms of the values: the square root of the diagonal is a relative standard
        deviation. Zero for a parameter whose bounds are equal.
    fitted, held_out, cross_validated : Residuals
        On the rows of the fit, on those it never saw, and on every row of the fit when the others
        predict it (no rows where that was not asked for).
    log_errors : float64 [rows of the fit]
        ``log(measured / predicted)``.
    log_errors_crossed : float64 [rows of the fit], or [0]
        The same, each row predicted by a fit to the other folds.
    warnings : tuple of str
        Parameters at a bound, not determined, or known only in combination.
    manifest : dict
        Digests of the rows that were read, fitted and held out, and of their files.
    """

    values: dict[str, float]
    parameters: tuple[Parameter, ...]
    covariance: Floats
    fitted: Residuals
    held_out: Residuals
    cross_validated: Residuals
    log_errors: Floats
    log_errors_crossed: Floats
    warnings: tuple[str, ...]
    manifest: dict[str, Any]
    law: Law = field(repr=False)

    def predict(self, columns: Columns) -> Floats:
        """Seconds of other rows."""
        return self.law(self.values, columns)

    def relative_sd(self, name: str) -> float:
        """Relative standard deviation of a parameter."""
        at = [p.name for p in self.parameters].index(name)
        return float(math.sqrt(self.covariance[at, at]))

    def interval(self, name: str) -> tuple[float, float]:
        """Two standard deviations either way, inside the physical bounds."""
        parameter = next(p for p in self.parameters if p.name == name)
        factor = math.exp(min(2 * self.relative_sd(name), 50.0))
        value = self.values[name]
        return max(value / factor, parameter.low), min(value * factor, parameter.high)

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping for a profile or a report."""
        values = {}
        for p in self.parameters:
            low, high = self.interval(p.name)
            values[p.name] = {"value": self.values[p.name], "unit": p.unit, "range": [low, high]}
        return {
            "values": values,
            "log_covariance": [[float(x) for x in row] for row in self.covariance],
            "residuals": {
                "fitted": self.fitted.to_dict(),
                "held_out": self.held_out.to_dict(),
                "cross_validated": self.cross_validated.to_dict(),
            },
            "warnings": list(self.warnings),
            "manifest": self.manifest,
        }


def bucket(key: str, buckets: int) -> int:
    """Return the bucket of a row, from a hash of its key alone."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") % buckets


def row_stream(key: str) -> np.random.Generator:
    """Return the random stream of a row, from a hash of its key alone."""
    return np.random.default_rng(list(hashlib.sha256(key.encode()).digest()[:16]))


def is_held_out(keys: Sequence[str], buckets: int) -> NDArray[np.bool_]:
    """Whether each of some rows is held out of a fit that holds out one in `buckets`."""
    return np.array([buckets > 0 and bucket(key, buckets) == 0 for key in keys], dtype=bool)


def fit(
    law: Law, parameters: Sequence[Parameter], rows: Rows, *, held_out: int = 4, folds: int = 0
) -> FitResult:
    """Fit a law to rows.

    Parameters
    ----------
    law : callable
        Values by name and columns, to positive seconds [N].
    parameters : sequence of Parameter
        What may vary.
    rows : Rows
        What was measured.
    held_out : int
        One row in so many (by the hash of its key) is not fitted; 0 fits all.
    folds : int
        Folds of the cross-validation; 0 for none.

    Returns
    -------
    FitResult

    Raises
    ------
    CalibrationError
        scipy is missing, or the rows are fewer than the parameters.
    """
    out = is_held_out(rows.keys, held_out)
    seen, unseen = rows.take(~out), rows.take(out)
    if len(seen) <= len(parameters):
        raise CalibrationError(
            f"{len(parameters)} parameters need more rows",
            value=len(seen),
            remedy="give more rows, or a law with fewer parameters",
        )
    values, jacobian, errors = _solve(law, parameters, seen)
    covariance = _covariance(parameters, jacobian, errors)
    crossed = _cross_predict(law, parameters, seen, folds)
    judged = seen.take(np.arange(len(crossed)))
    return FitResult(
        values=values,
        parameters=tuple(parameters),
        covariance=covariance,
        fitted=Residuals.of(law(values, seen.columns), seen),
        held_out=Residuals.of(law(values, unseen.columns), unseen),
        cross_validated=Residuals.of(crossed, judged),
        log_errors=-errors,
        log_errors_crossed=np.log(judged.seconds / crossed),
        warnings=tuple(what_rows_do_not_tell(parameters, values, covariance)),
        manifest={
            "rows_read": len(rows),
            "rows_sha256": rows.digest,
            "fitted_sha256": seen.digest,
            "held_out_sha256": unseen.digest,
            "files": [{"file": name, "sha256": digest} for name, digest in rows.sources],
        },
        law=law,
    )


def _solve(
    law: Law, parameters: Sequence[Parameter], rows: Rows
) -> tuple[dict[str, float], Floats, Floats]:
    """Return values, the Jacobian of the log times by log parameters, and the log errors."""
    least_squares = least_squares_module().least_squares
    names = [p.name for p in parameters]
    low, high = (np.log([getattr(p, end) for p in parameters]) for end in ("low", "high"))
    high = np.maximum(high, low + 1e-9)  # a parameter may be pinned by equal bounds
    start = np.clip(np.log([p.start for p in parameters]), low, high)
    goal = np.log(rows.seconds)

    def errors(x: Floats) -> Floats:
        return np.log(law(dict(zip(names, np.exp(x).tolist(), strict=True)), rows.columns)) - goal

    found = least_squares(errors, start, bounds=(low, high), loss="soft_l1", f_scale=_NOISE)
    # scipy scales the Jacobian of a robust loss in place: differentiate anew, unweighted.
    step = 1e-5
    columns = []
    for at in range(len(names)):
        shift = np.zeros(len(names))
        shift[at] = -step if found.x[at] + step > high[at] else step
        columns.append((errors(found.x + shift) - errors(found.x)) / shift[at])
    values = dict(zip(names, np.exp(found.x).tolist(), strict=True))
    return values, np.stack(columns, axis=1), errors(found.x)


def least_squares_module() -> Any:
    """Return ``scipy.optimize``, which only those who fit need.

    Raises
    ------
    CalibrationError
        It is not installed.
    """
    try:
        from scipy import optimize
    except ImportError:
        raise CalibrationError(
            "fits need scipy", remedy="pip install 'ultraep-sim[silicon]'"
        ) from None
    return optimize


def _covariance(parameters: Sequence[Parameter], jacobian: Floats, errors: Floats) -> Floats:
    """Covariance of the log parameters: how well the rows pin them, *given the law*.

    The physical bounds are knowledge too: as a uniform prior's variance they keep a direction that
    no row tells about finite, so that parameters that trade off show as such.
    """
    free = np.array([p.high > p.low * (1 + AT_BOUND) for p in parameters])
    out = np.zeros((len(parameters), len(parameters)))
    if not free.any():
        return out
    degrees = max(len(errors) - int(free.sum()), 1)
    bulk = 1.4826 * float(np.median(np.abs(errors - np.median(errors))))
    spread = max(min(float(np.sqrt(np.sum(errors**2) / degrees)), 3 * bulk), 1e-9)
    information = jacobian[:, free].T @ jacobian[:, free]
    width = np.log([p.high / p.low for p, one in zip(parameters, free, strict=True) if one])
    prior = np.diag(12.0 / width**2)
    out[np.ix_(free, free)] = np.linalg.inv(information / spread**2 + prior)
    return out


def _cross_predict(law: Law, parameters: Sequence[Parameter], rows: Rows, folds: int) -> Floats:
    """Predict every row by a fit to the other folds: seconds [N], or [0] without folds."""
    if folds < 2:
        return np.zeros(0)
    fold = np.array([bucket(f"fold {key}", folds) for key in rows.keys])
    predicted = np.zeros(len(rows))
    for one in range(folds):
        here = fold == one
        values, _, _ = _solve(law, parameters, rows.take(~here))
        predicted[here] = law(values, rows.take(here).columns)
    return predicted
