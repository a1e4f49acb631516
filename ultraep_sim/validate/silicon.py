"""Public kernel tables beside the laws that were fitted to a part of them.

Grouped GEMM: the law is fitted to three quarters of the balanced rows of a set (system, model,
precision, kernel) and predicts the rest, which a hash of the row picks. Rows of skewed loads are
never fitted: balanced rows alone predict a distribution for each (`silicon_skew`). The other
kernels are in `silicon_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ultraep_sim.calibrate.fit import FitResult, Rows, bucket, fit
from ultraep_sim.calibrate.silicon import moe
from ultraep_sim.calibrate.silicon.profile import RACK_OF
from ultraep_sim.calibrate.silicon.tables import DISTRIBUTION, VERSION, Table, find_tables
from ultraep_sim.compute.kernel_laws import grouped_gemm
from ultraep_sim.model.hardware import RACKS
from ultraep_sim.validate import silicon_kernels, silicon_skew
from ultraep_sim.validate.silicon_skew import Judged

Row = dict[str, Any]
Progress = Callable[[str, int, int], None]

#: A set that keeps both is a good one.
MEDIAN, P90 = 0.03, 0.10
METRIC = "milliseconds"
_HELD_OUT, _FOLDS = 4, 4

#: What must hold: name, least value.
THRESHOLDS = {"power_law_inside_band": 0.85}
#: What must hold besides where every system is read.
THRESHOLDS_OF_ALL = {"grouped_gemm_good_sets": 8}


@dataclass(frozen=True)
class _Set:
    """A fitted set, its rows, and what skewed rows say."""

    case: moe.Case
    rows: Rows
    found: FitResult
    judged: Judged | None


def run(
    *,
    tables: str | Path | None = None,
    systems: Sequence[str] = tuple(RACK_OF),
    framework: str = "trtllm",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit and predict every table of the systems.

    Parameters
    ----------
    tables : str or Path, optional
        As in `find_tables`.
    systems : sequence of str
        Which; fewer are faster.
    framework : str
        Whose grouped GEMM.
    progress : callable, optional
        Told what, done, total.

    Returns
    -------
    dict
        ``rows``; ``positions`` (of skewed rows in their prediction, by case, 0 to 1); ``sets`` (a
        grouped GEMM each); ``others`` (other tables, a fit each); ``copies``
        (rows of one system that are another's); ``summary`` by table and role; ``broken``
        (thresholds that do not hold).

    Raises
    ------
    CalibrationError
        The tables are not there.
    """
    root = find_tables(tables)
    rows: list[Row] = []
    positions: dict[str, float] = {}
    sets: list[Row] = []
    others: list[Row] = []
    kernels: list[silicon_kernels.Judged] = []
    jobs = [
        (system, table, case)
        for system in systems
        for table in [moe.read_moe(root, system, framework)]
        for case in moe.cases(table, system, framework)
    ]
    for done, (system, table, case) in enumerate(jobs):
        if progress is not None:
            progress("grouped GEMM", done, len(jobs))
        one = _grouped_gemm(table, case)
        rows += _rows("grouped_gemm", one.rows, one.found) + _skew_rows(one, table)
        sets.append(_describe(one, system))
        if one.judged is not None:
            positions |= zip(one.judged.keys, one.judged.position.tolist(), strict=True)
    for done, system in enumerate(systems):
        if progress is not None:
            progress("other kernels", done, len(systems))
        for judged in silicon_kernels.judge(root, system):
            rows += rows_of(judged)
            others.append({"system": system, **judged.describe()})
            kernels.append(judged)
    figures = _figures(sets) | silicon_kernels.figures(kernels)
    return {
        "rows": rows,
        "positions": positions,
        "sets": sets,
        "others": others,
        "copies": silicon_kernels.copies(root) if {"h100", "h200"} <= set(systems) else [],
        "summary": summarise(rows),
        "figures": figures,
        "broken": broken(figures, every=set(systems) == set(RACK_OF))
        + silicon_skew.surprises(sets),
    }


