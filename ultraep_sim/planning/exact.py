"""Exact plans by mixed-integer programming: the least max rank load, and the fewest replicas.

For small and medium cases (some hundred expert-rank pairs a scale-up domain); it is the judge of
the planners, not one of them. The solver is HiGHS, reached through scipy, which is only needed
here and imported when asked for. Domains are independent and are solved one after the other.

Variables of a domain: y[e, r] = 1 if rank r holds a replica of expert e (r is not its home), and
x[e, r] >= 0, the tokens of e on r. With y and an integer tau fixed the rest is a transportation
problem with integer data, so x need not be declared integer; the integer quotas of the plan come
from a maximum flow over the chosen replicas, which also checks the solver's arithmetic: a plan
that is returned holds exactly, whatever the tolerances of the program were.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import PolicyError
from .bounds import replica_lower_bound, tau_lower_bound
from .layout import EPLayout
from .loads import check_loads, expert_loads
from .quota import QuotaOptions, QuotaSolver

Status = Literal["optimal", "time limit"]
_EPS = 1e-4  # a bound this close below a whole number is that number


@dataclass(frozen=True)
class ExactResult:
    """What the program found and how much of it is proven.

    Attributes
    ----------
    value : int
        Best found: max rank load in pairs, or number of replicas.
    bound : int
        Proven: no plan has less.
    status : {"optimal", "time limit"}
        ``optimal`` if and only if value and bound agree.
    tau : int
        Largest rank load of the plan.
    expert, rank : ndarray of int32, shape [replicas]
    quota : ndarray of int64, shape [replicas]
        What each replica takes off its main.
    seconds : float
        Wall time spent.
    """

    value: int
    bound: int
    status: Status
    tau: int
    expert: NDArray[np.int32]
    rank: NDArray[np.int32]
    quota: NDArray[np.int64]
    seconds: float

    @property
    def gap(self) -> float:
        """(value - bound) / value; 0 if optimal."""
        return (self.value - self.bound) / self.value if self.value else 0.0


def minimum_max_load(
    loads: ArrayLike, layout: EPLayout, *, time_limit_s: float = 30.0
) -> ExactResult:
    """Find a plan with the least max rank load.

    Parameters
    ----------
    loads : array_like of int, shape [experts] or [sources, experts]
    layout : EPLayout
    time_limit_s : float
        Seconds for the whole call; what is not proven by then is reported as a gap.

    Returns
    -------
    ExactResult
        ``value`` is the max rank load. The number of replicas is not minimised.

    Raises
    ------
    LoadsError
        If the loads do not fit the layout.
    PolicyError
        If scipy is not installed, or the time limit is not positive.
    """
    begin = _started(time_limit_s)
    total = expert_loads(check_loads(loads, layout))
    parts, bound, tau = [], 0, 0
    for domain in _domains(total, layout):
        # A domain need not go below what another one cannot avoid, but its own optimum is asked
        # for all the same: the plan is then best everywhere.
        result = _least_load(domain, _left(begin, time_limit_s))
        parts.append(result)
        bound, tau = max(bound, result[0]), max(tau, result[1])
    return _result(tau, min(bound, tau), tau, parts, begin)


def minimum_replicas(
    loads: ArrayLike, layout: EPLayout, tau: int, *, time_limit_s: float = 30.0
) -> ExactResult:
    """Find a plan with the fewest replicas among those whose max rank load is at most ``tau``.

    Parameters
    ----------
    loads : array_like of int, shape [experts] or [sources, experts]
    layout : EPLayout
    tau : int
        (token, expert) pairs; for example ``plan.rank_loads.max()`` or ``minimum_max_load``'s.
    time_limit_s : float
        Seconds for the whole call.

    Returns
    -------
    ExactResult
        ``value`` is the number of replicas.

    Raises
    ------
    LoadsError
        If the loads do not fit the layout.
    PolicyError
        If scipy is not installed, no plan reaches ``tau``, or none was found in the time.
    """
    begin = _started(time_limit_s)
    total = expert_loads(check_loads(loads, layout))
    replica_lower_bound(total, layout, tau)  # refuses what is easily proven impossible
    parts = [
        _fewest_replicas(domain, tau, _left(begin, time_limit_s))
        for domain in _domains(total, layout)
    ]
    value = sum(len(replicas) for _, _, replicas in parts)
    bound = sum(part[0] for part in parts)
    return _result(value, bound, max(part[1] for part in parts), parts, begin)


@dataclass(frozen=True)
class _Domain:
    """One scale-up domain: ranks 0..n-1 are ``first + r``; experts that can move, by id."""

    first: int
    ranks: int
    slots: int
    experts: NDArray[np.int64]  # ids of experts with two tokens or more: the others stay home
    home: NDArray[np.int64]
    size: NDArray[np.int64]
    fixed: NDArray[np.int64]  # tokens of a rank that cannot leave it: one for each loaded main
    rank_load: NDArray[np.int64]


_Part = tuple[int, int, list[tuple[int, int, int]]]  # bound, max load, (expert, rank, quota)


def _domains(total: NDArray[np.int64], layout: EPLayout) -> list[_Domain]:
    out = []
    for first in range(0, layout.num_ranks, layout.domain):
        ranks = min(layout.domain, layout.num_ranks - first)
        here = (layout.home >= first) & (layout.home < first + ranks)
        home = layout.home.astype(np.int64) - first
        loaded, movable = here & (total > 0), np.flatnonzero(here & (total > 1))
        rank_load = np.zeros(ranks, np.int64)
        np.add.at(rank_load, home[here], total[here])
        fixed = np.bincount(home[loaded], minlength=ranks)
        out.append(
            _Domain(
                first, ranks, layout.slots_per_rank, movable, home[movable], total[movable],
                fixed, rank_load,
            )
        )  # fmt: skip
    return out


def _layout_of(domain: _Domain) -> tuple[NDArray[np.int64], EPLayout]:
    """Return the domain as a case of its own, loads that stay home folded into one expert each."""
    stays = domain.rank_load.copy()
    np.subtract.at(stays, domain.home, domain.size)
    home = np.concatenate((domain.home, np.repeat(np.arange(domain.ranks), stays)))
    size = np.concatenate((domain.size, np.ones(int(stays.sum()), np.int64)))
    return size, EPLayout(domain.ranks, len(home), min(domain.slots, len(home)), None, home)


def _least_load(domain: _Domain, time_limit_s: float) -> _Part:
    top = int(domain.rank_load.max())
    if domain.slots == 0 or len(domain.experts) == 0 or domain.ranks == 1:
        return top, top, []
    size, layout = _layout_of(domain)
    low = tau_lower_bound(size, layout)
    start = QuotaSolver(layout).solve(size, QuotaOptions(target=1.0))
    start_pairs = list(zip(start.expert.tolist(), start.rank.tolist(), strict=True))
    best = _flow_at_least(domain, start_pairs, low, min(start.tau, top))
    if best[0] > low:
        model = _Model(domain, best[0], with_tau=True)
        found = model.solve(low, best[0], time_limit_s)
        low = max(low, found.bound)
        if found.pairs is not None:
            best = min(best, _flow_at_least(domain, found.pairs, low, best[0]), key=lambda b: b[0])
    return low, best[0], _named(domain, best[1])


def _fewest_replicas(domain: _Domain, tau: int, time_limit_s: float) -> _Part:
    top = int(domain.rank_load.max())
    if top <= tau:
        return 0, top, []
    size, layout = _layout_of(domain)
    low = replica_lower_bound(size, layout, tau)
    model = _Model(domain, tau, with_tau=False)
    found = model.solve(low, domain.slots * domain.ranks, time_limit_s)
    if found.pairs is None:
        raise PolicyError(
            "no plan reaches this max rank load" if found.infeasible
            else "no plan found within the time limit",
            place="tau", value=tau,
            remedy="give a larger one" if found.infeasible else "give more time or a larger tau",
        )  # fmt: skip
    quotas = _flow(domain, found.pairs, tau)
    if quotas is None:
        raise PolicyError(
            "the solver's tolerance hides a violated load", place="tau", value=tau,
            remedy="give a tau one larger",
        )  # fmt: skip
    loads = domain.rank_load.copy()
    for e, r, quota in quotas:
        loads[domain.home[e]] -= quota
        loads[r] += quota
    return max(low, found.bound), int(loads.max()), _named(domain, quotas)


@dataclass(frozen=True)
class _Found:
    bound: int
    pairs: list[tuple[int, int]] | None
    infeasible: bool = False


class _Model:
    """Constraints of one domain below a max rank load ``top``.

    Columns: y[k] and x[k] for every (expert, rank other than home) k, then tau. The main's share
    is what the x leave. Tight big-M: a replica holds at most what its main may give away, and at
    most ``top`` less the tokens that cannot leave its rank.
    """

    def __init__(self, domain: _Domain, top: int, *, with_tau: bool) -> None:
        self.domain = domain
        self.with_tau = with_tau
        pairs = [
            (e, r)
            for e in range(len(domain.experts))
            for r in range(domain.ranks)
            if r != domain.home[e]
        ]
        self.expert = np.array([e for e, _ in pairs])
        self.rank = np.array([r for _, r in pairs])
        room = top - domain.fixed[self.rank]
        self.most = np.maximum(np.minimum(domain.size[self.expert] - 1, room), 0)
        self._rows: list[tuple[NDArray[np.int64], NDArray[np.float64], float, float]] = []
        self._build(top)

    def _add(self, columns: Any, values: Any, low: float, high: float) -> None:
        columns = np.atleast_1d(np.asarray(columns, np.int64))
        values = np.broadcast_to(np.asarray(values, np.float64), columns.shape)
        self._rows.append((columns, values, low, high))

    def _build(self, top: int) -> None:
        domain, n = self.domain, len(self.expert)
        for k in range(n):
            self._add([n + k, k], [1, -float(self.most[k])], -np.inf, 0)  # x <= M y
            self._add([n + k, k], [1, -1], 0, np.inf)  # no replica for nothing
        for e in range(len(domain.experts)):
            self._add(n + np.flatnonzero(self.expert == e), 1, 0, float(domain.size[e] - 1))
        home = domain.home[self.expert]
        for r in range(domain.ranks):
            here, leaving = np.flatnonzero(self.rank == r), np.flatnonzero(home == r)
            self._add(here, 1, 0, domain.slots)
            columns = np.concatenate((n + here, n + leaving))
            signs = np.concatenate((np.ones(len(here)), -np.ones(len(leaving))))
            own = float(domain.rank_load[r])
            if self.with_tau:
                columns, signs = np.append(columns, 2 * n), np.append(signs, -1.0)
                self._add(columns, signs, -np.inf, -own)
            else:
                self._add(columns, signs, -np.inf, top - own)
                self._add_experts_needed(r, leaving, top)
        self._break_symmetry()

    def _add_experts_needed(self, r: int, leaving: NDArray[np.int64], top: int) -> None:
        """Ask for as many replicas as the excess of a rank needs experts (a valid cut)."""
        sizes = np.sort(self.domain.size[self.domain.home == r] - 1)[::-1]
        excess = int(self.domain.rank_load[r]) - top
        if excess > 0:
            needed = int(np.searchsorted(np.cumsum(sizes), excess)) + 1
            self._add(leaving, 1, needed, np.inf)

    def _break_symmetry(self) -> None:
        """Order ranks without any load: they are interchangeable, so let the first receive most."""
        n = len(self.expert)
        empty = np.flatnonzero(self.domain.rank_load == 0)
        for a, b in pairwise(empty):
            first, second = np.flatnonzero(self.rank == a), np.flatnonzero(self.rank == b)
            values = np.concatenate((np.ones(len(first)), -np.ones(len(second))))
            self._add(np.concatenate((n + first, n + second)), values, 0, np.inf)

    def solve(self, low: int, high: int, time_limit_s: float) -> _Found:
        """Minimise tau in [low, high], or the replicas, at least ``low``."""
        optimize, sparse = _scipy()
        n = len(self.expert)
        size = 2 * n + 1
        cost = np.zeros(size)
        lower, upper = np.zeros(size), np.concatenate((np.ones(n), self.most, [float(high)]))
        if self.with_tau:
            cost[-1], lower[-1] = 1, low
        else:
            cost[:n] = 1
            self._add(np.arange(n), 1, low, high)
        integrality = np.concatenate((np.ones(n), np.zeros(n), [1]))
        counts = [len(row[0]) for row in self._rows]
        matrix = sparse.csr_array(
            (
                np.concatenate([row[1] for row in self._rows]),
                np.concatenate([row[0] for row in self._rows]),
                np.concatenate(([0], np.cumsum(counts))),
            ),
            shape=(len(counts), size),
        )
        found = optimize.milp(
            cost,
            constraints=optimize.LinearConstraint(
                matrix, [row[2] for row in self._rows], [row[3] for row in self._rows]
            ),
            integrality=integrality,
            bounds=optimize.Bounds(lower, upper),
            options={"time_limit": max(time_limit_s, 0.05), "mip_rel_gap": 0.0},
        )
        dual = found.mip_dual_bound
        bound = low if dual is None or not np.isfinite(dual) else int(np.ceil(dual - _EPS))
        if found.x is None:
            return _Found(low, None, infeasible=found.status == 2)
        chosen = np.flatnonzero(found.x[:n] > 0.5)
        return _Found(bound, [(int(self.expert[k]), int(self.rank[k])) for k in chosen])


def _flow_at_least(
    domain: _Domain, pairs: list[tuple[int, int]], low: int, high: int
) -> tuple[int, list[tuple[int, int, int]]]:
    """Find the least max rank load these replicas allow, and integer quotas that reach it."""
    best = _flow(domain, pairs, high)
    while best is None:  # the solver's tolerance: a few tokens above what it believed
        high = high + max(1, high // 1_000_000)
        best = _flow(domain, pairs, high)
    while low < high:
        tau = (low + high) // 2
        quotas = _flow(domain, pairs, tau)
        if quotas is None:
            low = tau + 1
        else:
            high, best = tau, quotas
    return high, best


def _flow(
    domain: _Domain, pairs: list[tuple[int, int]], tau: int
) -> list[tuple[int, int, int]] | None:
    """Integer quotas of the replicas with no rank above ``tau``, or None.

    A maximum flow: source -> expert (all but the token that stays) -> home or replica -> rank.
    """
    _scipy()
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    experts, ranks = len(domain.experts), domain.ranks
    if np.any(domain.fixed > tau):
        return None
    sink = 1 + experts + ranks
    rows = [0] * experts + [1 + e for e in range(experts)] + [1 + e for e, _ in pairs]
    columns = [1 + e for e in range(experts)]
    columns += [1 + experts + int(r) for r in domain.home]
    columns += [1 + experts + r for _, r in pairs]
    give = (domain.size - 1).tolist()
    values = give + give + [give[e] for e, _ in pairs]
    rows += [1 + experts + r for r in range(ranks)]
    columns += [sink] * ranks
    values += (tau - domain.fixed).tolist()
    graph = csr_array((np.array(values, np.int32), (rows, columns)), shape=(sink + 1, sink + 1))
    flow = maximum_flow(graph, 0, sink)
    if int(flow.flow_value) < sum(give):
        return None
    moved = flow.flow
    quotas = ((e, r, int(moved[1 + e, 1 + experts + r])) for e, r in pairs)
    return [(e, r, quota) for e, r, quota in quotas if quota > 0]


def _named(domain: _Domain, quotas: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    return [(int(domain.experts[e]), domain.first + r, quota) for e, r, quota in quotas]


def _result(value: int, bound: int, tau: int, parts: list[_Part], begin: float) -> ExactResult:
    replicas = sorted(replica for part in parts for replica in part[2])
    table = np.array(replicas, np.int64).reshape(-1, 3)
    status: Status = "optimal" if value == bound else "time limit"
    return ExactResult(
        value, bound, status, tau, table[:, 0].astype(np.int32), table[:, 1].astype(np.int32),
        table[:, 2].copy(), time.perf_counter() - begin,
    )  # fmt: skip


def _started(time_limit_s: float) -> float:
    if not time_limit_s > 0:
        raise PolicyError("time limit is not positive", place="time_limit_s", value=time_limit_s)
    _scipy()
    return time.perf_counter()


def _left(begin: float, time_limit_s: float) -> float:
    return begin + time_limit_s - time.perf_counter()


def _scipy() -> tuple[Any, Any]:
    try:
        from scipy import optimize, sparse
    except ImportError as error:
        raise PolicyError(
            "the exact program needs scipy, which is not installed",
            place="ultraep_sim.planning.exact",
            remedy="pip install scipy",
        ) from error
    return optimize, sparse
