"""Fit the laws to the good rows of a log, kind by kind, each with the noise of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.calibrate.fit import FitResult, Rows, fit
from ultraep_sim.calibrate.runlog.context import Context, pair_parameter
from ultraep_sim.calibrate.runlog.diagnose import Diagnosis
from ultraep_sim.calibrate.runlog.laws import (
    MIN_ROWS_A_RANK,
    effective_load,
    exposed_law,
    factor_name,
    factor_parameters,
    fixed_parameter,
    plain_law,
    row_names,
    with_factors,
)
from ultraep_sim.calibrate.runlog.log import KINDS, Floats, Ints, Log

_FOLDS = 5
_FEW = 20  # parameters up to which cross-validation is quick
_TOGETHER = {
    "layer": "layer tells compute and communication only together: pair_ns is compute + exposed "
    "communication of a pair; time the experts of every rank as well (kind experts)",
    "step": "step tells compute and communication, forward and backward, only together: pair_ns "
    "is their sum for a pair of the slowest rank",
}


def fit_kinds(found: Diagnosis, context: Context | None) -> dict[str, FitResult]:
    """Fit every kind that the log has.

    Parameters
    ----------
    found : Diagnosis
    context : Context or None
        Sets physical bounds.

    Returns
    -------
    dict of str to FitResult
        By kind. Parameters: ``fixed_us``; ``pair_ns``, or ``exposed_ns`` of a layer whose experts
        were timed on every rank; factors of ranks (experts) or stages, 1 for the median one.
    """
    fits: dict[str, FitResult] = {}
    for kind in KINDS:
        at = np.flatnonzero((found.log.kind == kind) & found.good)
        if not len(at):
            continue
        if found.log.grouped[at].all():
            fits[kind] = _shared(found.log, at, kind, context, fits.get("experts"))
        else:
            fits[kind] = _by_unit(found.log, at, kind, context)
    return fits


def _typical_ns(seconds: Floats, load: Floats) -> float:
    return float(np.median(seconds / np.maximum(load, 1.0))) * 1e9


def _by_unit(log: Log, at: Ints, kind: str, context: Context | None) -> FitResult:
    load, seconds, unit = log.load[at], log.ms[at] * 1e-3, log.unit[at]
    units, column, count = np.unique(unit, return_inverse=True, return_counts=True)
    rows = Rows({"load": load, "unit": column.ravel()}, seconds, row_names(log, at), log.sources)
    parameters = [
        fixed_parameter(seconds),
        pair_parameter("pair_ns", kind, context, _typical_ns(seconds, load)),
    ]
    varies = kind.startswith("experts") or log.unit_name == "stage"
    if not varies or len(units) < 2:
        return fit(plain_law, parameters, rows, folds=_FOLDS)
    if count.min() < MIN_ROWS_A_RANK:
        found = fit(plain_law, parameters, rows, folds=_FOLDS)
        text = f"fewer than {MIN_ROWS_A_RANK} rows of {log.unit_name} {units[count.argmin()]}"
        return replace(found, warnings=(*found.warnings, f"{text}: no factors were fitted"))
    plain = fit(plain_law, parameters, rows, held_out=0)
    off = np.log(seconds / plain.predict(rows.columns))
    middle = np.array([np.median(off[column.ravel() == i]) for i in range(len(units))])
    median_unit = int(units[np.argsort(middle, kind="stable")[len(units) // 2]])
    names = [int(u) for u in units]
    parameters += factor_parameters(names, log.unit_name, median_unit)
    folds = _FOLDS if len(parameters) <= _FEW else 0
    return fit(with_factors(names, log.unit_name), parameters, rows, folds=folds)


def _shared(
    log: Log, at: Ints, kind: str, context: Context | None, experts: FitResult | None
) -> FitResult:
    """Fit one row a group: the slowest rank's load, the median of the times all ranks wrote."""
    keys, of = np.unique(log.keys(with_unit=False)[at], axis=0, return_inverse=True)
    order = np.argsort(of.ravel(), kind="stable")
    starts = np.searchsorted(of.ravel()[order], np.arange(len(keys)))
    groups = np.split(at[order], starts[1:])
    seconds = np.array([np.median(log.ms[g]) for g in groups]) * 1e-3
    first = np.array([g[0] for g in groups])
    load = effective_load(log)[first]
    names = row_names(log, first)
    fixed, typical = fixed_parameter(seconds), _typical_ns(seconds, load)
    if kind == "layer" and experts is not None:
        beside = _slowest_experts(log, first, experts)
        rows = Rows({"load": load, "experts_s": beside}, seconds, names, log.sources)
        parameters = [fixed, pair_parameter("exposed_ns", kind, context, 0.5 * typical)]
        return _with_experts(fit(exposed_law, parameters, rows, folds=_FOLDS), experts)
    rows = Rows({"load": load}, seconds, names, log.sources)
    parameters = [fixed, pair_parameter("pair_ns", kind, context, typical)]
    found = fit(plain_law, parameters, rows, folds=_FOLDS)
    return replace(found, warnings=(*found.warnings, _TOGETHER[kind]))


def _slowest_experts(log: Log, first: Ints, experts: FitResult) -> Floats:
    """Seconds of the slowest rank's experts in each group, by the law of the experts' rows."""
    mine = np.flatnonzero(log.kind == log.kind[first[0]])
    factor = np.array(
        [experts.values.get(factor_name(log.unit_name, int(u)), 1.0) for u in log.unit[mine]]
    )
    load = np.nan_to_num(log.load[mine], posinf=0.0)
    times = factor * plain_law(experts.values, {"load": load})
    _, of = np.unique(log.keys(with_unit=False)[mine], axis=0, return_inverse=True)
    largest = np.zeros(int(of.max()) + 1)
    np.maximum.at(largest, of.ravel(), times)
    return largest[of.ravel()[np.searchsorted(mine, first)]]


def _with_experts(found: FitResult, experts: FitResult) -> FitResult:
    """Add what the experts' own uncertainty does to a fit that took their times for granted.

    What is too much in the experts is too little in the rest: a unit derivative of -1 between the
    fixed times and between the times per pair, carried over to logarithms.
    """
    names = [p.name for p in experts.parameters]
    at = [names.index("fixed_us"), names.index("pair_ns")]
    inner = experts.covariance[np.ix_(at, at)]
    scale = np.diag(
        [
            -experts.values["fixed_us"] / found.values["fixed_us"],
            -experts.values["pair_ns"] / found.values["exposed_ns"],
        ]
    )
    added: NDArray[np.float64] = found.covariance + scale @ inner @ scale.T
    warnings = list(found.warnings)
    sd = math.sqrt(added[1, 1])
    if sd > 0.5:
        warnings.append(f"exposed_ns is not determined: one standard deviation is {sd:.0%}")
    return replace(found, covariance=added, warnings=tuple(warnings))