def broken(figures: dict[str, float], *, every: bool) -> list[str]:
    """Return the committed thresholds that figures do not keep, in words."""
    wanted = THRESHOLDS | (THRESHOLDS_OF_ALL if every else {})
    return [
        f"{name} is {figures[name]:.4g}, at least {least} is committed"
        for name, least in wanted.items()
        if not figures[name] >= least
    ]


def _grouped_gemm(table: Table, case: moe.Case) -> _Set:
    rows = moe.balanced_rows(table, case)
    gpu = RACKS[RACK_OF[case.system]].gpu
    found = fit(
        grouped_gemm,
        moe.parameters(gpu, case.precision),
        rows,
        held_out=_HELD_OUT,
        folds=_FOLDS,
    )
    return _Set(case, rows, found, silicon_skew.judge(table, case, found))


def _describe(one: _Set, system: str) -> Row:
    held = one.found.held_out
    out: Row = {
        "set": one.case.name,
        "system": system,
        "model": one.case.model,
        "precision": one.case.precision,
        "kernel": one.case.kernel,
        "good": bool(held.median <= MEDIAN and held.p90 <= P90),
        **one.found.to_dict(),
    }
    if one.judged is not None:
        out["power_law"] = one.judged.describe()
    return out


def _row(table: str, case: str, published: float, simulated: float, role: str, source: str) -> Row:
    return {
        "table": table,
        "case": case,
        "metric": METRIC,
        "published": published * 1e3,
        "simulated": simulated * 1e3,
        "relative_error": simulated / published - 1,
        "role": role,
        "provenance": f"measured, {DISTRIBUTION} {VERSION}: {source}",
    }


def _rows(table: str, measured: Rows, found: FitResult, role: str = "") -> list[Row]:
    simulated = found.predict(measured.columns).tolist()
    source = measured.sources[0][0]
    return [
        _row(table, key, one, two, role or role_of(key), source)
        for key, one, two in zip(measured.keys, measured.seconds.tolist(), simulated, strict=True)
    ]


def rows_of(judged: silicon_kernels.Judged) -> list[Row]:
    """Return a report's rows of one fit of another table, those that taught its law as fitted."""
    rows = _rows(judged.table, judged.rows, judged.found, judged.role)
    if judged.taught is None:
        return rows
    return _rows(judged.table, judged.taught, judged.found, "fitted") + rows


def role_of(key: str) -> str:
    """Tell whether a row was fitted, as `fit` decides it."""
    return "fitted" if bucket(key, _HELD_OUT) else "predicted"


def _skew_rows(one: _Set, table: Table) -> list[Row]:
    if one.judged is None:
        return []
    both = zip(one.judged.measured.tolist(), one.judged.median.tolist(), strict=True)
    return [
        _row("grouped_gemm_power_law", key, p, s, "predicted", table.source[0])
        for key, (p, s) in zip(one.judged.keys, both, strict=True)
    ]


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Return median, 90th percentile and worst absolute error, by table and role."""
    out = []
    for table, role in dict.fromkeys((row["table"], row["role"]) for row in rows):
        errors = np.array(
            [
                abs(row["relative_error"])
                for row in rows
                if (row["table"], row["role"]) == (table, role)
            ]
        )
        middle, high = np.quantile(errors, (0.5, 0.9))
        out.append(
            {
                "table": table,
                "role": role,
                "rows": len(errors),
                "median": float(middle),
                "p90": float(high),
                "worst": float(errors.max()),
            }
        )
    return out


def _figures(sets: Sequence[Row]) -> dict[str, float]:
    return {
        "grouped_gemm_sets": len(sets),
        "grouped_gemm_good_sets": sum(entry["good"] for entry in sets),
        **silicon_skew.figures(sets),
    }
