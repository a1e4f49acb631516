"""Find the bad rows of a log, name them, and mend those that the operator asked to mend."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.calibrate.fit import Rows, fit
from ultraep_sim.calibrate.runlog.context import Context, expected_seconds, pair_parameter
from ultraep_sim.calibrate.runlog.findings import REPAIRS, Finding
from ultraep_sim.calibrate.runlog.laws import (
    effective_load,
    fixed_parameter,
    plain_law,
    row_names,
)
from ultraep_sim.calibrate.runlog.log import Floats, Ints, Log
from ultraep_sim.calibrate.runlog.misfits import Swap, outliers, spread, swaps, unit_errors
from ultraep_sim.calibrate.runlog.structure import structural_findings
from ultraep_sim.errors import CalibrationError

Mask = NDArray[np.bool_]

_ROUNDS = 3  # a fit on all rows, then on those it leaves, until they agree
_MIN_ROWS = 8
_OFF = 0.5 * np.log(1000.0)  # a whole file is nearer to a factor of 1000 than to none


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
    for kind in dict.fromkeys(log.kind.tolist()):
        at = np.flatnonzero((log.kind == kind) & usable)
        if len(at) >= _MIN_ROWS:
            found += _Kind(log, at, kind).findings(context)
    return found, ~_rows(log, found)


def _rows(log: Log, found: list[Finding]) -> Mask:
    """Rows that findings keep out of the fit."""
    out = np.zeros(len(log), np.bool_)
    for one in found:
        if one.done == "excluded":
            out[np.array(one.rows, np.int64) - 1] = True
    return out


class _Kind:
    """The rows of one kind and the law that most of them follow."""

    def __init__(self, log: Log, at: Ints, kind: str) -> None:
        self.log, self.at, self.kind = log, at, kind
        self.load = effective_load(log)[at]
        self.seconds = log.ms[at] * 1e-3
        self.unit = log.unit[at]
        self.shared = bool(log.grouped[at].all())

    def findings(self, context: Context | None) -> list[Finding]:
        """Whole file first, then swaps, units and outliers in turn until they agree."""
        whole = self._whole_file(context)
        if whole is not None:
            return [whole]
        good = self._first_guess()
        exchanged: list[tuple[Swap, Mask]] = []
        for _ in range(_ROUNDS):
            law = self._law(good)
            errors = np.log(self.seconds) - law
            seconds, micros = unit_errors(errors)
            exchanged = [] if self.shared else self._swaps(law, good, ~seconds & ~micros)
            in_swap = np.zeros(len(good), np.bool_)
            for _, mask in exchanged:
                in_swap |= mask
            plain = ~seconds & ~micros & ~in_swap
            jumps = outliers(errors, self.unit, plain & good) & plain
            before, good = good, plain & ~jumps
            if (before == good).all():
                break
        return self._told(exchanged, seconds & ~in_swap, micros & ~in_swap, jumps)

    def _whole_file(self, context: Context | None) -> Finding | None:
        known = None if context is None else expected_seconds(self.kind, self.load, context)
        if known is None:
            return None
        off = float(np.median(np.log(self.seconds / known)))
        if abs(off) < _OFF:
            return None
        name = "unit_seconds" if off < 0 else "unit_microseconds"
        what = f"all {self.kind} rows: {np.exp(abs(off)):.3g} times "
        what += "shorter" if off < 0 else "longer"
        return Finding(name, f"{what} than the rack takes", self._numbers(self.at >= 0))

    def _first_guess(self) -> Mask:
        """Rows within a factor of 30 of the median time for a load."""
        rough = np.log(self.seconds) - np.log(np.maximum(self.load, np.median(self.load) / 10))
        return np.asarray(np.abs(rough - np.median(rough)) < _OFF)

    def _law(self, good: Mask) -> Floats:
        """Logarithm of what a law without factors, fitted to good rows, gives for all rows."""
        if good.sum() < _MIN_ROWS:
            good = np.ones_like(good)
        rows = Rows(
            {"load": self.load[good]}, self.seconds[good],
            row_names(self.log, self.at[good]),
        )  # fmt: skip
        typical = float(np.median(rows.seconds / np.maximum(rows.columns["load"], 1.0))) * 1e9
        parameters = [
            fixed_parameter(rows.seconds),
            pair_parameter("pair_ns", self.kind, None, typical),
        ]
        found = fit(plain_law, parameters, rows, held_out=0)
        return np.log(found.predict({"load": self.load}))

    def _swaps(self, law: Floats, good: Mask, usable: Mask) -> list[tuple[Swap, Mask]]:
        units = np.unique(self.unit)
        keys, of = np.unique(self.log.keys(with_unit=False)[self.at], axis=0, return_inverse=True)
        of, column = of.ravel(), np.searchsorted(units, self.unit)
        times, laws = (np.full((len(keys), len(units)), np.nan) for _ in range(2))
        times[of[usable], column[usable]] = np.log(self.seconds[usable])
        laws[of[usable], column[usable]] = law[usable]
        sd = spread((np.log(self.seconds) - law)[good])
        out = []
        for one in swaps(times, laws, sd):
            inside = (of >= one.first) & (of <= one.last)
            named = replace(one, a=int(units[one.a]), b=int(units[one.b]))
            out.append((named, inside & np.isin(self.unit, (named.a, named.b))))
        return out

    def _told(
        self, exchanged: list[tuple[Swap, Mask]], seconds: Mask, micros: Mask, jumps: Mask
    ) -> list[Finding]:
        out = []
        for one, mask in exchanged:
            what = f"{self.kind}: the loads of {self.log.unit_name}s {one.a} and {one.b} fit "
            out.append(
                Finding(
                    "swapped_ranks",
                    f"{what}each other's times",
                    self._numbers(mask),
                    pair=(one.a, one.b),
                )
            )
        for name, what, mask in (
            ("unit_seconds", "times a thousandth of what the other rows say", seconds),
            ("unit_microseconds", "times a thousand times what the other rows say", micros),
            ("clock_jump", "times far from what the other rows say", jumps),
        ):
            if mask.any():
                out.append(Finding(name, f"{self.kind}: {what}", self._numbers(mask)))
        return out

    def _numbers(self, mask: Mask) -> tuple[int, ...]:
        return tuple(self.log.row[self.at[mask]].tolist())
