"""EPLB's two rules: who gets one more replica, and which pack takes it.

Source: DeepSeek's public EPLB algorithm, written from its description (DESIGN section 6).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def replicate(
    loads: NDArray[np.int64], extra: int, max_copies: int | None = None
) -> NDArray[np.int64]:
    """Give ``extra`` more instances, one by one, to the largest load per instance.

    Parameters
    ----------
    loads : ndarray of int64, shape [experts]
    extra : int
        Instances beyond one each.
    max_copies : int, optional
        No expert gets more instances than this; default no limit. What no expert may take
        is not given out.

    Returns
    -------
    ndarray of int64, shape [experts]
        Instances of each expert; ties go to the lower expert.

    Examples
    --------
    >>> import numpy as np
    >>> replicate(np.array([90, 132, 40, 61]), 2).tolist()
    [2, 2, 1, 1]
    """
    copies = np.ones(loads.shape[0], np.int64)
    _replicate(loads, extra, loads.shape[0] + extra if max_copies is None else max_copies, copies)
    return copies


def pack(weights: NDArray[np.float64], packs: int) -> NDArray[np.int64]:
    """Put items on packs of equal item count, heaviest first, each on the lightest with room.

    Parameters
    ----------
    weights : ndarray of float64, shape [items]
    packs : int
        Where it does not divide the items, some packs hold one fewer.

    Returns
    -------
    ndarray of int64, shape [items]
        The pack of each item; ties go to the lower item and the lower pack.
    """
    order = np.argsort(-weights, kind="stable")
    out = np.empty(len(weights), np.int64)
    _pack(weights, order, packs, out)
    return out


@njit(cache=True)
def _replicate(loads, extra, max_copies, copies):  # type: ignore[no-untyped-def]
    for _ in range(extra):
        best = -1
        best_share = -1.0
        for e in range(loads.shape[0]):
            share = loads[e] / copies[e]
            if share > best_share and copies[e] < max_copies:
                best = e
                best_share = share
        if best < 0:
            return
        copies[best] += 1


@njit(cache=True)
def _pack(weights, order, packs, out):  # type: ignore[no-untyped-def]
    capacity = (weights.shape[0] + packs - 1) // packs
    load = np.zeros(packs, np.float64)
    count = np.zeros(packs, np.int64)
    for i in order:
        best = -1
        for p in range(packs):
            if count[p] < capacity and (best < 0 or load[p] < load[best]):
                best = p
        out[i] = best
        load[best] += weights[i]
        count[best] += 1
