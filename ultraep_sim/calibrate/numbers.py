"""Numbers of a profile from fitted parameters, with how they move together.

A fit knows the covariance of its parameters' logarithms, ``C = L L'``. A parameter's spread is its
row of ``L``: how far independent standard normal factors move its logarithm. A number that is a
product of powers of parameters adds their spreads, and two numbers of one fit share factors, so
that draws of a profile (`ultraep_sim.model.draws`) keep what the rows tell about both together.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ultraep_sim.calibrate.fit import FitResult
from ultraep_sim.model.provenance import Provenance, Quantity

#: Standard normal factors by name, and how far each moves the logarithm of a number.
Spread = dict[str, float]

_WIDEST = 5.0  # of two standard deviations: e^5 is no knowledge at all


def spread(found: FitResult, name: str, power: float = 1.0) -> Spread:
    """Return the spread of a power of a fitted parameter; empty for one with equal bounds."""
    at = [p.name for p in found.parameters].index(name)
    free = np.flatnonzero(np.diag(found.covariance) > 0)
    if at not in free:
        return {}
    root = np.linalg.cholesky(found.covariance[np.ix_(free, free)])
    row = root[int(np.searchsorted(free, at))]
    rows = found.manifest["fitted_sha256"][:12]
    names = [f"{rows} {found.parameters[i].name}" for i in free]
    return {f: power * float(x) for f, x in zip(names, row, strict=True) if x != 0}


def together(*parts: Spread) -> Spread:
    """Return the spread of a product: factors in common add, or cancel."""
    out: Spread = {}
    for part in parts:
        for factor, moved in part.items():
            out[factor] = out.get(factor, 0.0) + moved
    return out


def scaled(part: Spread, by: float) -> Spread:
    """Return the spread of a power; of an addend, `by` is its share of the sum."""
    return {factor: by * moved for factor, moved in part.items()}


def deviation(part: Spread) -> float:
    """Return the standard deviation of the logarithm."""
    return math.hypot(*part.values())


def banded(
    value: float, moved: Spread, unit: str, where: str, provenance: Provenance = "fitted"
) -> Quantity:
    """Return a number with two standard deviations either way."""
    factor = math.exp(min(2 * deviation(moved), _WIDEST))
    shared = tuple(sorted(moved.items()))
    return Quantity(value, unit, provenance, where, value / factor, value * factor, shared)


def following(now: Quantity, before: Quantity, partner: Quantity, why: str, how: str) -> Quantity:
    """Return a number that keeps its ratio to one that was fitted anew, as an assumption.

    Parameters
    ----------
    now, before : Quantity
        The one that was fitted, and what it was.
    partner : Quantity
        What stood beside `before`; its range is that of the ratio.
    why, how : str
        The ratio, also the name of its factor, and where `now` is from.

    Returns
    -------
    Quantity
        Moves with `now` in a draw, and with the ratio.
    """
    low, high = partner.low or partner.value, partner.high or partner.value
    moved = together(dict(now.shared), {why: math.log(high / low) / 4})
    value = now.value * partner.value / before.value
    return banded(value, moved, now.unit, f"{why}, {how}", "assumed")


def number(found: FitResult, name: str, unit: str, where: str) -> Quantity:
    """Return a fitted parameter with its band, inside its physical bounds."""
    low, high = found.interval(name)
    shared = tuple(sorted(spread(found, name).items()))
    return Quantity(found.values[name], unit, "fitted", where, low, high, shared)


def capped(quantity: Quantity, ceiling: float) -> Quantity:
    """Keep a band below a nominal figure: what lies above it would not be used."""
    high = quantity.value if quantity.high is None else quantity.high
    return replace(quantity, high=max(quantity.value, min(high, ceiling)))


def source(found: FitResult, what: str) -> str:
    """Say what was fitted, and the digest of its rows."""
    return f"{what}, rows {found.manifest['fitted_sha256'][:12]}"
