"""LLEP: what does not fit at home spills to the least-loaded ranks, in chunks worth a copy.

Source: least-loaded expert parallelism, written from the description in the design notes.
"""

from __future__ import annotations

import time

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..errors import PolicyError
from ..model.provenance import Quantity
from ..planning import EPLayout, Plan, expert_loads
from ..planning.assemble import plan_from_replicas
from .base import EXCHANGE, REROUTE, TASKS, DecisionPrice, Policy, PolicyState, positive

SOLVE = Quantity(
    50.0, "us", "assumed", "one greedy pass over sorted experts, no published figure", 20.0, 500.0
)
SCALE = 10_000  # options are kept in 1/10000, so that the decision is integer


class LLEP(Policy):
    """Spill from overloaded ranks, experts by load, to the least-loaded rank.

    Balanced enough (max over mean expert load below ``threshold``), nothing is done. Otherwise
    experts are visited by load, largest first. An expert keeps at home what fits beside its home's
    other load (capacity: ``capacity_factor`` x mean rank load of the domain). The rest goes to the
    least-loaded rank with a free slot, as much as fits there, then to the next, in chunks of at
    least ``min_chunk``; a smaller rest stays at home.

    Parameters
    ----------
    layout : EPLayout
        The published method reserves no slots and copies what it needs; here the slots are its
        limit. Give it more to see it unhindered.
    threshold : float
        Max over mean expert load from which it acts.
    capacity_factor : float
        Capacity of a rank over the mean rank load.
    min_chunk : int
        Fewest tokens worth copying an expert's weights for.
    """

    name = "llep"
    summary = "LLEP: overflow goes in large chunks to the least-loaded rank"
    sees = "the exact loads of the micro-batch"
    acts = "every layer, every micro-batch, where max/mean expert load reaches the threshold"
    costs = "count exchange, solve, task lists, weights copied peer to peer"
    never_worse = True

    def __init__(
        self,
        layout: EPLayout,
        *,
        threshold: float = 1.3,
        capacity_factor: float = 1.0,
        min_chunk: int = 1024,
    ) -> None:
        super().__init__(layout)
        for name, value in (("threshold", threshold), ("capacity_factor", capacity_factor)):
            if not 1.0 <= value <= SCALE:  # also refuses NaN
                raise PolicyError(
                    "out of range", place=name, value=value, remedy=f"give 1.0 to {SCALE}"
                )
        self._threshold = round(threshold * SCALE)
        self._capacity = round(capacity_factor * SCALE)
        self._min_chunk = positive("min_chunk", min_chunk)
        room = layout.num_ranks * layout.slots_per_rank
        self._expert = np.empty(room, np.int32)
        self._rank = np.empty(room, np.int32)
        self._quota = np.empty(room, np.int64)

    def plan(self, loads: NDArray[np.int64], state: PolicyState) -> Plan:
        """Spill where the loads call for it."""
        total = expert_loads(loads)
        begin = time.perf_counter_ns()
        n = 0
        if int(total.max()) * len(total) * SCALE >= self._threshold * int(total.sum()):
            n = _spill(
                total, self.layout.home, self.layout.num_ranks, self.layout.domain,
                self.layout.slots_per_rank, self._capacity, self._min_chunk,
                self._expert, self._rank, self._quota,
            )  # fmt: skip
        elapsed_us = (time.perf_counter_ns() - begin) / 1e3
        return plan_from_replicas(
            self.layout, loads, self._expert[:n].copy(), self._rank[:n].copy(),
            self._quota[:n].copy(), policy=self.name, locality=False, solve_us=elapsed_us,
        )  # fmt: skip

    def price(self) -> DecisionPrice:
        """Return an exact decision; weights go directly from the home, without relay."""
        return DecisionPrice(EXCHANGE, SOLVE, TASKS, REROUTE, "stream")


@njit(cache=True)
def _spill(  # type: ignore[no-untyped-def]  # numba kernel: shapes in LLEP.__init__
    loads, home, ranks, domain, slots, capacity, min_chunk, out_expert, out_rank, out_quota
):
    load = np.zeros(ranks, np.int64)
    for e in range(loads.shape[0]):
        load[home[e]] += loads[e]
    limit = np.zeros(ranks, np.int64)
    for begin in range(0, ranks, domain):
        end = min(begin + domain, ranks)
        parts = (end - begin) * SCALE
        limit[begin:end] = (load[begin:end].sum() * capacity + parts - 1) // parts
    free = np.full(ranks, slots)
    has = np.full(ranks, -1)
    n = 0
    for e in np.argsort(-loads, kind="mergesort"):
        at = home[e]
        begin = at // domain * domain
        end = min(begin + domain, ranks)
        rest = min(load[at] - limit[at], loads[e])
        has[at] = e
        while rest >= min_chunk:
            best = -1
            for r in range(begin, end):
                if free[r] > 0 and has[r] != e and (best < 0 or load[r] < load[best]):
                    best = r
            if best < 0:
                break
            chunk = min(rest, limit[best] - load[best])
            if chunk < min_chunk:
                break  # the least-loaded rank has the most room
            out_expert[n] = e
            out_rank[n] = best
            out_quota[n] = chunk
            n += 1
            free[best] -= 1
            has[best] = e
            load[best] += chunk
            load[at] -= chunk
            rest -= chunk
    return n
