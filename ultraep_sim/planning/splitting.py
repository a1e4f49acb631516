"""Split exact loads over instances that already exist, so that the busiest rank has least.

With the instances fixed this is a linear program: minimise t, quotas of an expert sum to its load,
no rank above t. Its constraints are those of a flow from experts to ranks, so for a whole number t
a fractional solution exists only if one in whole tokens does: the best whole t is the linear
optimum rounded up, and no rounding of quotas is needed. It is found by augmenting paths:

1. Every load starts at its main; t is the mean of the group, rounded up.
2. The shortest chain of moves from a rank above t to a rank below t is taken (rank u gives tokens
   of an expert to rank v that also holds it, v gives others on, ...), as many as fit; repeat.
3. If ranks above t reach no rank below it, the ranks S they do reach hold only experts that live
   nowhere else: no split has a maximum below load(S) / size(S). That, rounded up, is the next t.

The smallest t that works follows, since each t is a lower bound. Tokens move only if they must.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Split(NamedTuple):
    """Quotas over given instances.

    Attributes
    ----------
    tau : int
        Largest rank load over all groups; the linear optimum of its group rounded up.
    quota : ndarray of int64, shape [instances]
    """

    tau: int
    quota: NDArray[np.int64]


def split_min_max(
    loads: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rank: NDArray[np.int32],
    bounds: NDArray[np.int64],
) -> Split:
    """Choose quotas that minimise the largest rank load, group by group, exactly.

    Parameters
    ----------
    loads : ndarray of int64, shape [experts]
    offsets : ndarray of int64, shape [experts + 1]
        Instances of expert ``e`` are ``offsets[e]:offsets[e + 1]``, the main first, all of them
        on different ranks of one group.
    rank : ndarray of int32, shape [instances]
    bounds : ndarray of int64, shape [groups + 1]
        Group ``g`` is ranks ``bounds[g]:bounds[g + 1]``; each is solved for itself.

    Returns
    -------
    Split

    Examples
    --------
    Expert 0 (90 tokens) lives on ranks 0 and 1, expert 1 (30) on ranks 1 and 2:

    >>> import numpy as np
    >>> split_min_max(np.array([90, 30]), np.array([0, 2, 4]),
    ...               np.array([0, 1, 1, 2], np.int32), np.array([0, 3]))
    Split(tau=45, quota=array([45, 45,  0, 30]))
    """
    expert = np.repeat(np.arange(len(loads)), np.diff(offsets))
    quota = np.zeros(len(rank), np.int64)
    quota[offsets[:-1]] = loads
    by_rank = np.argsort(rank, kind="stable")
    counts = np.bincount(rank, minlength=int(bounds[-1]))
    start = np.concatenate(([0], np.cumsum(counts)))
    return Split(int(solve_split(offsets, rank, expert, by_rank, start, bounds, quota)), quota)


@njit(cache=True)
def solve_split(offsets, rank, expert, by_rank, start, bounds, quota):  # type: ignore[no-untyped-def]
    """Move ``quota`` [instances] to the optimum in place; return the largest rank load."""
    ranks = start.shape[0] - 1
    load = np.zeros(ranks, np.int64)
    for i in range(rank.shape[0]):
        load[rank[i]] += quota[i]
    search = (np.empty(ranks, np.int64), np.empty(ranks, np.int64), np.empty(ranks, np.int64))
    seen_rank = np.zeros(ranks, np.int64)
    seen_expert = np.zeros(offsets.shape[0] - 1, np.int64)
    mark = 0
    tau = 0
    for g in range(bounds.shape[0] - 1):
        begin, end = bounds[g], bounds[g + 1]
        total = load[begin:end].sum()
        level = -(-total // (end - begin))
        while load[begin:end].max() > level:
            mark += 1
            sink, reached = reach(
                level, begin, end, mark, offsets, rank, expert, by_rank, start, quota, load,
                search, seen_rank, seen_expert,
            )  # fmt: skip
            if sink >= 0:
                _shift(sink, level, rank, quota, load, search)
                continue
            queue = search[0]
            stuck = 0
            for k in range(reached):
                stuck += load[queue[k]]
            level = -(-stuck // reached)
        tau = max(tau, load[begin:end].max())
    return tau


@njit(cache=True)
def reach(  # type: ignore[no-untyped-def]
    level, begin, end, mark, offsets, rank, expert, by_rank, start, quota, load,
    search, seen_rank, seen_expert,
):  # fmt: skip
    """Breadth first from all ranks above ``level``; return the first rank below it, or -1."""
    queue, giver, taker = search  # instances that give and take on the way into a rank
    filled = 0
    for r in range(begin, end):
        if load[r] > level:
            queue[filled] = r
            seen_rank[r] = mark
            giver[r] = -1
            filled += 1
    k = 0
    while k < filled:
        r = queue[k]
        k += 1
        for p in range(start[r], start[r + 1]):
            i = by_rank[p]
            e = expert[i]
            if quota[i] == 0 or seen_expert[e] == mark:
                continue
            seen_expert[e] = mark
            for j in range(offsets[e], offsets[e + 1]):
                v = rank[j]
                if seen_rank[v] == mark:
                    continue
                seen_rank[v] = mark
                giver[v] = i
                taker[v] = j
                if load[v] < level:
                    return v, filled
                queue[filled] = v
                filled += 1
    return -1, filled


@njit(cache=True)
def _shift(sink, level, rank, quota, load, search):  # type: ignore[no-untyped-def]
    """Move what fits along the chain that ends at ``sink``."""
    _, giver, taker = search
    amount = level - load[sink]
    r = sink
    while giver[r] >= 0:
        amount = min(amount, quota[giver[r]])
        r = rank[giver[r]]
    amount = min(amount, load[r] - level)
    load[r] -= amount
    load[sink] += amount
    r = sink
    while giver[r] >= 0:
        quota[giver[r]] -= amount
        quota[taker[r]] += amount
        r = rank[giver[r]]
