"""Forced balance: the router itself is overruled, so every rank gets the same.

The yardstick of the field, not a policy anyone can run: it changes what the model computes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..planning import Plan
from ..planning.assemble import even_quotas
from ..planning.reroute import split_tokens
from .base import DecisionPrice, Policy, PolicyState, nothing


class Ideal(Policy):
    """Every rank gets total / ranks pairs, spread evenly over its experts.

    A rank without a main (fewer experts than ranks) is lent expert ``rank mod experts``.
    """

    name = "ideal"
    summary = "forced balance: the router is overruled (the yardstick, not runnable)"
    sees = "the total only"
    acts = "every micro-batch"
    costs = "nothing; changes what the model computes"
    never_worse = True
    sees_totals_only = True

    def plan(self, loads: NDArray[np.int64], state: PolicyState) -> Plan:
        """Replace the loads by balanced ones with the same total at every source."""
        offsets, rank, slot, share = self._instances(int(loads.sum()))
        wanted = np.add.reduceat(share, offsets[:-1])
        ends = np.array([0, len(wanted)])
        balanced = split_tokens(
            loads.sum(axis=1, keepdims=True), ends, np.zeros(len(wanted), np.int32), wanted,
            locality=False,
        )  # fmt: skip
        return Plan(
            self.layout, balanced, offsets, rank, slot, share, policy=self.name,
            forced=True, may_cross=True,
        )  # fmt: skip

    def _instances(
        self, total: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
        layout = self.layout
        lent = np.flatnonzero(layout.mains_per_rank == 0)
        expert = np.concatenate((np.arange(layout.num_experts), lent % layout.num_experts))
        rank = np.concatenate((layout.home, lent)).astype(np.int32)
        order = np.argsort(expert, kind="stable")  # mains precede what is lent
        slot = np.where(order < layout.num_experts, -1, 0).astype(np.int32)
        expert, rank = expert[order], rank[order]
        offsets = np.concatenate(([0], np.cumsum(np.bincount(expert)))).astype(np.int64)
        return offsets, rank, slot, _equal_shares(total, rank, layout.num_ranks)

    def price(self) -> DecisionPrice:
        """Return zero everywhere."""
        zero = nothing("forced balance is the yardstick")
        return DecisionPrice(zero, zero, zero, zero, "none")


def _equal_shares(total: int, rank: NDArray[np.int32], num_ranks: int) -> NDArray[np.int64]:
    """Spread ``total`` over ranks, then over each rank's instances; int64 [instances]."""
    by_rank = even_quotas(np.array([total]), np.array([0, num_ranks]))
    order = np.argsort(rank, kind="stable")
    offsets = np.concatenate(([0], np.cumsum(np.bincount(rank, minlength=num_ranks))))
    share = np.empty(len(rank), np.int64)
    share[order] = even_quotas(by_rank, offsets)
    return share
