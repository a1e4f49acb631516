"""The rows of one kind, the law that most of them follow, and those that do not follow it."""

from __future__ import annotations

from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.calibrate.fit import Rows, fit
from ultraep_sim.calibrate.runlog.context import Context, expected_seconds, pair_parameter
from ultraep_sim.calibrate.runlog.findings import Finding
from ultraep_sim.calibrate.runlog.laws import (
    effective_load,
    fixed_parameter,
    plain_law,
)
from ultraep_sim.calibrate.runlog.log import Ints, Log
from ultraep_sim.calibrate.runlog.misfits import (
    Timed,
    outliers,
    spread,
    swaps,
    unit_errors,
)

Mask = NDArray[np.bool_]

MIN_ROWS = 8
_OFF = 0.5 * np.log(1000.0)  # a whole file is nearer to a factor of 1000 than to none


class KindOfRows:
    """Rows of one kind; `look` fits the good ones, `settle` decides anew which are good.

    Parameters
    ----------
    log : Log
    at : int64 [N]
        Positions of its usable rows of this kind.
    name : str
        The kind.
    """

    def __init__(self, log: Log, at: Ints, name: str) -> None:
        self.log, self.at, self.name = log, at, name
        self.load = effective_load(log)[at]
        self.log_s = np.log(log.ms[at] * 1e-3)
        self.unit = log.unit[at]
        self.shared = bool(log.grouped[at].all())
        self.good = self._first_guess()
        nothing = np.zeros(len(at), np.bool_)
        self.seconds, self.micros, self.jumps = nothing, nothing, nothing
        self.law = self.log_s

    def whole_file(self, context: Context | None) -> Finding | None:
        """Compare with the rack: all rows may be in seconds, or in microseconds."""
        known = None if context is None else expected_seconds(self.name, self.load, context)
        if known is None:
            return None
        off = float(np.median(self.log_s - np.log(known)))
        if abs(off) < _OFF:
            return None
        disease, word = ("unit_seconds", "shorter") if off < 0 else ("unit_microseconds", "longer")
        what = f"all {self.name} rows: {np.exp(abs(off)):.3g} times {word} than the rack takes"
        return Finding(disease, what, tuple(self.log.row[self.at].tolist()))

    def _first_guess(self) -> Mask:
        """Rows within a factor of 30 of the median time for a load."""
        rough = self.log_s - np.log(np.maximum(self.load, np.median(self.load) / 10))
        return np.asarray(np.abs(rough - np.median(rough)) < _OFF)

    def look(self) -> None:
        """Fit a law without factors to the good rows, and find the rows in other units."""
        good = self.good if self.good.sum() >= MIN_ROWS else np.ones_like(self.good)
        load, seconds = self.load[good], np.exp(self.log_s[good])
        rows = Rows({"load": load}, seconds, tuple(map(str, self.log.row[self.at[good]])))
        typical = float(np.median(seconds / np.maximum(load, 1.0))) * 1e9
        pair = pair_parameter("pair_ns", self.name, None, typical)
        found = fit(plain_law, [fixed_parameter(seconds), pair], rows, held_out=0)
        self.law = np.log(found.predict({"load": self.load}))
        self.seconds, self.micros = unit_errors(self.log_s - self.law)

    def timed(self, keys: NDArray[np.int64], units: Ints) -> Timed:
        """Lay the rows out by key [K, 3] and rank [R]."""
        mine = self.log.keys(with_unit=False)[self.at, 1:]
        _, of = np.unique(np.concatenate([keys, mine]), axis=0, return_inverse=True)
        of, column = of.ravel()[len(keys) :], np.searchsorted(units, self.unit)
        usable = ~self.seconds & ~self.micros
        times, laws = (np.full((len(keys), len(units)), np.nan) for _ in range(2))
        times[of[usable], column[usable]] = self.log_s[usable]
        laws[of[usable], column[usable]] = self.law[usable]
        return Timed(times, laws, spread((self.log_s - self.law)[self.good]))

    def settle(self, in_swap: Mask) -> bool:
        """Decide which rows are good, given the rows [all of the log] of swapped ranks."""
        swapped = in_swap[self.at]
        self.seconds, self.micros = self.seconds & ~swapped, self.micros & ~swapped
        plain = ~self.seconds & ~self.micros & ~swapped
        self.jumps = outliers(self.log_s - self.law, self.unit, plain & self.good) & plain
        before, self.good = self.good, plain & ~self.jumps
        return bool((before != self.good).any())

    def findings(self) -> list[Finding]:
        """Name the rows in other units and the outliers."""
        out = []
        for disease, what, mask in (
            ("unit_seconds", "a thousandth of what the other rows say", self.seconds),
            ("unit_microseconds", "a thousand times what the other rows say", self.micros),
            ("clock_jump", "far from what the other rows say", self.jumps),
        ):
            if mask.any():
                rows = tuple(self.log.row[self.at[mask]].tolist())
                out.append(Finding(disease, f"{self.name}: {what}", rows))
        return out


def swap_findings(log: Log, kinds: list[KindOfRows]) -> list[Finding]:
    """Find swapped ranks by all kinds together, and then by each alone."""
    out: list[Finding] = []
    taken: set[tuple[str, int]] = set()
    several = [kinds] if len(kinds) > 1 else []
    for some in (*several, *([kind] for kind in kinds)):
        at = np.concatenate([kind.at for kind in some])
        keys = np.unique(log.keys(with_unit=False)[at, 1:], axis=0)
        units = np.unique(log.unit[at])
        names = [kind.name for kind in some]
        for one in swaps([kind.timed(keys, units) for kind in some]):
            pair = int(units[one.a]), int(units[one.b])
            if taken & {(name, unit) for name in names for unit in pair}:
                continue
            taken |= {(name, unit) for name in names for unit in pair}
            rows = [_between(kind, keys, one.first, one.last, pair) for kind in some]
            what = f"{', '.join(names)}: the loads of {log.unit_name}s {pair[0]} and {pair[1]}"
            what += f" fit each other's times from step {keys[one.first, 0]} to {keys[one.last, 0]}"
            out.append(Finding("swapped_ranks", what, tuple(chain.from_iterable(rows)), pair=pair))
    return out


def _between(
    kind: KindOfRows, keys: NDArray[np.int64], first: int, last: int, pair: tuple[int, int]
) -> list[int]:
    """Numbers of the rows of two ranks in a stretch of keys."""
    at = kind.at[np.isin(kind.unit, pair)]
    mine = kind.log.keys(with_unit=False)[at, 1:]
    _, of = np.unique(np.concatenate([keys, mine]), axis=0, return_inverse=True)
    of = of.ravel()[len(keys) :]
    found: list[int] = kind.log.row[at[(of >= first) & (of <= last)]].tolist()
    return found
