"""A binary heap of events in flat arrays, for Numba kernels: ordered by time, then by arrival.

The total order makes runs reproducible: of two events at the same instant, the one that was
pushed first comes first.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def make_heap(capacity):  # type: ignore[no-untyped-def]  # numba kernel
    """Return empty arrays: times [capacity], events [capacity, 4], and counters [2].

    An event is (arrival number, kind, a, b); counters are (size, arrivals so far).
    """
    return np.empty(capacity), np.empty((capacity, 4), np.int64), np.zeros(2, np.int64)


@njit(cache=True)
def _copy(events, source, to):  # type: ignore[no-untyped-def]  # numba kernel
    for k in range(4):  # much faster than assigning a row
        events[to, k] = events[source, k]


@njit(cache=True)
def push(times, events, counters, time, kind, a, b):  # type: ignore[no-untyped-def]  # numba kernel
    """Add an event; the arrays must have room."""
    at = counters[0]
    counters[0] += 1
    number = counters[1]
    counters[1] += 1
    while at > 0:
        up = (at - 1) >> 1
        if times[up] <= time:  # equal times: the parent came first
            break
        times[at] = times[up]
        _copy(events, up, at)
        at = up
    times[at] = time
    events[at, 0] = number
    events[at, 1] = kind
    events[at, 2] = a
    events[at, 3] = b


@njit(cache=True)
def pop(times, events, counters):  # type: ignore[no-untyped-def]  # numba kernel
    """Remove the first event; return (time, kind, a, b). The heap must not be empty."""
    time, kind, a, b = times[0], events[0, 1], events[0, 2], events[0, 3]
    counters[0] -= 1
    size = counters[0]
    last, number = times[size], events[size, 0]
    at = 0
    while True:
        down = 2 * at + 1
        if down >= size:
            break
        right = down + 1
        if right < size and (
            times[right] < times[down]
            or (times[right] == times[down] and events[right, 0] < events[down, 0])
        ):
            down = right
        if last < times[down] or (last == times[down] and number < events[down, 0]):
            break
        times[at] = times[down]
        _copy(events, down, at)
        at = down
    if size > 0:
        times[at] = last
        _copy(events, size, at)
    return time, kind, a, b
