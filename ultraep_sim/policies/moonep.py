"""MoonEP: every rank gets exactly the same number of rows.

Source: written from the description in the design notes. Rows are first moved between ranks, then
experts are found for them: the rank with the largest surplus fills the rank with the largest
deficit *completely*, even if that makes it a rank with a deficit. So every rank is filled by one
other rank at most, and the experts it is lent all come from there: as many as a rank has mains.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..model.provenance import Quantity
from ..planning import EPLayout, Plan, expert_loads
from ..planning.assemble import plan_from_replicas
from .base import EXCHANGE, REROUTE, TASKS, DecisionPrice, Policy, PolicyState

SOLVE = Quantity(
    30.0, "us", "assumed", "one pass over ranks and one over experts, simpler than 56 us", 10, 100
)


class MoonEP(Policy):
    """Equal rows on every rank of a scale-up domain, to the token.

    Where the ranks do not divide a domain's rows, its most loaded ranks hold one more. Sources do
    not matter: rows move, and tokens with them, without regard to where they start.

    Parameters
    ----------
    layout : EPLayout
        It needs as many slots as the most mains of a rank (experts / ranks), and takes them.
    """

    name = "moonep"
    summary = "MoonEP: exactly equal rows on every rank, experts lent from one rank each"
    sees = "the exact loads of the micro-batch"
    acts = "every layer, every micro-batch"
    costs = "count exchange, solve, task lists, weights streamed; slots for experts / ranks"
    never_worse = True

    def __init__(self, layout: EPLayout) -> None:
        needed = int(layout.mains_per_rank.max())
        super().__init__(
            dataclasses.replace(layout, slots_per_rank=max(layout.slots_per_rank, needed))
        )
        self._by_home = np.argsort(layout.home, kind="stable")
        self._start = np.concatenate(([0], np.cumsum(layout.mains_per_rank)))
        room = layout.num_ranks * needed
        self._expert = np.empty(room, np.int32)
        self._rank = np.empty(room, np.int32)
        self._quota = np.empty(room, np.int64)

    def plan(self, loads: NDArray[np.int64], state: PolicyState) -> Plan:
        """Move rows, then find experts for them."""
        total = expert_loads(loads)
        begin = time.perf_counter_ns()
        n = _solve(
            total, self._by_home, self._start, self.layout.domain,
            self._expert, self._rank, self._quota,
        )  # fmt: skip
        elapsed_us = (time.perf_counter_ns() - begin) / 1e3
        return plan_from_replicas(
            self.layout, loads, self._expert[:n].copy(), self._rank[:n].copy(),
            self._quota[:n].copy(), policy=self.name, locality=False, solve_us=elapsed_us,
        )  # fmt: skip

    def price(self) -> DecisionPrice:
        """Return an exact decision whose weights are streamed directly."""
        return DecisionPrice(EXCHANGE, SOLVE, TASKS, REROUTE, "stream")


@njit(cache=True)
def _solve(  # type: ignore[no-untyped-def]  # numba kernel: shapes in MoonEP.__init__
    loads, by_home, start, domain, out_expert, out_rank, out_quota
):
    ranks = start.shape[0] - 1
    left = loads.copy()  # rows of each expert its home has not given away
    surplus = np.zeros(ranks, np.int64)
    n = 0
    for begin in range(0, ranks, domain):
        end = min(begin + domain, ranks)
        _surpluses(loads, by_home, start, begin, end, surplus)
        while True:
            giver = begin + np.argmax(surplus[begin:end])
            taker = begin + np.argmin(surplus[begin:end])
            if surplus[giver] <= 0:  # they sum to zero: all are
                break
            rows = -surplus[taker]
            surplus[taker] = 0
            surplus[giver] -= rows
            while rows > 0:
                best = by_home[start[giver]]
                for i in range(start[giver], start[giver + 1]):
                    if left[by_home[i]] > left[best]:
                        best = by_home[i]
                part = min(rows, left[best])
                left[best] -= part
                rows -= part
                out_expert[n] = best
                out_rank[n] = taker
                out_quota[n] = part
                n += 1
    return n


@njit(cache=True)
def _surpluses(loads, by_home, start, begin, end, surplus):  # type: ignore[no-untyped-def]
    """Fill load minus target; the most loaded ranks take the remainder, ties the lower rank."""
    for r in range(begin, end):
        surplus[r] = 0
        for i in range(start[r], start[r + 1]):
            surplus[r] += loads[by_home[i]]
    order = np.argsort(-surplus[begin:end], kind="mergesort")
    total = surplus[begin:end].sum()
    base = total // (end - begin)
    more = total % (end - begin)
    for r in range(begin, end):
        surplus[r] -= base
    for k in range(more):
        surplus[begin + order[k]] -= 1
