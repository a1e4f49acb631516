"""Lower bounds: no plan has a smaller max rank load; none reaches it with fewer replicas.

A *plan* here keeps mains at home, leaves at least one token on the main of a loaded expert, opens
at most `slots_per_rank` replicas on a rank, no expert twice on one, and keeps replicas in the
scale-up domain of the home. Domains are independent: a tau must hold in each, replicas add up.

At a threshold tau a rank above it is a *source* with an excess E_i, a rank below it a *sink* with
slack s_q. Every plan is a graph whose edges are its replicas, home -> host. A connected component
with m sources and t sinks has at least m + t - 1 edges and, since no rank ends above tau, sinks
whose slacks cover its excesses; the north-west corner rule serves the same component with m + t - 1
edges straight from sources to sinks. So the fewest edges of the *fixed-charge transportation
problem* from sources to sinks (no slots, no experts, no relaying) bound the replicas of every
plan, also of one in which ranks below tau send load away or ranks above it receive some.

That problem is hard, so it is bounded in turn (`_transport`), and the slot and expert limits that
it forgets are counted beside it. What is proven infeasible at tau is infeasible below it: plans
only get more freedom as tau grows. That makes any such proof a bound on tau (`tau_lower_bound`).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from ..errors import PolicyError
from .layout import EPLayout
from .loads import check_loads, expert_loads

_INFEASIBLE = -1
_ROUNDING = 1e-7  # float error of a sum of a few thousand terms stays far below it


def tau_lower_bound(loads: ArrayLike, layout: EPLayout) -> int:
    """Bound the max rank load of every plan from below.

    Parameters
    ----------
    loads : array_like of int, shape [experts] or [sources, experts]
    layout : EPLayout

    Returns
    -------
    int
        (token, expert) pairs. At least the mean of every scale-up domain; above it where slots,
        what the slots can receive, or the tokens that stay on mains forbid it.

    Raises
    ------
    LoadsError
        If the loads do not fit the layout.

    Examples
    --------
    >>> from ultraep_sim.planning import EPLayout
    >>> tau_lower_bound([90, 10, 20], EPLayout(3, 3, 1))
    40
    >>> tau_lower_bound([90, 10, 20], EPLayout(3, 3, 0))
    90
    """
    total = expert_loads(check_loads(loads, layout))
    bound = 0
    for begin in range(0, layout.num_ranks, layout.domain):
        sizes, start = _domain(total, layout, begin)
        rank_load = _rank_loads(sizes, start)
        low, high = int(-(-rank_load.sum() // len(rank_load))), int(rank_load.max())
        while low < high:  # below low: proven infeasible; high: a plan exists or is not excluded
            tau = (low + high) // 2
            if _unreachable(sizes, start, rank_load, layout.slots_per_rank, tau):
                low = tau + 1
            else:
                high = tau
        bound = max(bound, low)
    return bound


def replica_lower_bound(loads: ArrayLike, layout: EPLayout, tau: int) -> int:
    """Bound the replicas of every plan whose max rank load is at most ``tau`` from below.

    Parameters
    ----------
    loads : array_like of int, shape [experts] or [sources, experts]
    layout : EPLayout
    tau : int
        (token, expert) pairs.

    Returns
    -------
    int

    Raises
    ------
    LoadsError
        If the loads do not fit the layout.
    PolicyError
        If it is proven that no plan reaches ``tau``.

    Examples
    --------
    Excess 50 over slacks 30 and 20 takes two replicas; over 50 and 20 one would do:

    >>> from ultraep_sim.planning import EPLayout
    >>> replica_lower_bound([90, 10, 20], EPLayout(3, 3, 1), 40)
    2
    """
    total = expert_loads(check_loads(loads, layout))
    replicas = 0
    for begin in range(0, layout.num_ranks, layout.domain):
        sizes, start = _domain(total, layout, begin)
        rank_load = _rank_loads(sizes, start)
        needed = int(_replicas(sizes, start, rank_load, tau))
        if needed == _INFEASIBLE or needed > layout.slots_per_rank * len(rank_load):
            raise PolicyError(
                "no plan has so small a max rank load", place="tau", value=tau,
                remedy=f"the lower bound is {tau_lower_bound(total, layout)}",
            )  # fmt: skip
        replicas += needed
    return replicas


def counting_lower_bound(loads: ArrayLike, layout: EPLayout, tau: int) -> int:
    """Return the larger of the two counting bounds, the yardstick of published comparisons.

    The largest slacks that cover the total excess; and for each source alone the fewest largest
    slacks that cover its excess, summed. `replica_lower_bound` is never below it.

    Parameters
    ----------
    loads : array_like of int, shape [experts] or [sources, experts]
    layout : EPLayout
    tau : int

    Returns
    -------
    int
    """
    total = expert_loads(check_loads(loads, layout))
    bound = 0
    for begin in range(0, layout.num_ranks, layout.domain):
        excess, slack = _excess_and_slack(_rank_loads(*_domain(total, layout, begin)), tau)
        covered = np.cumsum(slack)
        together = np.searchsorted(covered, excess.sum()) + 1 if excess.size else 0
        alone = np.searchsorted(covered, excess) + 1
        bound += max(int(together), int(alone.sum()))
    return bound


def _domain(
    total: NDArray[np.int64], layout: EPLayout, begin: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the loads of a domain's experts by home, largest first; ``start`` delimits homes."""
    end = min(begin + layout.domain, layout.num_ranks)
    inside = np.flatnonzero((layout.home >= begin) & (layout.home < end))
    order = np.lexsort((-total[inside], layout.home[inside]))
    counts = layout.mains_per_rank[begin:end]
    return total[inside[order]], np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _rank_loads(sizes: NDArray[np.int64], start: NDArray[np.int64]) -> NDArray[np.int64]:
    summed = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
    return np.asarray(summed[start[1:]] - summed[start[:-1]])


