"""UltraEP's quota-driven planning on the exact load of every micro-batch."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from ..model.provenance import Quantity
from ..planning import EPLayout, Plan, QuotaOptions, QuotaSolver, expert_loads
from ..planning.assemble import plan_from_replicas
from ..planning.replicas import Replicas
from .base import EXCHANGE, REROUTE, TASKS, DecisionPrice, Policy, PolicyState

SOLVE = Quantity(56.0, "us", "published", "UltraEP hot path of one forward layer, planning")


class UltraEP(Policy):
    """The published planner (arXiv 2606.04101), see `ultraep_sim.planning.quota`.

    Parameters
    ----------
    layout : EPLayout
    target : float
        Max over mean rank load to aim at.
    min_quota : int
        Smallest quota a new replica should have; soft.
    """

    name = "ultraep"
    summary = "UltraEP's quota planner: exact loads, few replicas, streamed weights"
    sees = "the exact loads of the micro-batch"
    acts = "every layer, every micro-batch"
    costs = "count exchange, solve, task lists, replica weights streamed (relayed when hot)"
    never_worse = True

    def __init__(self, layout: EPLayout, *, target: float = 1.01, min_quota: int = 0) -> None:
        super().__init__(layout)
        self._options = QuotaOptions(target, min_quota)
        self._solver = QuotaSolver(layout)

    def plan(self, loads: NDArray[np.int64], state: PolicyState) -> Plan:
        """Solve for the exact loads."""
        total = expert_loads(loads)
        begin = time.perf_counter_ns()
        solution = self._solver.solve(total, self._options)
        elapsed_us = (time.perf_counter_ns() - begin) / 1e3
        return plan_from_replicas(
            self.layout, loads, solution.expert, solution.rank, solution.quota,
            policy=self.name, tau=solution.tau, solve_us=elapsed_us,
        )  # fmt: skip

    def plan_block(self, totals: NDArray[np.int64]) -> Replicas:
        """Solve for the exact loads of every record."""
        return self._solver.solve_many(totals, self._options)[1]

    def price(self) -> DecisionPrice:
        """Return the published hot path."""
        return DecisionPrice(EXCHANGE, SOLVE, TASKS, REROUTE, "stream", relay=True)
