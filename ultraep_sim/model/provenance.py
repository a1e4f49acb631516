"""A number that says where it comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ultraep_sim.errors import ProfileError
from ultraep_sim.model.draws import value_now

Provenance = Literal["measured", "published", "datasheet", "fitted", "assumed"]
PROVENANCES: tuple[str, ...] = get_args(Provenance)

#: Source of a number that a scenario replaced.
SCENARIO_OVERRIDE = "scenario override"

#: Factor from a unit to its SI base (seconds, bytes, bytes/s, FLOP/s, plain numbers).
UNITS: dict[str, float] = {
    "1": 1.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "ns": 1e-9,
    "B": 1.0,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
    "GB": 1e9,
    "B/s": 1.0,
    "GB/s": 1e9,
    "TB/s": 1e12,
    "Gb/s": 1e9 / 8,
    "FLOP/s": 1.0,
    "TFLOP/s": 1e12,
    "PFLOP/s": 1e15,
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """One non-negative number with its unit, provenance and source.

    Parameters
    ----------
    value : float
        The number, in `unit`. ``float(q)`` returns it; ``q.si`` is the number in SI units, which
        is what every law of the time model uses.
    unit : str
        One of `UNITS`.
    provenance : {"measured", "published", "datasheet", "fitted", "assumed"}
        How it is known.
    source : str
        Where it can be looked up, or the reasoning behind an assumption.
    low, high : float, optional
        Range in the same unit. Required where the provenance is ``assumed``: a guess must say how
        wrong it may be.
    shared : tuple of (str, float)
        Independent standard normal factors by name, and how far each moves the logarithm of the
        number. Numbers that share factors move together in a draw (`ultraep_sim.model.draws`):
        two parameters of one fit do. Empty where the number stands for itself.

    Raises
    ------
    ProfileError
        Negative or non-finite value, unknown unit or provenance, empty source, a range that does
        not hold the value, an assumption or shared factors without a range.

    Examples
    --------
    >>> q = Quantity(640, "GB/s", "fitted", "ideal rows", 600, 680)
    >>> float(q), q.si
    (640.0, 640000000000.0)
    """

    value: float
    unit: str
    provenance: Provenance
    source: str
    low: float | None = None
    high: float | None = None
    shared: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise ProfileError("not a number", value=self.value, remedy="give a plain number")
        if not math.isfinite(self.value) or self.value < 0:
            raise ProfileError(
                "a quantity is finite and not negative",
                value=self.value,
                remedy="give a number from 0 up",
            )
        object.__setattr__(self, "value", float(self.value))
        if self.unit not in UNITS:
            raise ProfileError("unknown unit", value=self.unit, remedy=f"one of {', '.join(UNITS)}")
        if self.provenance not in PROVENANCES:
            raise ProfileError(
                "unknown provenance",
                value=self.provenance,
                remedy=f"one of {', '.join(PROVENANCES)}",
            )
        if not self.source.strip():
            raise ProfileError("a quantity without a source", value=self.value, remedy="name one")
        self._check_range()

    def _check_range(self) -> None:
        if (self.low is None) != (self.high is None) or (
            self.provenance == "assumed" and self.low is None
        ):
            raise ProfileError(
                "an assumption needs a range", value=self.value, remedy="give low and high"
            )
        if self.low is not None and self.high is not None:
            if not self.low <= self.value <= self.high:
                raise ProfileError(
                    f"value outside its own range {self.low:g} to {self.high:g}",
                    value=self.value,
                    remedy="widen the range or mend the value",
                )
            object.__setattr__(self, "low", float(self.low))
            object.__setattr__(self, "high", float(self.high))
        if self.shared:
            self._check_shared()

    def _check_shared(self) -> None:
        numbers = all(
            isinstance(name, str)
            and isinstance(moved, int | float)
            and not isinstance(moved, bool)
            and math.isfinite(moved)
            for name, moved in self.shared
        )
        if not numbers or self.low is None:
            raise ProfileError(
                "shared factors are finite numbers by name, of a quantity with a range",
                value=dict(self.shared),
                remedy="give a range, or leave the factors out",
            )

    def __float__(self) -> float:
        return value_now(self)

    def __str__(self) -> str:
        unit = "" if self.unit == "1" else f" {self.unit}"
        return f"{self.value:g}{unit} ({self.provenance})"

    @property
    def si(self) -> float:
        """The value in SI units: s, B, B/s, FLOP/s or a plain number.

        In a draw of the parameters (`ultraep_sim.model.draws`) it is the value of that draw.
        """
        return value_now(self) * UNITS[self.unit]

    def overridden(self, value: float, source: str = SCENARIO_OVERRIDE) -> Quantity:
        """Return the same quantity with another value, marked as an assumption of the user's."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ProfileError("not a number", value=value, remedy=f"give a number in {self.unit}")
        return Quantity(value, self.unit, "assumed", source, value, value)

    def to_dict(self) -> dict[str, object]:
        """Plain mapping for the resolved scenario (JSON and YAML safe)."""
        out: dict[str, object] = {
            "value": self.value,
            "unit": self.unit,
            "provenance": self.provenance,
            "source": self.source,
        }
        if self.low is not None and self.high is not None:
            out["range"] = [self.low, self.high]
        if self.shared:
            out["shared"] = dict(self.shared)
        return out


def measured(value: float, unit: str, source: str) -> Quantity:
    """Return a quantity we measured ourselves."""
    return Quantity(value, unit, "measured", source)


def published(
    value: float, unit: str, source: str, low: float | None = None, high: float | None = None
) -> Quantity:
    """Return a quantity somebody else measured and published."""
    return Quantity(value, unit, "published", source, low, high)


def datasheet(value: float, unit: str, source: str) -> Quantity:
    """Return a vendor's nominal figure."""
    return Quantity(value, unit, "datasheet", source)


def fitted(
    value: float, unit: str, source: str, low: float | None = None, high: float | None = None
) -> Quantity:
    """Return a quantity fitted to data that `source` names."""
    return Quantity(value, unit, "fitted", source, low, high)


def assumed(value: float, unit: str, source: str, low: float, high: float) -> Quantity:
    """Return a guess with its range and its reason."""
    return Quantity(value, unit, "assumed", source, low, high)
