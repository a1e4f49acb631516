"""What the assumed prompt lengths decide: the rate of ``none`` under others, and the router.

The mean is fitted anew for each, to the same published rate of ``ideal``. Long prompts make the
attention of one rank the longest part of a step, and a router that does not look leaves ranks
without work; both shrink the part of a step that expert imbalance stretches.
"""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..serving.capacity import find_capacity
from .serving import TOLERANCE, shares_of
from .serving_cases import Case, Lengths
from .serving_fit import ONE, Fitted, fit_mean, setting

Row = dict[str, Any]

#: The assumed ones, then ends of their ranges and another router, alone and together. The last is
#: beyond the ranges: looked for, to see what it would take to lose as little as is published.
SETTINGS = (
    Lengths(),
    Lengths(sigma=1.0, longest=16_384),
    Lengths(longest=98_304),
    Lengths(router="round_robin"),
    Lengths(sigma=1.4, longest=98_304, router="round_robin"),
    Lengths(sigma=2.0, longest=131_072, router="round_robin"),
)


def lengths_row(case: Case, lengths: Lengths) -> Row:
    """Find the rate of ``none`` over that of ``ideal`` where prompts are other ones.

    Parameters
    ----------
    case : Case
        With published rates of ``ideal`` and ``none``.
    lengths : Lengths

    Returns
    -------
    dict
        ``share`` of expert GEMM and all-to-all in steps of ``ideal``, ``relative`` as simulated
        with one domain, ``published_relative``, ``relative_error``; None where no mean
        length lets ``ideal`` meet the line at its published rate.
    """
    none, ideal, imbalance = case.rate("none"), case.rate("ideal"), case.imbalance("none")
    if none is None or ideal is None or imbalance is None:
        raise ValueError("lengths are compared where none and ideal are published")
    row = {
        "workload": case.workload,
        "sigma": lengths.sigma,
        "longest": lengths.longest,
        "router": lengths.router,
        "mean_tokens": None,
        "share": None,
        "relative": None,
        "published_relative": none / ideal,
        "relative_error": None,
    }
    try:
        found = Fitted(fit_mean(case, lengths), imbalance, None)
    except InputError:
        return row
    shares = shares_of(case, ONE, found, ideal, lengths)
    scenario = setting(case, ONE, found, "none", 0.55 * ideal, lengths=lengths)
    (best,) = find_capacity(scenario, seeds=[0], tolerance=TOLERANCE)
    relative = best.rate_per_s / ideal
    return row | {
        "mean_tokens": found.mean_tokens,
        "share": shares["share"],
        "relative": relative,
        "relative_error": relative / (none / ideal) - 1,
    }
