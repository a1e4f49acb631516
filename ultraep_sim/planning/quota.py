"""The published quota planner: one load threshold, one greedy oracle, integers only.

Source: UltraEP, arXiv 2606.04101 (quota-driven planning), written from its description.

The greedy oracle is not monotone in the threshold, so the threshold is *defined* by one
probe sequence that every implementation follows:

1. ``first`` = ceil(target x mean) of the most loaded scale-up domain (a replica may not leave
   its domain, so no threshold below that mean can hold). If no rank is above ``first``, the
   plan is empty.
2. Probe ``first`` with a floor on every move: the larger of ``min_quota`` and a dynamic floor,
   ceil(excess left / feasible targets); then with the dynamic floor alone; then without. The
   first success is the plan.
3. Else search ``(first, max rank load]``: each round probes `PROBES` equally spaced thresholds,
   without a floor. The smallest that succeeds becomes the upper end, the probe below it the
   lower end, until the interval is at most max(1, mean / `RESOLUTION`). The upper end always
   succeeds at the start: with no replica at all.
4. If ``min_quota`` is set, the final threshold is probed once more with it as a plain floor, and
   that plan is kept if it succeeds: a floor is never allowed to make the threshold worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from ..errors import PolicyError
from .layout import EPLayout
from .replicas import Replicas

PROBES = 7
RESOLUTION = 1024
TARGET_SCALE = 10_000
MAX_TARGET = 1000.0

NO_FLOOR = 0
PLAIN_FLOOR = 1
DYNAMIC_FLOOR = 2


@dataclass(frozen=True)
class QuotaOptions:
    """Options of the quota planner.

    Parameters
    ----------
    target : float
        Largest rank load asked for, as a multiple of the mean; kept in 1/10000.
    min_quota : int
        Smallest quota a new replica should have; soft, see step 4 of the module.

    Raises
    ------
    PolicyError
        If a number is out of range.
    """

    target: float = 1.01
    min_quota: int = 0

    def __post_init__(self) -> None:
        if not 1.0 <= self.target <= MAX_TARGET:  # also refuses NaN
            raise PolicyError(
                "target out of range",
                place="target",
                value=self.target,
                remedy=f"give max/mean rank load to aim at, 1.0 to {MAX_TARGET:g}",
            )
        whole = isinstance(self.min_quota, int) and not isinstance(self.min_quota, bool)
        if not whole or self.min_quota < 0:
            raise PolicyError(
                "not a whole number from 0 up", place="min_quota", value=self.min_quota
            )

    @property
    def target_scaled(self) -> int:
        """The target in 1/10000."""
        return round(self.target * TARGET_SCALE)


class Solution(NamedTuple):
    """What the planner decided: the replicas it opened, in the order it opened them.

    Attributes
    ----------
    tau : int
        The threshold of step 1, 2 or 3; no rank is above it.
    expert, rank : ndarray of int32, shape [replicas]
    quota : ndarray of int64, shape [replicas]
    """

    tau: int
    expert: NDArray[np.int32]
    rank: NDArray[np.int32]
    quota: NDArray[np.int64]


class QuotaSolver:
    """The planner bound to one layout, with its workspace: solving allocates only the result.

    Parameters
    ----------
    layout : EPLayout

    Notes
    -----
    Not thread-safe: give each thread its own solver.
    """

    def __init__(self, layout: EPLayout) -> None:
        ranks, experts = layout.num_ranks, layout.num_experts
        self.layout = layout
        self._by_home = np.argsort(layout.home, kind="stable").astype(np.int32)
        self._start = np.concatenate(([0], np.cumsum(layout.mains_per_rank))).astype(np.int64)
        self._rank_load = np.empty(ranks, np.int64)
        self._keys = np.empty(max(ranks, experts), np.int64)
        self._rank_order = np.empty(ranks, np.int32)
        self._expert_order = np.empty(experts, np.int32)
        self._slack = np.empty(ranks, np.int64)
        self._free = np.empty(ranks, np.int64)
        self._stamp = np.zeros(ranks, np.int64)
        room = ranks * layout.slots_per_rank
        self._expert = np.empty(room, np.int32)
        self._rank = np.empty(room, np.int32)
        self._quota = np.empty(room, np.int64)

    def solve(self, loads: NDArray[np.int64], options: QuotaOptions | None = None) -> Solution:
        """Plan replicas and quotas for one layer and micro-batch.

        Parameters
        ----------
        loads : ndarray of int64, shape [experts]
            Checked loads, see `check_loads`.
        options : QuotaOptions, optional

        Returns
        -------
        Solution
        """
        options = options or QuotaOptions()
        tau, n = _solve(
            loads,
            self._by_home,
            self._start,
            self.layout.domain,
            self.layout.slots_per_rank,
            options.target_scaled,
            options.min_quota,
            self._rank_load,
            self._keys,
            self._rank_order,
            self._expert_order,
            self._slack,
            self._free,
            self._stamp,
            self._expert,
            self._rank,
            self._quota,
        )
        return Solution(tau, self._expert[:n].copy(), self._rank[:n].copy(), self._quota[:n].copy())

    def solve_many(
        self, loads: NDArray[np.int64], options: QuotaOptions | None = None
    ) -> tuple[NDArray[np.int64], Replicas]:
        """Plan many records, on all threads; each as `solve` does.

        Parameters
        ----------
        loads : ndarray of int64, shape [N, experts]
        options : QuotaOptions, optional

        Returns
        -------
        tau : ndarray of int64, shape [N]
        Replicas
        """
        options = options or QuotaOptions()
        records, room = loads.shape[0], self._expert.shape[0]
        tau, count = np.empty(records, np.int64), np.empty(records, np.int64)
        expert, rank = np.empty((records, room), np.int32), np.empty((records, room), np.int32)
        quota = np.empty((records, room), np.int64)
        parts = max(1, min(records, 8 * get_num_threads()))
        _solve_many(
            loads, parts, self._by_home, self._start, self.layout.domain,
            self.layout.slots_per_rank, options.target_scaled, options.min_quota,
            tau, count, expert, rank, quota,
        )  # fmt: skip
        return tau, Replicas(count, expert, rank, quota)


@njit(cache=True, parallel=True, nogil=True)
def _solve_many(  # type: ignore[no-untyped-def]  # numba kernel: shapes in QuotaSolver.solve_many
    loads, parts, by_home, start, domain, slots, target_scaled, min_quota,
    tau, count, expert, rank, quota,
):  # fmt: skip
    records, experts = loads.shape
    ranks = start.shape[0] - 1
    for part in prange(parts):
        rank_load, slack = np.empty(ranks, np.int64), np.empty(ranks, np.int64)
        free, stamp = np.empty(ranks, np.int64), np.zeros(ranks, np.int64)
        keys = np.empty(max(ranks, experts), np.int64)
        rank_order, expert_order = np.empty(ranks, np.int32), np.empty(experts, np.int32)
        for n in range(part * records // parts, (part + 1) * records // parts):
            tau[n], count[n] = _solve(
                loads[n], by_home, start, domain, slots, target_scaled, min_quota,
                rank_load, keys, rank_order, expert_order, slack, free, stamp,
                expert[n], rank[n], quota[n],
            )  # fmt: skip


@njit(cache=True)
def _solve(  # type: ignore[no-untyped-def]  # numba kernel: shapes in QuotaSolver.__init__
    loads,
    by_home,
    start,
    domain,
    slots,
    target_scaled,
    min_quota,
    rank_load,
    keys,
    rank_order,
    expert_order,
    slack,
    free,
    stamp,
    out_expert,
    out_rank,
    out_quota,
):
    first, mean, high = _thresholds(loads, by_home, start, domain, target_scaled, rank_load)
    if high <= first or slots == 0:
        return (first if high <= first else high), 0
    hot = order_by_load(loads, by_home, start, rank_load, first, keys, rank_order, expert_order)
    stamp[:] = 0
    state = (rank_load, slack, free, stamp, rank_order, expert_order)
    out = (out_expert, out_rank, out_quota)
    problem = (loads, start, domain, slots, hot)

    for attempt in range(0 if min_quota > 0 else 1, 3):
        mode = NO_FLOOR if attempt == 2 else DYNAMIC_FLOOR
        n = greedy_oracle(first, mode, min_quota if attempt == 0 else 0, problem, state, out)
        if n >= 0:
            return first, n

    low = first
    tolerance = max(1, mean // RESOLUTION)
    while high - low > tolerance:
        width = high - low
        below = low
        for j in range(1, PROBES + 1):
            tau = low + width * j // (PROBES + 1)
            if tau == below:
                continue
            if greedy_oracle(tau, NO_FLOOR, 0, problem, state, out) >= 0:
                high = tau
                break
            below = tau
        low = below
    if min_quota > 0:
        n = greedy_oracle(high, PLAIN_FLOOR, min_quota, problem, state, out)
        if n >= 0:
            return high, n
    # The upper end of the interval is a success by construction; rebuild its plan.
    return high, greedy_oracle(high, NO_FLOOR, 0, problem, state, out)


@njit(cache=True)
def _thresholds(  # type: ignore[no-untyped-def]
    loads, by_home, start, domain, target_scaled, rank_load
):
    """Fill rank loads; return the first threshold, the mean it rests on, the largest load."""
    ranks = rank_load.shape[0]
    first = 0
    mean = 0
    high = 0
    for begin in range(0, ranks, domain):
        end = min(begin + domain, ranks)
        total = 0
        for r in range(begin, end):
            load = 0
            for i in range(start[r], start[r + 1]):
                load += loads[by_home[i]]
            rank_load[r] = load
            total += load
            high = max(high, load)
        parts = (end - begin) * TARGET_SCALE
        first = max(first, (total * target_scaled + parts - 1) // parts)
        mean = max(mean, total // (end - begin))
    return first, mean, high


@njit(cache=True)
def order_by_load(  # type: ignore[no-untyped-def]
    loads, by_home, start, rank_load, first, keys, rank_order, expert_order
):
    """Sort overloaded ranks by load and their experts by load; ties go to the lower number.

    No threshold below ``first`` is ever probed, so ranks at or below it are never visited.
    Load and number share one int64 key: loads are below 2^31, numbers below 2^16.
    """
    hot = 0
    for r in range(rank_load.shape[0]):
        if rank_load[r] > first:
            keys[hot] = (-rank_load[r] << 16) | r
            hot += 1
    keys[:hot].sort()
    for k in range(hot):
        rank_order[k] = keys[k] & 0xFFFF
    for k in range(hot):
        begin, end = start[rank_order[k]], start[rank_order[k] + 1]
        for i in range(begin, end):
            keys[i] = (-loads[by_home[i]] << 16) | by_home[i]
        keys[begin:end].sort()
        for i in range(begin, end):
            expert_order[i] = keys[i] & 0xFFFF
    return hot


@njit(cache=True)
def greedy_oracle(tau, mode, min_quota, problem, state, out):  # type: ignore[no-untyped-def]
    """Bring every rank to ``tau`` at most, or return -1; else the number of replicas."""
    loads, start, domain, slots, hot = problem
    rank_load, slack, free, _, rank_order, expert_order = state
    ranks = rank_load.shape[0]
    for r in range(ranks):
        slack[r] = tau - rank_load[r]
        free[r] = slots
    n = 0
    for k in range(hot):
        rank = rank_order[k]
        excess = rank_load[rank] - tau
        if excess <= 0:
            break  # sorted by load: nobody after this one is above tau
        begin = rank // domain * domain
        end = min(begin + domain, ranks)
        for i in range(start[rank], start[rank + 1]):
            expert = expert_order[i]
            moved, n = _shed(
                expert, excess, loads[expert] - 1, begin, end, mode, min_quota, state, out, n
            )
            excess -= moved
            if excess == 0:
                break
        if excess > 0:
            return -1
    return n


@njit(cache=True)
def _shed(  # type: ignore[no-untyped-def]
    expert, excess, left, begin, end, mode, min_quota, state, out, n
):
    """Move up to ``excess`` tokens off one main, largest slack first; it keeps one token."""
    _, slack, free, stamp, _, _ = state
    out_expert, out_rank, out_quota = out
    first = n
    moved = 0
    while moved < excess and left > 0:
        best = -1
        best_slack = 0
        for r in range(begin, end):
            if slack[r] > best_slack and free[r] > 0 and stamp[r] == 0:
                best_slack = slack[r]
                best = r
        if best < 0:
            break
        need = excess - moved
        quota = min(need, best_slack, left)
        floor = 0
        if mode == DYNAMIC_FLOOR:
            feasible = 0
            for r in range(begin, end):
                feasible += (slack[r] > 0) & (free[r] > 0) & (stamp[r] == 0)
            floor = max(min_quota, (need + feasible - 1) // feasible)
        elif mode == PLAIN_FLOOR:
            floor = min_quota
        if quota < floor:
            break
        out_expert[n] = expert
        out_rank[n] = best
        out_quota[n] = quota
        n += 1
        slack[best] -= quota
        free[best] -= 1
        stamp[best] = 1  # it holds this expert now
        left -= quota
        moved += quota
    for i in range(first, n):
        stamp[out_rank[i]] = 0
    return moved, n
