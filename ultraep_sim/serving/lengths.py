"""Prompt lengths: drawn from a distribution, by index of the request."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.serving.draws import stream

if TYPE_CHECKING:
    from ultraep_sim.scenario.requests import LengthSpec


def draw_lengths(spec: LengthSpec, count: int, seed: int) -> NDArray[np.int64]:
    """Draw the prompt lengths of the first requests.

    Parameters
    ----------
    spec : LengthSpec
        ``mean`` is the distribution's before rounding and before it is cut to
        ``[shortest, longest]``: a heavy tail that is cut leaves a smaller one.
    count : int
    seed : int

    Returns
    -------
    ndarray of int64, [count]
        Tokens, rounded to whole ones; at least 1.

    Notes
    -----
    The mean of a lognormal is ``exp(mu + sigma^2 / 2)``, hence its ``mu`` here. The i-th length
    depends on the options, the seed and i alone.
    """
    drawn: NDArray[np.float64]
    if spec.kind == "lognormal":
        normal = stream(seed, "lengths").standard_normal(count)
        drawn = np.exp(math.log(spec.mean) - spec.sigma**2 / 2 + spec.sigma * normal)
    elif spec.kind == "exponential":
        drawn = spec.mean * stream(seed, "lengths").standard_exponential(count)
    else:
        drawn = np.full(count, spec.mean)
    # `shortest` is at least 1; cutting first keeps a wild tail below what an integer holds.
    cut = np.clip(drawn, spec.shortest, spec.longest)
    return np.rint(cut).astype(np.int64)


def describe_lengths(spec: LengthSpec) -> str:
    """Say in a few words what is drawn."""
    sigma = f", sigma {spec.sigma:g}" if spec.kind == "lognormal" else ""
    return f"{spec.kind} lengths (mean {spec.mean:g}{sigma}, {spec.shortest} to {spec.longest})"
