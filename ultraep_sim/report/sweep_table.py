"""Rows of a sweep, ordered: by place on the axes, policy, and sample (seed and draw)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..sweep.report_spec import Aim, ReportSpec

Row = Mapping[str, Any]
Place = tuple[Any, ...]
LOW, HIGH = 5.0, 95.0
#: Columns that tell samples of one place apart.
SAMPLE = ("seed", "draw")


class Sample(NamedTuple):
    """One seed and one draw of the assumed parameters; draw 0 has their nominal values."""

    seed: Any
    draw: Any

    @property
    def nominal(self) -> bool:
        """Whether the parameters have their nominal values."""
        return self.draw in (None, 0)


class Band(NamedTuple):
    """A number over samples: mean of the nominal ones, and the band of all of them.

    ``low`` and ``high`` are the 5th and 95th percentile (linear interpolation between order
    statistics); None where there is one sample only, which has no band.
    """

    center: float
    low: float | None
    high: float | None
    samples: int

    @property
    def includes_zero(self) -> bool:
        """Whether no difference is among what was seen."""
        if self.low is None or self.high is None:
            return self.center == 0.0
        return self.low <= 0.0 <= self.high


def center(values: Mapping[Sample, float]) -> float:
    """Return the mean of the nominal samples, or of all where none is nominal; not of nothing."""
    nominal = [value for sample, value in values.items() if sample.nominal]
    return math.fsum(nominal or values.values()) / (len(nominal) or len(values))


def band(values: Mapping[Sample, float]) -> Band:
    """Return mean and band of values that were found sample by sample; there is at least one."""
    every = list(values.values())
    if len(every) == 1:
        return Band(center(values), None, None, 1)
    return Band(center(values), percentile(every, LOW), percentile(every, HIGH), len(every))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, linear between order statistics as numpy's, quick on short lists."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100.0
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def number(value: Any) -> float | None:
    """Return a finite number, or None for all else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return None
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class Cell:
    """What one policy did at one place.

    Attributes
    ----------
    rows : dict of Sample to row
    fits : bool
        False where any of its rows does not fit in memory.
    memory : float or None
        Largest of its rows, in the unit of the memory column.
    """

    rows: dict[Sample, Row]
    fits: bool
    memory: float | None

    def values(self, metric: str) -> dict[Sample, float]:
        """Return the finite values of a column."""
        found = {sample: number(row.get(metric)) for sample, row in self.rows.items()}
        return {sample: value for sample, value in found.items() if value is not None}


class SweepTable:
    """The rows of a sweep by place and policy.

    Parameters
    ----------
    rows : sequence of mapping
        One a point and policy. Where a place, policy and sample has several rows the last counts.
    axes : sequence of str
        Axis columns, without ``seed`` and ``draw``.
    spec : ReportSpec, optional

    Attributes
    ----------
    places : list of tuple
        Values of the axes, sorted axis by axis.
    policies : list of str
        In order of appearance.
    memo : dict
        What was worked out from the table before, by what it is; readers leave it as it is.
    """

    def __init__(
        self, rows: Sequence[Row], axes: Sequence[str], spec: ReportSpec | None = None
    ) -> None:
        self.rows = list(rows)
        self.memo: dict[tuple[str, str], Any] = {}
        self.axes = tuple(name for name in axes if name not in SAMPLE)
        self.aim: Aim = (spec or ReportSpec()).resolve(self.rows, self.axes)
        self.policies = list(dict.fromkeys(str(row["policy"]) for row in self.rows))
        values = [list(dict.fromkeys(row.get(name) for row in self.rows)) for name in self.axes]
        self.values = dict(zip(self.axes, map(in_order, values), strict=True))
        grouped: dict[tuple[Place, str], dict[Sample, Row]] = {}
        for row in self.rows:
            sample = Sample(row.get("seed"), row.get("draw"))
            grouped.setdefault((self.place(row), str(row["policy"])), {})[sample] = row
        self.cells = {key: self._cell(found) for key, found in grouped.items()}
        rank = {name: {v: i for i, v in enumerate(self.values[name])} for name in self.axes}
        self.places = sorted(
            dict.fromkeys(place for place, _ in self.cells),
            key=lambda place: [rank[n][v] for n, v in zip(self.axes, place, strict=True)],
        )
        self.samples = list(dict.fromkeys(s for cell in self.cells.values() for s in cell.rows))

    @property
    def synthetic(self) -> str:
        """Return ``SYNTHETIC`` or ``partly SYNTHETIC`` where the loads are, else nothing."""
        drawn = [str(row.get("workload", "")).startswith("SYNTHETIC") for row in self.rows]
        if not any(drawn):
            return ""
        return "SYNTHETIC" if all(drawn) else "partly SYNTHETIC"

    def _cell(self, rows: dict[Sample, Row]) -> Cell:
        memory = [number(row.get(self.aim.spec.memory)) for row in rows.values()]
        known = [value for value in memory if value is not None]
        fits = not any(_is_false(row.get("fits")) for row in rows.values())
        return Cell(rows, fits, max(known, default=None))

    def place(self, row: Row) -> Place:
        """Return where a row is."""
        return tuple(row.get(name) for name in self.axes)

    def part(self, place: Place, axes: Iterable[str]) -> Place:
        """Return the coordinates of a place on some of the axes."""
        return tuple(place[self.axes.index(name)] for name in axes)

    def at(self, place: Place) -> dict[str, Cell]:
        """Return the policies that have rows at a place."""
        return {p: self.cells[place, p] for p in self.policies if (place, p) in self.cells}

    def offers(self, place: Place) -> dict[str, Cell]:
        """Return the policies that could be bought at a place: they fit and are no bound."""
        bounds = self.aim.spec.bounds
        return {p: c for p, c in self.at(place).items() if p not in bounds and c.fits}


def _is_false(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) and not value


def in_order(values: Sequence[Any]) -> list[Any]:
    """Sort numbers, with what is not there last; leave names in order of appearance."""
    there = [value for value in values if value is not None]
    if all(number(value) is not None for value in there):
        there = sorted(there)
    return there + [None] * (len(values) - len(there))


def told(names: Sequence[str], place: Place) -> str:
    """Return coordinates in words, as ``slots 2, load calm``."""
    return ", ".join(f"{name} {shown(value)}" for name, value in zip(names, place, strict=True))


def shown(value: Any) -> str:
    """Return a value of an axis as text."""
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
