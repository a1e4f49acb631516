"""Mosaic: cover every overloaded rank with as few replicas as possible, all pieces fitting.

At a given threshold each overloaded rank (a source) has an excess, every other rank (a sink) a
slack and some free slots. Moving the excess is a fixed-charge transportation problem: what costs
is the number of transfers. A transfer is wasted whenever two sources share a sink, so the planner
looks for sinks that fit a source exactly instead of taking the largest:

- one sink is enough: take the smallest that covers the need (best fit);
- two are needed: take the pair with the smallest sum that covers it (two pointers over the
  sorted slacks), fill its larger sink and ask again;
- more are needed: fill the largest completely and ask again.

Inside a source experts go by load, largest first. Every sink but the last of a cover is filled
completely and so leaves the list: no sink can get the same expert twice. All arithmetic is
integer. With a tile, slacks are rounded down and excesses up to whole tiles, so every replica's
quota is whole tiles and the expert as a whole needs no tile more than without replicas.

This file is one pass at one threshold; `mosaic_solver` searches thresholds and orders.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_BITS = 16  # keys hold a slack (or an ordering weight) above, a rank below
_MASK = (1 << _BITS) - 1


@njit(cache=True)
def collect(rank_load, cap, begin, end, slots, tile, sinks, sources):  # type: ignore[no-untyped-def]
    """List the sinks of ranks [begin, end) by slack, ascending, and its sources by excess.

    Sinks are keys ``slack << 16 | rank``; sources are keys whose low bits are the rank, in the
    order to visit: largest excess first, tie to the lower rank.

    Returns
    -------
    num_sinks, num_sources : int
    """
    n = 0
    m = 0
    for r in range(begin, end):
        slack = cap[r] - rank_load[r]
        if slack < 0:
            sources[m] = (slack << _BITS) | r
            m += 1
        elif slots > 0 and slack >= tile:
            sinks[n] = ((slack - slack % tile) << _BITS) | r
            n += 1
    sinks[:n].sort()
    sources[:m].sort()
    return n, m


@njit(cache=True)
def shuffle(sources, num_sources, rank_load, cap, state):  # type: ignore[no-untyped-def]
    """Reorder sources by excess times a factor of 1 to 17 from a fixed generator."""
    for k in range(num_sources):
        rank = sources[k] & _MASK
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        weight = (rank_load[rank] - cap[rank]) * (64 + ((state >> 12) & 1023)) >> 6
        sources[k] = (-weight << _BITS) | rank
    sources[:num_sources].sort()
    return state


@njit(cache=True)
def fit(  # type: ignore[no-untyped-def]
    loads,
    start,
    expert_order,
    tile,
    sources,
    num_sources,
    excess,
    sinks,
    num_sinks,
    free,
    out,
    count,
):
    """Cover the sources in their order; transfers are appended to ``out`` from ``count`` on.

    ``excess`` [ranks] holds what each source must shed and is reduced in place; ``sinks`` and
    ``free`` are used up.

    Returns
    -------
    num_sinks, count, left : int
        Sinks left in the list, transfers so far, and excess that no sink could take.
    """
    n = num_sinks
    left = 0
    for k in range(num_sources):
        rank = sources[k] & _MASK
        need = excess[rank] + (tile - excess[rank] % tile) % tile
        others = 0  # what the experts that follow can still give
        for i in range(start[rank], start[rank + 1]):
            others += max(loads[expert_order[i]] - 1, 0)
        for i in range(start[rank], start[rank + 1]):
            if need <= 0:
                break
            expert = expert_order[i]
            part = min(need, loads[expert] - 1)  # the main keeps one token
            others -= max(loads[expert] - 1, 0)
            part -= part % tile
            if part <= 0:
                continue  # empty, or (when crossing) drained before
            before = count
            spare = min(part, others - (need - part)) if part < need else 0
            n, count = _cover(expert, part, spare, sinks, n, free, out, count)
            for j in range(before, count):
                need -= out[2][j]
        excess[rank] = max(need, 0)
        left += excess[rank]
    return n, count, left


@njit(cache=True)
def _cover(expert, need, spare, sinks, n, free, out, count):  # type: ignore[no-untyped-def]
    """Move ``need`` tokens of one expert to few, well-fitting sinks; return sinks and count.

    Up to ``spare`` of them may stay: an expert that runs out fills whole sinks and leaves its
    tail to the experts that follow, where they can give as much.
    """
    out_expert, out_rank, out_quota = out
    while need > 0 and n > 0:
        largest = sinks[n - 1] >> _BITS
        if largest >= need:
            at = _smallest_at_least(sinks, n, need)
            if need <= spare and sinks[at] >> _BITS > need:
                # A sink filled in part would be shared; one a little smaller is filled whole.
                at -= 1
                if at < 0 or (sinks[at] >> _BITS) * 2 < largest:
                    break
        elif n > 1 and largest + (sinks[n - 2] >> _BITS) >= need:
            at = _larger_of_best_pair(sinks, n, need)
        else:
            at = n - 1
        slack = sinks[at] >> _BITS
        rank = sinks[at] & _MASK
        quota = min(need, slack)
        out_expert[count] = expert
        out_rank[count] = rank
        out_quota[count] = quota
        count += 1
        need -= quota
        free[rank] -= 1
        n = _shrink(sinks, n, at, slack - quota, free[rank] > 0)
    return n, count


@njit(cache=True)
def _smallest_at_least(sinks, n, need):  # type: ignore[no-untyped-def]
    low, high = 0, n - 1
    while low < high:
        middle = (low + high) // 2
        if sinks[middle] >> _BITS >= need:
            high = middle
        else:
            low = middle + 1
    return low


@njit(cache=True)
def _larger_of_best_pair(sinks, n, need):  # type: ignore[no-untyped-def]
    """Return the larger sink of the pair with the smallest sum that covers ``need``."""
    low, high = 0, n - 1
    best = n - 1
    best_sum = np.int64(1) << 62
    while low < high:
        total = (sinks[low] >> _BITS) + (sinks[high] >> _BITS)
        if total >= need:
            if total < best_sum:
                best_sum = total
                best = high
            high -= 1
        else:
            low += 1
    return best


@njit(cache=True)
def _shrink(sinks, n, at, slack, usable):  # type: ignore[no-untyped-def]
    """Give the sink at ``at`` less slack, keeping the order; drop it if it is used up."""
    if slack == 0 or not usable:
        for i in range(at, n - 1):
            sinks[i] = sinks[i + 1]
        return n - 1
    key = (slack << _BITS) | (sinks[at] & _MASK)
    i = at
    while i > 0 and sinks[i - 1] > key:
        sinks[i] = sinks[i - 1]
        i -= 1
    sinks[i] = key
    return n
