"""The hottest rank of each scale-up domain gives part of its hottest expert to the coldest.

Repeated while it helps. It opens a replica for half of the gap between the two, so it never makes
any rank the new hottest, and it is done when no pair is left that gains.
"""

import time

import numpy as np

from ultraep_sim.errors import PolicyError
from ultraep_sim.model.provenance import Quantity
from ultraep_sim.planning import expert_loads
from ultraep_sim.planning.assemble import plan_from_replicas
from ultraep_sim.policies.base import EXCHANGE, REROUTE, TASKS, DecisionPrice, Policy

SOLVE = Quantity(
    200.0, "us", "assumed", "a few dozen steps of plain Python on the host", 50.0, 1000.0
)


class Pairwise(Policy):
    """Pair the hottest rank with the coldest, and share the hottest expert between them.

    Parameters
    ----------
    layout : EPLayout
    max_replicas : int, optional
        Stop after this many replicas in a scale-up domain; default when nothing is gained.
    """

    name = "pairwise"
    summary = "the hottest rank shares its hottest expert with the coldest, again and again"
    sees = "the exact loads of the micro-batch"
    acts = "every layer, every micro-batch"
    costs = "count exchange, solve on the host, task lists, replica weights streamed"
    exact = True
    never_worse = True

    def __init__(self, layout, *, max_replicas: int | None = None):
        super().__init__(layout)
        if max_replicas is not None and (
            isinstance(max_replicas, bool) or not isinstance(max_replicas, int) or max_replicas < 0
        ):
            raise PolicyError(
                "not a whole number", place="max_replicas", value=max_replicas,
                remedy="give 0 or more, or leave it out",
            )  # fmt: skip
        self._limit = max_replicas

    def plan(self, loads, state):
        """Plan one layer and micro-batch from ``loads``, int64 [sources, experts]."""
        total = expert_loads(loads)
        begin = time.perf_counter_ns()
        replicas = []
        for first in range(0, self.layout.num_ranks, self.layout.domain):
            last = min(first + self.layout.domain, self.layout.num_ranks)
            replicas += self._share(total, np.arange(first, last))
        elapsed_us = (time.perf_counter_ns() - begin) / 1e3
        table = np.array(replicas, np.int64).reshape(-1, 3)
        return plan_from_replicas(
            self.layout, loads, table[:, 0].astype(np.int32), table[:, 1].astype(np.int32),
            table[:, 2].copy(), policy=self.name, solve_us=elapsed_us,
        )  # fmt: skip

    def _share(self, total, ranks):
        """Return the replicas of one domain: (expert, rank, quota)."""
        home = self.layout.home
        load = np.bincount(home, total, minlength=self.layout.num_ranks).astype(np.int64)
        left = total.copy()  # what each main still keeps
        free = np.full(self.layout.num_ranks, self.layout.slots_per_rank)
        replicas = []
        while self._limit is None or len(replicas) < self._limit:
            hot = ranks[load[ranks].argmax()]
            mains = np.flatnonzero(home == hot)
            open_ranks = ranks[free[ranks] > 0]
            if not mains.size or not open_ranks.size:
                break
            expert = mains[left[mains].argmax()]
            hosts = {rank for e, rank, _ in replicas if e == expert}
            cold = min(set(open_ranks) - hosts - {hot}, key=lambda r: (load[r], r), default=None)
            if cold is None:
                break
            quota = min((load[hot] - load[cold]) // 2, left[expert] - 1)
            if quota < 1:
                break
            replicas.append((expert, cold, quota))
            load[hot] -= quota
            load[cold] += quota
            left[expert] -= quota
            free[cold] -= 1
        return replicas

    def price(self):
        """Return what a decision costs: as ultraep's, with a solve of our own."""
        return DecisionPrice(EXCHANGE, SOLVE, TASKS, REROUTE, "stream", relay=True)
