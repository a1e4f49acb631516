"""EPLB: placements from history, re-planned now and then, even split over replicas.

Source: DeepSeek's public EPLB algorithm, written from its description; the rules themselves are
in `ultraep_sim.policies.replication`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..planning import EPLayout, Plan
from ..planning.assemble import even_quotas
from .base import DecisionPrice, PolicyState, nothing, positive
from .history import HistoryPolicy
from .replication import pack, rebalance, replicate


class Placement(NamedTuple):
    """Which rank hosts which instance; grouped by expert as in a `Plan`."""

    offsets: NDArray[np.int64]
    rank: NDArray[np.int32]
    slot: NDArray[np.int32]


class EPLB(HistoryPolicy):
    """DeepSeek's expert-parallel load balancer on the mean of a past window.

    Every rank holds ceil(experts / ranks) + slots instances, and mains move. Before there is
    history the mains are at home. It may put two instances of one expert on one rank.

    Parameters
    ----------
    layout : EPLayout
    cadence_steps : int
        Global batches between two placements (published: 3 in training, 50 in prefill).
    window_steps : int, optional
        Global batches the mean is taken over; default the cadence.
    migration : {"migrate", "free"}
        Whether moving weights takes time. The published EPLB rows were taken with near-zero-cost
        migration.
    num_groups, num_nodes : int
        Hierarchical mode: groups of consecutive experts stay together on one of ``num_nodes``
        nodes of consecutive ranks, replicas inside the node. One group and one node, the
        default, is global mode.

    Attributes
    ----------
    fallback : str or None
        Why hierarchical mode was asked for and global mode is used: numbers that do not divide.
    """

    name = "eplb"
    summary = "DeepSeek's EPLB: placement from history, re-planned at a cadence"
    sees = "the mean load of the last window of global batches"
    acts = "every cadence_steps global batches; splits evenly in between"
    costs = "weights that move at a re-plan; the decision itself is off the critical path"
    moves_mains = True
    may_cross = True

    def __init__(
        self,
        layout: EPLayout,
        *,
        cadence_steps: int = 3,
        window_steps: int | None = None,
        migration: str = "migrate",
        num_groups: int = 1,
        num_nodes: int = 1,
    ) -> None:
        super().__init__(layout, cadence_steps, window_steps, migration)
        self._groups = positive("num_groups", num_groups)
        self._nodes = positive("num_nodes", num_nodes)
        self.fallback = _why_global(layout, num_groups, num_nodes)

    def _place(self, weights: NDArray[np.int64]) -> Placement:
        if self._groups == self._nodes == 1 or self.fallback:
            return place_globally(self.layout, weights)
        return place_hierarchically(self.layout, weights, self._groups, self._nodes)

    def plan(self, loads: NDArray[np.int64], state: PolicyState) -> Plan:
        """Split the loads evenly over the placement the history gave."""
        if state.placement is None:
            state.placement = (at_home(self.layout), state.since)
        placement, placed_at = state.placement
        weights = self.renewal(state, placed_at)
        if weights is not None:
            old, placement = placement, self._place(weights)
            state.placement = (placement, state.step)
            state.moved = received(self.layout, old, placement)
        return Plan(
            self.layout, loads, placement.offsets, placement.rank, placement.slot,
            even_quotas(loads.sum(axis=0), placement.offsets),
            policy=self.name, locality=False, moves_mains=True, may_cross=True,
        )  # fmt: skip

    def price(self) -> DecisionPrice:
        """Return zero for the decision; moving weights is charged when they move."""
        zero = nothing("planned on the host beside the running batch")
        return DecisionPrice(
            zero, zero, zero, nothing("a static table maps tokens"), self._transport, hidden=True
        )


def place_globally(layout: EPLayout, weights: NDArray[np.int64]) -> Placement:
    """Replicate, then pack all instances onto ranks of equal instance count.

    Parameters
    ----------
    layout : EPLayout
        Its homes and domains do not matter here.
    weights : ndarray of int64, shape [experts]
        Expected load of each expert; only proportions matter.
    """
    ranks = layout.num_ranks
    capacity = -(-layout.num_experts // ranks) + layout.slots_per_rank
    copies = replicate(weights, ranks * capacity - layout.num_experts)
    offsets = np.concatenate(([0], np.cumsum(copies))).astype(np.int64)
    rank = pack(np.repeat(weights / copies, copies), ranks).astype(np.int32)
    return Placement(offsets, rank, number_slots(offsets, rank, ranks))


def place_hierarchically(
    layout: EPLayout, weights: NDArray[np.int64], num_groups: int, num_nodes: int
) -> Placement:
    """Keep expert groups on nodes, replicate inside nodes, pack onto the node's ranks.

    Parameters
    ----------
    layout : EPLayout
    weights : ndarray of int64, shape [experts]
    num_groups, num_nodes : int
        Must divide, see `ultraep_sim.policies.replication.rebalance`.
    """
    ranks = layout.num_ranks
    capacity = -(-layout.num_experts // ranks) + layout.slots_per_rank
    expert = rebalance(weights, ranks * capacity, num_groups, num_nodes, ranks)
    order = np.argsort(expert, kind="stable")
    rank = (order // capacity).astype(np.int32)
    counts = np.bincount(expert, minlength=layout.num_experts)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return Placement(offsets, rank, number_slots(offsets, rank, ranks))


def _why_global(layout: EPLayout, num_groups: int, num_nodes: int) -> str | None:
    for whole, part, text in (
        (num_groups, num_nodes, "num_nodes does not divide num_groups"),
        (layout.num_experts, num_groups, "num_groups does not divide the experts"),
        (layout.num_ranks, num_nodes, "num_nodes does not divide the ranks"),
    ):
        if whole % part:
            return f"{text} ({whole} % {part}): placed globally"
    return None


def at_home(layout: EPLayout) -> Placement:
    """Return the placement before any balancing."""
    offsets = np.arange(layout.num_experts + 1, dtype=np.int64)
    return Placement(offsets, layout.home.copy(), np.full(layout.num_experts, -1, np.int32))


def number_slots(
    offsets: NDArray[np.int64], rank: NDArray[np.int32], ranks: int
) -> NDArray[np.int32]:
    """Give each rank's replicas a number; the first instance of an expert is its main (-1)."""
    slot = np.full(len(rank), -1, np.int32)
    is_main = np.zeros(len(rank), bool)
    is_main[offsets[:-1]] = True
    used = np.zeros(ranks, np.int32)
    for i in np.flatnonzero(~is_main):
        slot[i] = used[rank[i]]
        used[rank[i]] += 1
    return slot


def received(layout: EPLayout, old: Placement, new: Placement) -> NDArray[np.int64]:
    """Count the experts each rank holds now and did not hold before, int64 [ranks]."""
    key_old, key_new = _held(old, layout.num_ranks), _held(new, layout.num_ranks)
    arrived = np.setdiff1d(key_new, key_old)
    return np.bincount(arrived % layout.num_ranks, minlength=layout.num_ranks)


def _held(placement: Placement, ranks: int) -> NDArray[np.int64]:
    counts = np.diff(placement.offsets)
    return np.repeat(np.arange(len(counts)), counts) * ranks + placement.rank
