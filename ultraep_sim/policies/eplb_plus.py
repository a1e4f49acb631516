"""EPLB's replication rule on the exact load of every micro-batch, mains kept home."""

from __future__ import annotations

import time

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..model.provenance import Quantity
from ..planning import EPLayout, Plan, expert_loads
from ..planning.assemble import even_quotas, plan_from_replicas
from .base import EXCHANGE, REROUTE, TASKS, DecisionPrice, Policy, PolicyState
from .replication import _replicate

SOLVE = Quantity(153.0, "us", "published", "UltraEP table 3, EPLB on exact loads, mean solve")


class EPLBPlus(Policy):
    """Fill every slot by EPLB's rule; replicas go to the least-loaded rank that may take them.

    The largest share is placed first. A replica that no rank of its domain can take (no slot, or
    all hold the expert) is dropped. Loads are split evenly, without regard to the source.
    """

    name = "eplb_plus"
    summary = "EPLB's rule on exact loads every micro-batch, mains home, our transport"
    sees = "the exact loads of the micro-batch"
    acts = "every layer, every micro-batch"
    costs = "count exchange, solve, task lists, weights of every slot streamed"

    def __init__(self, layout: EPLayout) -> None:
        super().__init__(layout)
        room = layout.num_ranks * layout.slots_per_rank
        self._expert = np.empty(room, np.int32)
        self._rank = np.empty(room, np.int32)

    def plan(self, loads: NDArray[np.int64], state: PolicyState) -> Plan:
        """Replicate, place and split evenly."""
        layout = self.layout
        total = expert_loads(loads)
        begin = time.perf_counter_ns()
        n = _place(
            total, layout.home, layout.num_ranks, layout.domain, layout.slots_per_rank,
            self._expert, self._rank,
        )  # fmt: skip
        elapsed_us = (time.perf_counter_ns() - begin) / 1e3
        expert, rank = self._expert[:n].copy(), self._rank[:n].copy()
        counts = np.bincount(expert, minlength=layout.num_experts) + 1
        offsets = np.concatenate(([0], np.cumsum(counts)))
        # The main's share is the first of each expert, replicas take theirs in placing order.
        share = even_quotas(total, offsets)
        order = np.argsort(expert, kind="stable")
        quota = np.empty(n, np.int64)
        quota[order] = np.delete(share, offsets[:-1])
        return plan_from_replicas(
            layout, loads, expert, rank, quota,
            policy=self.name, locality=False, solve_us=elapsed_us,
        )  # fmt: skip

    def price(self) -> DecisionPrice:
        """Return the same path as the quota planner with the published solve time."""
        return DecisionPrice(EXCHANGE, SOLVE, TASKS, REROUTE, "stream", relay=True)


@njit(cache=True)
def _place(total, home, ranks, domain, slots, out_expert, out_rank):  # type: ignore[no-untyped-def]
    """Replicate and place domain by domain; return the number of replicas."""
    experts = total.shape[0]
    copies = np.ones(experts, np.int64)
    for begin in range(0, ranks, domain):
        end = min(begin + domain, ranks)
        inside = np.flatnonzero((home >= begin) & (home < end))
        if inside.shape[0] == 0:
            continue
        part = np.ones(inside.shape[0], np.int64)
        _replicate(total[inside], (end - begin) * slots, end - begin, part)
        copies[inside] = part
    share = total / copies
    load = np.zeros(ranks, np.float64)
    for e in range(experts):
        load[home[e]] += share[e]
    free = np.full(ranks, slots)
    has = np.zeros(ranks, np.int64)
    n = 0
    for e in np.argsort(-share, kind="mergesort"):
        begin = home[e] // domain * domain
        end = min(begin + domain, ranks)
        has[home[e]] = e + 1
        for _ in range(copies[e] - 1):
            best = -1
            for r in range(begin, end):
                if free[r] > 0 and has[r] != e + 1 and (best < 0 or load[r] < load[best]):
                    best = r
            if best < 0:
                break
            out_expert[n] = e
            out_rank[n] = best
            n += 1
            free[best] -= 1
            has[best] = e + 1
            load[best] += share[e]
    return n