def _excess_and_slack(
    rank_load: NDArray[np.int64], tau: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both largest first, zeros left out."""
    over = np.sort(rank_load[rank_load > tau] - tau)[::-1]
    under = np.sort(tau - rank_load[rank_load < tau])[::-1]
    return over, under


@njit(cache=True)
def _unreachable(sizes, start, rank_load, slots, tau):  # type: ignore[no-untyped-def]
    """Prove that no plan of a domain has max rank load tau, or return False.

    1. The replicas it needs exceed the slots.
    2. Rank q ends with at most tau, and with at most its own load plus what its slots can
       receive: the ``slots`` largest experts of other homes, less the token each main keeps. If
       these ceilings do not add up to the total load, something has nowhere to go.
    """
    needed = _replicas(sizes, start, rank_load, tau)
    ranks = rank_load.shape[0]
    if needed < 0 or needed > slots * ranks:
        return True
    home = np.empty(sizes.shape[0], np.int64)
    for r in range(ranks):
        home[start[r] : start[r + 1]] = r
    order = np.argsort(-sizes)
    room = 0
    for r in range(ranks):
        receives = 0
        taken = 0
        for e in order:
            if taken == slots or sizes[e] < 2:
                break
            if home[e] != r:
                receives += sizes[e] - 1
                taken += 1
        room += min(tau, rank_load[r] + receives)
    return room < rank_load.sum()


@njit(cache=True)
def _replicas(sizes, start, rank_load, tau):  # type: ignore[no-untyped-def]
    """Bound the replicas of a domain at tau; -1 if it is infeasible.

    The larger of the transportation bound and, summed over the sources, the fewest experts whose
    loads (less the token their mains keep) cover the excess: a source must send replicas of that
    many different experts, wherever they go and whatever it receives besides.
    """
    ranks = rank_load.shape[0]
    excess = np.empty(ranks, np.int64)
    slack = np.empty(ranks, np.int64)
    m = 0
    n = 0
    experts = 0
    for r in range(ranks):
        if rank_load[r] < tau:
            slack[n] = tau - rank_load[r]
            n += 1
        elif rank_load[r] > tau:
            excess[m] = rank_load[r] - tau
            left = excess[m]
            m += 1
            for e in range(start[r], start[r + 1]):
                if left <= 0 or sizes[e] < 2:
                    break
                left -= sizes[e] - 1
                experts += 1
            if left > 0:
                return _INFEASIBLE
    if m == 0:
        return 0
    together = _transport(np.sort(excess[:m])[::-1], np.sort(slack[:n])[::-1])
    return together if together < 0 else max(together, experts)


@njit(cache=True)
def _transport(excess, slack):  # type: ignore[no-untyped-def]
    """Bound the edges of the fixed-charge transportation problem; -1 if the slacks do not suffice.

    Lagrangian: charge lambda_q >= 0 for every token in sink q. Any solution with N edges pays at
    most N + sum_q lambda_q s_q, and at least sum_i g_i, where g_i is the least that source i alone
    can pay: its number of edges plus the charges. So N >= sum_i g_i - sum_q lambda_q s_q.

    For one pivot p > 0 take lambda_q = max(0, 1/p - 1/s_q). Then lambda_q s_q = max(0, s_q/p - 1).
    With d edges source i pays d + sum_q lambda_q x_q >= d + E_i/p - sum_q x_q/s_q, and as
    x_q <= s_q the last sum is at most d: at least max(d, E_i/p). d is at least k_i, the fewest
    largest slacks that cover E_i. (p = the largest slack gives sum_i k_i; p = the last of the
    largest slacks that cover the total excess gives their number: the two counting bounds are
    special cases.) One edge and two edges are priced exactly, see `_one_edge` and `_more_edges`.
    Every slack and excess is tried as p, and each time `_packing` adds what it can.
    """
    m = excess.shape[0]
    n = slack.shape[0]
    fewest = np.empty(m, np.int64)
    for i in range(m):
        left = excess[i]
        k = 0
        while left > 0:
            if k == n:
                return _INFEASIBLE
            left -= slack[k]
            k += 1
        fewest[i] = k
    if excess.sum() > slack.sum():
        return _INFEASIBLE
    best = fewest.sum()
    gain = np.empty(m)
    sorted_gain = np.empty(m)
    for j in range(n + m):
        p = float(slack[j] if j < n else excess[j - n])
        value = 0.0
        for i in range(m):
            one = _one_edge(excess[i], slack, p) if fewest[i] == 1 else np.inf
            more = _more_edges(excess[i], fewest[i], slack, p)
            value += min(one, more)
            gain[i] = max(0.0, more - one)
        for q in range(n):
            if slack[q] <= p:
                break
            value -= slack[q] / p - 1.0
        value += _packing(excess, slack, gain, sorted_gain)
        best = max(best, int(np.ceil(value - _ROUNDING)))
    return best


@njit(cache=True)
def _packing(excess, slack, gain, sorted_gain):  # type: ignore[no-untyped-def]
    """Add the price of the sources that one edge cannot serve because sinks hold few of them whole.

    Of the sources with an excess of at least theta, a sink holds floor(s_q / theta) whole; the
    others pay for two edges or more. At least those with the smallest difference in price
    (``gain``, 0 where one edge never pays) do. Every excess is tried as theta.
    """
    best = 0.0
    for i in range(excess.shape[0]):
        if i + 1 < excess.shape[0] and excess[i + 1] == excess[i]:
            continue
        whole = 0
        for q in range(slack.shape[0]):
            if slack[q] < excess[i]:
                break
            whole += slack[q] // excess[i]
        split = i + 1 - whole
        if split <= 0:
            continue
        sorted_gain[: i + 1] = np.sort(gain[: i + 1])
        best = max(best, sorted_gain[:split].sum())
    return best


@njit(cache=True)
def _one_edge(excess, slack, p):  # type: ignore[no-untyped-def]
    """Price one edge: lambda grows with the slack, so the smallest that holds the excess it is."""
    q = slack.shape[0] - 1
    while slack[q] < excess:
        q -= 1
    return 1.0 + excess * max(0.0, 1.0 / p - 1.0 / slack[q])


@njit(cache=True)
def _more_edges(excess, fewest, slack, p):  # type: ignore[no-untyped-def]
    """Bound the price of two edges or more, and of ``fewest`` at least; exact for two.

    Two edges: for each smaller sink a, filled to the brim (it is the cheaper per token), the
    smallest partner that holds the rest. As a grows its partner may shrink.
    """
    least = max(float(max(3, fewest)), excess / p)
    if fewest > 2:
        return least
    b = 0
    for a in range(slack.shape[0] - 1, 0, -1):
        if slack[a] >= excess:
            break
        rest = excess - slack[a]
        if slack[0] < rest:
            continue
        while b + 1 < a and slack[b + 1] >= rest:
            b += 1
        partner = min(b, a - 1)
        cost = 2.0 + slack[a] * max(0.0, 1.0 / p - 1.0 / slack[a])
        cost += rest * max(0.0, 1.0 / p - 1.0 / slack[partner])
        least = min(least, cost)
    if fewest == 1:  # both could hold all: the one with the lower lambda does
        least = min(least, 1.0 + _one_edge(excess, slack, p))
    return least
