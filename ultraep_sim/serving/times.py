"""When requests arrive: a Poisson process, or a recording at its own rate or another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.serving.arrivals.container import Arrivals
from ultraep_sim.serving.arrivals.lines import MAX_REQUESTS
from ultraep_sim.serving.draws import stream

_RATE = "workload.requests.arrivals.rate_per_s"


def poisson_times(rate_per_s: float, duration_s: float, seed: int) -> NDArray[np.float64]:
    """Draw the arrivals of a Poisson process.

    Parameters
    ----------
    rate_per_s, duration_s : float
        Arrivals after ``duration_s`` are left out.
    seed : int

    Returns
    -------
    ndarray of float64, [requests]
        Seconds. The i-th gap is the i-th unit exponential over the rate: another rate moves the
        same requests in time, and a longer duration adds requests behind them.

    Raises
    ------
    InputError
        Too many requests are expected, or none arrived.
    """
    expected = rate_per_s * duration_s
    if expected > MAX_REQUESTS:
        raise InputError(
            f"{expected:.3g} requests are more than the {MAX_REQUESTS:,} that are simulated",
            place=_RATE,
            value=rate_per_s,
            remedy="lower it or workload.requests.duration_s",
        )
    rng = stream(seed, "arrivals")
    # Seldom too few, and then as many again; the draws are stable by index either way.
    some = int(expected + 6.0 * expected**0.5) + 16
    gaps = rng.standard_exponential(some)
    times = np.cumsum(gaps) / rate_per_s
    while times[-1] <= duration_s:
        gaps = np.append(gaps, rng.standard_exponential(some))
        times = np.cumsum(gaps) / rate_per_s
    count = int(np.searchsorted(times, duration_s, side="right"))
    if not count:
        raise InputError(
            f"no request arrives in {duration_s:g} s",
            place=_RATE,
            value=rate_per_s,
            remedy="raise it or workload.requests.duration_s",
        )
    return times[:count].copy()


def recorded_times(arrivals: Arrivals, rate_per_s: float | None) -> NDArray[np.float64]:
    """Return when recorded requests arrive.

    Parameters
    ----------
    arrivals : Arrivals
    rate_per_s : float or None
        Time is stretched so that the mean gap is its inverse; None keeps the recorded times.

    Returns
    -------
    ndarray of float64, [requests]
        Seconds, from 0.

    Raises
    ------
    InputError
        All requests come at once: no stretching gives them a rate.
    """
    if rate_per_s is None:
        return arrivals.arrival_s
    gaps, span_s = len(arrivals) - 1, arrivals.span_s
    if not span_s:
        raise InputError(
            f"{len(arrivals)} requests at one instant cannot be stretched ({arrivals.label})",
            place=_RATE,
            value=rate_per_s,
            remedy="leave the rate out or give a longer recording",
        )
    # One factor for all: the last time may be off by rounding, the order may not.
    return arrivals.arrival_s * (gaps / rate_per_s / span_s)
