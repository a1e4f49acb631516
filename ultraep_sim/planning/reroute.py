"""Split every source's tokens over the instances of their expert, both sums exact.

A host's own tokens use its local instance first. What is left of every source is split over
what is left of every quota in proportion, rounded down, and the leftover rows and columns are
filled in rank order (the north-west corner rule). Largest-remainder rounding keeps only the row
sums; this keeps rows and columns.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def split_tokens(
    loads: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rank: NDArray[np.int32],
    quota: NDArray[np.int64],
    *,
    locality: bool = True,
) -> NDArray[np.int64]:
    """Split loads over instances.

    Parameters
    ----------
    loads : ndarray of int64, shape [sources, experts]
        Source row ``s`` is rank ``s``; with a single row the source is unknown and locality
        does not apply.
    offsets : ndarray of int64, shape [experts + 1]
        Instances of expert ``e`` are ``offsets[e]:offsets[e + 1]``.
    rank : ndarray of int32, shape [instances]
    quota : ndarray of int64, shape [instances]
        Quotas of an expert sum to the expert's load.
    locality : bool
        Whether a source's own instance is used first.

    Returns
    -------
    ndarray of int64, shape [sources, instances]
        Row ``s`` sums, per expert, to ``loads[s]``; each column sums to its quota.

    Examples
    --------
    >>> import numpy as np
    >>> split_tokens(np.array([[5], [3]]), np.array([0, 2]),
    ...              np.array([0, 1], np.int32), np.array([4, 4])).tolist()
    [[4, 1], [0, 3]]
    """
    out = np.zeros((loads.shape[0], rank.shape[0]), np.int64)
    split_into(loads, offsets, rank, quota, locality and loads.shape[0] > 1, out)
    return out


@njit(cache=True)
def split_into(loads, offsets, rank, quota, locality, out):  # type: ignore[no-untyped-def]
    """Fill ``out``, zeros so far; see `split_tokens`."""
    sources, experts = loads.shape
    demand = np.empty(sources, np.int64)
    widest = 1
    for e in range(experts):
        widest = max(widest, offsets[e + 1] - offsets[e])
    room = np.empty(widest, np.int64)
    for e in range(experts):
        begin, end = offsets[e], offsets[e + 1]
        if end - begin == 1:
            for s in range(sources):
                out[s, begin] = loads[s, e]
            continue
        for s in range(sources):
            demand[s] = loads[s, e]
        for i in range(begin, end):
            room[i - begin] = quota[i]
            if locality:
                s = rank[i]
                own = min(demand[s], quota[i])
                out[s, i] = own
                demand[s] -= own
                room[i - begin] -= own
        _proportional(demand, room, begin, end, out)


@njit(cache=True)
def _proportional(demand, room, begin, end, out):  # type: ignore[no-untyped-def]
    """Add demand x room / total, rounded so that rows and columns are exact."""
    total = 0
    for s in range(demand.shape[0]):
        total += demand[s]
    if total == 0:
        return
    width = end - begin
    # Floors first, against the untouched totals; leftovers are booked in place afterwards.
    taken = np.zeros(width, np.int64)
    for s in range(demand.shape[0]):
        need = demand[s]
        if need == 0:
            continue
        left = need
        for j in range(width):
            part = need * room[j] // total
            out[s, begin + j] += part
            taken[j] += part
            left -= part
        demand[s] = left
    j = 0
    for s in range(demand.shape[0]):
        while demand[s] > 0:
            while taken[j] == room[j]:
                j += 1
            part = min(demand[s], room[j] - taken[j])
            out[s, begin + j] += part
            taken[j] += part
            demand[s] -= part
