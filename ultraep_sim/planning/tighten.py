"""Search placements for the best balance there is: threshold accepting over single slots.

Given which expert sits in which slot, the best quotas are a flow problem, solved exactly by
`splitting`. So the search is over slot contents alone: change one slot, solve, keep the change if
the largest rank load is at most a little worse than before; that little shrinks to nothing
(Dueck and Scheuer 1990). The stuck ranks of the flow hold only experts that live among them: only a
replica of one of those on a rank outside can help, and most proposals are of that kind.

Meant for the question "how well could this be balanced at all?" (target 1.0, thorough), not for
the hot path: it takes milliseconds. Deterministic: a fixed linear congruential generator.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .layout import EPLayout
from .quota import Solution
from .splitting import reach, solve_split

TRIALS = 120_000
"""Proposals in a domain of up to eight ranks; fewer in larger ones, in proportion."""

_START = 0.2  # how much worse a placement may be at the start of a cycle, as a share of the mean
_CYCLE = 5_000  # proposals until that has shrunk to nothing; then it starts again from the best


def tighten(loads: NDArray[np.int64], layout: EPLayout, found: Solution) -> Solution:
    """Improve a solution's balance as far as the search gets; never worse.

    Parameters
    ----------
    loads : ndarray of int64, shape [experts]
    layout : EPLayout
    found : Solution
        Where to start.

    Returns
    -------
    Solution
        Its threshold is its largest rank load.
    """
    slots = layout.slots_per_rank
    if slots == 0:
        return found
    after = np.bincount(layout.home, loads, layout.num_ranks).astype(np.int64)
    np.subtract.at(after, layout.home[found.expert], found.quota)
    np.add.at(after, found.rank, found.quota)
    held = np.full((layout.num_ranks, slots), -1, np.int64)
    used = np.zeros(layout.num_ranks, np.int64)
    for expert, rank in zip(found.expert, found.rank, strict=True):
        held[rank, used[rank]] = expert
        used[rank] += 1
    parts = []
    for begin in range(0, layout.num_ranks, layout.domain):
        end = min(begin + layout.domain, layout.num_ranks)
        inside = (found.rank >= begin) & (found.rank < end)
        kept = (found.expert[inside], found.rank[inside], found.quota[inside])
        members = np.flatnonzero((layout.home >= begin) & (layout.home < end))
        trials = min(TRIALS, TRIALS * 8 // (end - begin))
        best = _search(loads, layout.home, members, begin, end, held, trials)
        better = best[0] < int(after[begin:end].max())
        parts.append((best[0], *best[1:]) if better else (int(after[begin:end].max()), *kept))
    expert = np.concatenate([part[1] for part in parts]).astype(np.int32)
    rank = np.concatenate([part[2] for part in parts]).astype(np.int32)
    quota = np.concatenate([part[3] for part in parts])
    return Solution(max(part[0] for part in parts), expert, rank, quota)


@njit(cache=True)
def _search(loads, home, members, begin, end, held, trials):  # type: ignore[no-untyped-def]
    """Search one domain; return its largest load and the transfers that reach it."""
    ranks = end - begin
    slots = held.shape[1]
    total = 0
    for e in members:
        total += loads[e]
    floor = -(-total // ranks)
    width = _START * total / ranks
    current = held[begin:end].copy()
    stuck = np.zeros(ranks, np.bool_)
    load, expert, rank, quota = _evaluate(loads, home, members, begin, end, current, stuck)
    best = load
    best_held = current.copy()
    best_stuck = stuck.copy()
    trial_stuck = stuck.copy()
    luck = 1
    for k in range(trials):
        if best <= floor or members.shape[0] == 0:
            break
        if k % _CYCLE == _CYCLE - 1:  # go on from the best
            current[:] = best_held
            stuck[:] = best_stuck
            load = best
        luck = (luck * 1103515245 + 12345) & 0x7FFFFFFF
        host = (luck >> 8) % ranks
        luck = (luck * 1103515245 + 12345) & 0x7FFFFFFF
        slot = (luck >> 8) % slots
        luck = (luck * 1103515245 + 12345) & 0x7FFFFFFF
        new = members[(luck >> 8) % members.shape[0]]
        guided = (luck >> 5) & 7 != 0
        if guided and (stuck[host] or not stuck[home[new] - begin]):
            continue
        if home[new] - begin == host or loads[new] < 2 or _holds(current, host, new):
            continue
        old = current[host, slot]
        current[host, slot] = new
        trial, _, _, _ = _evaluate(loads, home, members, begin, end, current, trial_stuck)
        allowed = width * (1 - (k % _CYCLE) / _CYCLE)
        if trial <= load + allowed:
            load = trial
            stuck[:] = trial_stuck
            if trial < best:
                best = trial
                best_held[:] = current
                best_stuck[:] = stuck
        else:
            current[host, slot] = old
    _, expert, rank, quota = _evaluate(loads, home, members, begin, end, best_held, stuck)
    return best, expert, rank, quota


@njit(cache=True)
def _holds(held, host, expert):  # type: ignore[no-untyped-def]
    found = False
    for j in range(held.shape[1]):
        found |= held[host, j] == expert
    return found


@njit(cache=True)
def _evaluate(loads, home, members, begin, end, held, stuck):  # type: ignore[no-untyped-def]
    """Solve the quotas of a placement exactly; return the largest load and the transfers.

    Experts without a replica, and the one token every main keeps, are fixed: one immovable item
    a rank. ``stuck`` is set for the ranks that no move can relieve.
    """
    ranks, slots = held.shape
    index = np.full(home.shape[0], -1, np.int64)
    names = np.empty(ranks * slots, np.int64)
    counts = np.zeros(ranks * slots + ranks, np.int64)
    movable = 0
    for r in range(ranks):
        for j in range(slots):
            e = held[r, j]
            if e < 0:
                continue
            if index[e] < 0:
                index[e] = movable
                names[movable] = e
                counts[movable] = 1
                movable += 1
            counts[index[e]] += 1
    items = movable + ranks
    counts[movable:items] = 1
    offsets = np.zeros(items + 1, np.int64)
    for i in range(items):
        offsets[i + 1] = offsets[i] + counts[i]
    rank = np.empty(offsets[items], np.int32)
    quota = np.zeros(offsets[items], np.int64)
    expert = np.empty(offsets[items], np.int64)
    filled = np.ones(items, np.int64)
    for i in range(movable):
        rank[offsets[i]] = home[names[i]] - begin
        quota[offsets[i]] = loads[names[i]] - 1
    for r in range(ranks):
        rank[offsets[movable + r]] = r
        for j in range(slots):
            if held[r, j] >= 0:
                i = index[held[r, j]]
                rank[offsets[i] + filled[i]] = r
                filled[i] += 1
    for e in members:
        at = offsets[movable + home[e] - begin]
        quota[at] += loads[e] if index[e] < 0 else 1
    for i in range(items):
        expert[offsets[i] : offsets[i + 1]] = i
    by_rank = np.argsort(rank, kind="mergesort")
    start = np.zeros(ranks + 1, np.int64)
    for i in range(rank.shape[0]):
        start[rank[i] + 1] += 1
    for r in range(ranks):
        start[r + 1] += start[r]
    tau = solve_split(offsets, rank, expert, by_rank, start, np.array([0, ranks]), quota)
    _mark_stuck(tau, offsets, rank, expert, by_rank, start, quota, stuck)
    return _transfers(tau, offsets, movable, names, rank, quota, begin)


@njit(cache=True)
def _mark_stuck(tau, offsets, rank, expert, by_rank, start, quota, stuck):  # type: ignore[no-untyped-def]
    ranks = start.shape[0] - 1
    load = np.zeros(ranks, np.int64)
    for i in range(rank.shape[0]):
        load[rank[i]] += quota[i]
    search = (np.empty(ranks, np.int64), np.empty(ranks, np.int64), np.empty(ranks, np.int64))
    seen_rank = np.zeros(ranks, np.int64)
    seen_expert = np.zeros(offsets.shape[0] - 1, np.int64)
    _, reached = reach(
        tau - 1, 0, ranks, 1, offsets, rank, expert, by_rank, start, quota, load,
        search, seen_rank, seen_expert,
    )  # fmt: skip
    stuck[:] = False
    for k in range(reached):
        stuck[search[0][k]] = True


@njit(cache=True)
def _transfers(tau, offsets, movable, names, rank, quota, begin):  # type: ignore[no-untyped-def]
    """List the replicas that got tokens."""
    count = 0
    for i in range(movable):
        for at in range(offsets[i] + 1, offsets[i + 1]):
            count += quota[at] > 0
    out_expert = np.empty(count, np.int32)
    out_rank = np.empty(count, np.int32)
    out_quota = np.empty(count, np.int64)
    n = 0
    for i in range(movable):
        for at in range(offsets[i] + 1, offsets[i + 1]):
            if quota[at] > 0:
                out_expert[n] = names[i]
                out_rank[n] = rank[at] + begin
                out_quota[n] = quota[at]
                n += 1
    return tau, out_expert, out_rank, out_quota
