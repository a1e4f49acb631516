"""Find the bad rows of a log, name them, and mend those that the operator asked to mend."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.calibrate.runlog.context import Context
from ultraep_sim.calibrate.runlog.findings import REPAIRS, Finding
from ultraep_sim.calibrate.runlog.kind_of_rows import MIN_ROWS, KindOfRows, swap_findings
from ultraep_sim.calibrate.runlog.log import Log
from ultraep_sim.calibrate.runlog.structure import structural_findings
from ultraep_sim.errors import CalibrationError

Mask = NDArray[np.bool_]

_ROUNDS = 3  # a fit on all rows, then on those it leaves, until they agree


@dataclass(frozen=True)
class Diagnosis:
    """A log, what is wrong with it, and which rows may be fitted."""

    log: Log
    findings: tuple[Finding, ...]
    good: Mask


def diagnose(log: Log, context: Context | None, repair: Collection[str] = ()) -> Diagnosis:
    """Judge the rows of a log.

    Parameters
    ----------
    log : Log
    context : Context or None
        Without it a whole file in wrong units is not found: no time is known to be absurd.
    repair : collection of str
        Diseases to mend, out of `findings.REPAIRS`. Others are excluded and listed.

    Raises
    ------
    CalibrationError
        A disease that cannot be mended.
    """
    for name in repair:
        if name not in REPAIRS:
            raise CalibrationError(
                "no such repair",
                place="--repair",
                value=name,
                remedy=f"one of {', '.join(REPAIRS)}",
            )
    found, good = _judge(log, context)
    mended = [f for f in found if f.disease in repair]
    if mended:
        log = _mend(log, mended)
        found, good = _judge(log, context)
    return Diagnosis(log, (*(f.repaired() for f in mended), *found), good)


def _mend(log: Log, findings: list[Finding]) -> Log:
    ms, load = log.ms.copy(), log.load.copy()
    factor = {"unit_seconds": 1e3, "unit_microseconds": 1e-3}
    for one in findings:
        at = np.array(one.rows) - 1
        if one.pair is None:
            ms[at] *= factor[one.disease]
            continue
        keys = [tuple(key) for key in log.keys(with_unit=False)[at].tolist()]
        before = {(key, int(log.unit[i])): log.load[i] for key, i in zip(keys, at, strict=True)}
        other = {one.pair[0]: one.pair[1], one.pair[1]: one.pair[0]}
        for key, i in zip(keys, at, strict=True):  # without a partner the load stays unknown
            load[i] = before.get((key, other[int(log.unit[i])]), np.nan)
    return replace(log, ms=ms, load=load)


def _judge(log: Log, context: Context | None) -> tuple[list[Finding], Mask]:
    found = structural_findings(log)
    usable = ~_rows(log, found)
    kinds = []
    for name in dict.fromkeys(log.kind.tolist()):
        at = np.flatnonzero((log.kind == name) & usable)
        if len(at) < MIN_ROWS:
            continue
        kind = KindOfRows(log, at, name)
        whole = kind.whole_file(context)
        if whole is None:
            kinds.append(kind)
        else:
            found.append(whole)
    found += _misfits(log, kinds)
    return found, ~_rows(log, found)


def _misfits(log: Log, kinds: list[KindOfRows]) -> list[Finding]:
    """Fit, look for swaps and outliers, and fit again without them until nothing changes."""
    exchanged: list[Finding] = []
    for _ in range(_ROUNDS):
        for kind in kinds:
            kind.look()
        exchanged = swap_findings(log, [kind for kind in kinds if not kind.shared])
        in_swap = np.zeros(len(log), np.bool_)
        for one in exchanged:
            in_swap[np.array(one.rows) - 1] = True
        changed = [kind.settle(in_swap) for kind in kinds]
        if not any(changed):
            break
    return exchanged + [one for kind in kinds for one in kind.findings()]


def _rows(log: Log, found: list[Finding]) -> Mask:
    """Rows that findings keep out of the fit."""
    out = np.zeros(len(log), np.bool_)
    for one in found:
        if one.done == "excluded":
            out[np.array(one.rows, np.int64) - 1] = True
    return out
