"""What rows do not tell of a law's parameters, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ultraep_sim.calibrate.fit import Parameter

Floats = NDArray[np.float64]

#: Parameters within this share of a bound are at it.
AT_BOUND = 1e-3
_TRADE_OFF = 0.95  # correlation from which two parameters are reported as their combination
_UNKNOWN = 0.5  # standard deviation of the logarithm from which a parameter is not determined


def what_rows_do_not_tell(
    parameters: Sequence[Parameter], values: Mapping[str, float], covariance: Floats
) -> list[str]:
    """Name parameters at a bound, not determined, or known only in combination.

    Parameters
    ----------
    parameters : sequence of Parameter
    values : mapping of str to float
        In the units of the parameters.
    covariance : float64 [P, P]
        Of the logarithms of the values.
    """
    out = []
    sd = np.sqrt(np.diag(covariance))
    for p, one in zip(parameters, sd, strict=True):
        end = _bound_reached(p, values[p.name])
        if end and p.low < p.high:
            out.append(f"{p.name} is at its {end} bound, {values[p.name]:.4g} {p.unit}")
        elif one > _UNKNOWN:
            factor = np.exp(min(one, 50.0))
            out.append(f"{p.name} is not determined: one standard deviation is x{factor:.3g}")
    for a in range(len(parameters)):
        for b in range(a + 1, len(parameters)):
            if sd[a] * sd[b] == 0:
                continue
            correlation = covariance[a, b] / (sd[a] * sd[b])
            if abs(correlation) > _TRADE_OFF:
                out.append(_combination(parameters, values, covariance, a, b))
    return out


def _bound_reached(parameter: Parameter, value: float) -> str:
    if value <= parameter.low * (1 + AT_BOUND):
        return "lower"
    return "upper" if value >= parameter.high * (1 - AT_BOUND) else ""


def _combination(
    parameters: Sequence[Parameter], values: Mapping[str, float], cov: Floats, a: int, b: int
) -> str:
    """Say what of two parameters that trade off the rows do tell: a product of powers."""
    if cov[a, a] > cov[b, b]:
        a, b = b, a  # the exponent goes to the one known worse, and stays below 1
    power = -cov[a, b] / cov[b, b]
    sd = math.sqrt(max(cov[a, a] + 2 * power * cov[a, b] + power**2 * cov[b, b], 0.0))
    one, two = parameters[a].name, parameters[b].name
    value = values[one] * values[two] ** power
    return f"{one} and {two} trade off: known is {one} x {two}^{power:.2f} = {value:.4g} +-{sd:.1%}"
