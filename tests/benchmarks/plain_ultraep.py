"""The published planner written down plainly in Numba: the baseline of the solve benchmark.

The same probe sequence and the same plans as `ultraep_sim.planning.quota` (the benchmark checks
it), without its care: every probe sorts again and allocates its own arrays.
"""

import numpy as np
from numba import njit

PROBES = 7


@njit(cache=True)
def solve(loads, home, ranks, slots, target_scaled):
    """Return tau, and expert, rank and quota of the replicas."""
    rank_load = np.zeros(ranks, np.int64)
    for e in range(len(loads)):
        rank_load[home[e]] += loads[e]
    total = rank_load.sum()
    first = (total * target_scaled + ranks * 10_000 - 1) // (ranks * 10_000)
    high = rank_load.max()
    if high <= first or slots == 0:
        return max(first, high), np.zeros((0, 3), np.int64)
    for dynamic in (True, False):
        ok, replicas = oracle(loads, home, rank_load, slots, first, dynamic)
        if ok:
            return first, replicas
    low = first
    tolerance = max(1, total // ranks // 1024)
    while high - low > tolerance:
        width = high - low
        below = low
        for j in range(1, PROBES + 1):
            tau = low + width * j // (PROBES + 1)
            if tau == below:
                continue
            ok, _ = oracle(loads, home, rank_load, slots, tau, False)
            if ok:
                high = tau
                break
            below = tau
        low = below
    return high, oracle(loads, home, rank_load, slots, high, False)[1]


@njit(cache=True)
def oracle(loads, home, rank_load, slots, tau, dynamic):
    ranks = len(rank_load)
    slack = tau - rank_load
    free = np.full(ranks, slots)
    replicas = np.empty((ranks * slots, 3), np.int64)
    n = 0
    for rank in np.argsort(-rank_load, kind="mergesort"):
        excess = rank_load[rank] - tau
        if excess <= 0:
            continue
        mains = np.flatnonzero(home == rank)
        for expert in mains[np.argsort(-loads[mains], kind="mergesort")]:
            left = loads[expert] - 1
            hosts = np.zeros(ranks, np.bool_)
            while excess > 0 and left > 0:
                able = (slack > 0) & (free > 0) & ~hosts
                feasible = able.sum()
                if feasible == 0:
                    break
                best = np.argmax(np.where(able, slack, -1))
                quota = min(excess, slack[best], left)
                if dynamic and quota < (excess + feasible - 1) // feasible:
                    break
                replicas[n] = (expert, best, quota)
                n += 1
                hosts[best] = True
                slack[best] -= quota
                free[best] -= 1
                left -= quota
                excess -= quota
        if excess > 0:
            return False, replicas[:0]
    return True, replicas[:n]
