"""LPLB: copies along a fixed graph, and a linear program on the exact load of every micro-batch.

Source: DeepSeek's public LPLB, written from its description. EPLB's order puts the mains; each
rank's hottest experts get exactly one copy each on a neighbour of the rank; every micro-batch the
load of each expert with a copy is split over its two instances so that the busiest rank has least.
The published solver is a batched interior-point method on the GPU. Here the same program is solved
exactly (see `ultraep_sim.planning.splitting`): its optimum in whole tokens is the linear one
rounded up.
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..model.provenance import Quantity
from ..planning import EPLayout, Plan
from ..planning.splitting import split_min_max
from .base import EXCHANGE, REROUTE, DecisionPrice, PolicyState, nothing, one_of
from .eplb import Placement, number_slots, received
from .history import HistoryPolicy
from .replication import pack

SOLVE = Quantity(
    100.0, "us", "published", "LPLB's own figure for its solver in a node; longer beyond", 100, 400
)
MAX_DEGREE = 4
CUBE, HYPERCUBE = 8, 16


class LPLB(HistoryPolicy):
    """Two instances of each rank's hottest experts, split by a linear program.

    The placement comes from history and is renewed at a cadence; before there is history the mains
    are at home and the lowest experts of each rank have the copies. A rank sends and receives as
    many copies as it has slots and its graph has edges, four at most.

    Parameters
    ----------
    layout : EPLayout
    cadence_steps : int
        Global batches between two placements.
    window_steps : int, optional
        Global batches the mean is taken over; default the cadence.
    order : {"eplb", "home"}
        Where the mains are: as EPLB packs them without replicas, or at home.
    migration : {"migrate", "free"}
        Whether moving weights takes time, as for ``eplb``.
    """

    name = "lplb"
    summary = "LPLB: one copy of each hot expert along a cube, split by a linear program"
    sees = "the mean load of the last window to place; the exact loads to split"
    acts = "places every cadence_steps global batches; splits every layer, every micro-batch"
    costs = "count exchange and the linear program every time; weights that move at a re-plan"
    moves_mains = True
    may_cross = True

    def __init__(
        self,
        layout: EPLayout,
        *,
        cadence_steps: int = 3,
        window_steps: int | None = None,
        order: str = "eplb",
        migration: str = "migrate",
    ) -> None:
        super().__init__(layout, cadence_steps, window_steps, migration)
        one_of("order", order, ("eplb", "home"))
        self._packs = order == "eplb"
        self._targets, self._bounds = copy_graph(layout)

    def plan(self, loads: NDArray[np.int64], state: PolicyState) -> Plan:
        """Split the exact loads over the two instances of every copied expert."""
        if state.placement is None:
            nobody = np.zeros(self.layout.num_experts, np.int64)
            state.placement = (self._place(nobody, self.layout.home), state.since)
        placement, placed_at = state.placement
        weights = self.renewal(state, placed_at)
        if weights is not None:
            old, placement = placement, self._renew(weights)
            state.placement = (placement, state.step)
            state.moved = received(self.layout, old, placement)
        begin = time.perf_counter_ns()
        split = split_min_max(loads.sum(axis=0), placement.offsets, placement.rank, self._bounds)
        elapsed_us = (time.perf_counter_ns() - begin) / 1e3
        return Plan(
            self.layout, loads, placement.offsets, placement.rank, placement.slot, split.quota,
            policy=self.name, tau=split.tau, locality=False, moves_mains=self._packs,
            may_cross=self._packs, solve_us=elapsed_us,
        )  # fmt: skip

    def _renew(self, weights: NDArray[np.int64]) -> Placement:
        if not self._packs:
            return self._place(weights, self.layout.home)
        ranks = self.layout.num_ranks
        return self._place(weights, pack(weights.astype(np.float64), ranks).astype(np.int32))

    def _place(self, weights: NDArray[np.int64], host: NDArray[np.int32]) -> Placement:
        """Copy the hottest experts of each rank to its neighbours; hottest first."""
        experts = self.layout.num_experts
        hottest = np.lexsort((np.arange(experts), -weights, host))
        first = np.searchsorted(host[hottest], host[hottest])  # where each expert's rank begins
        order = np.arange(experts) - first
        copied = order < self._targets.shape[1]
        expert = hottest[copied]
        target = self._targets[host[expert], order[copied]]
        expert, target = expert[target >= 0], target[target >= 0]
        every = np.concatenate((np.arange(experts), expert))
        by_expert = np.argsort(every, kind="stable")  # mains precede copies
        counts = np.bincount(every, minlength=experts)
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        rank = np.concatenate((host, target)).astype(np.int32)[by_expert]
        return Placement(offsets, rank, number_slots(offsets, rank, self.layout.num_ranks))

    def price(self) -> DecisionPrice:
        """Return exchange and solver every micro-batch; no weights between two placements."""
        return DecisionPrice(
            EXCHANGE, SOLVE, nothing("the copies are in place"), REROUTE,
            self._transport,
        )  # fmt: skip


def copy_graph(layout: EPLayout) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Say where the copies of each rank go.

    A group of 16 ranks in all is a hypercube, oriented so that every rank sends along two of its
    four edges and receives along the other two. Otherwise each scale-up domain is cut into cubes of
    8 consecutive ranks with diagonal edges: rank ``4 f + k`` sends along the edge to the next of
    its face, then from face 0 straight across and from face 1 to the opposite corner. Copies three
    and four go the other way along the same edges. What is left of a domain is a ring whose k-th
    copies go k ranks on.

    Parameters
    ----------
    layout : EPLayout
        Its slots limit the copies of a rank.

    Returns
    -------
    targets : ndarray of int64, shape [ranks, degree]
        Rank that hosts the copy of each rank's k-th hottest expert; -1 for none.
    bounds : ndarray of int64, shape [blocks + 1]
        Copies stay in blocks of consecutive ranks ``bounds[b]:bounds[b + 1]``.
    """
    ranks = layout.num_ranks
    degree = min(layout.slots_per_rank, MAX_DEGREE)
    bounds = [0]
    while bounds[-1] < ranks:
        left = min(ranks, (bounds[-1] // layout.domain + 1) * layout.domain) - bounds[-1]
        whole = left if ranks == left == HYPERCUBE else min(left, CUBE)
        bounds.append(bounds[-1] + whole)
    targets = np.full((ranks, degree), -1, np.int64)
    for begin, end in pairwise(bounds):
        edges = _edges(end - begin)[:, :degree]
        targets[begin:end, : edges.shape[1]] = begin + edges
    return targets, np.array(bounds)


def _edges(size: int) -> NDArray[np.int64]:
    """Return the neighbours of each rank of a block, in the order copies are made."""
    p = np.arange(size)
    if size == HYPERCUBE:
        row, column = p // 4, p % 4
        ways = [(0, 1), (1, 0), (0, 3), (3, 0)]
        return np.stack([(row + a) % 4 * 4 + (column + b) % 4 for a, b in ways], axis=1)
    if size == CUBE:
        face, k = p // 4, p % 4
        other = 4 * (1 - face)
        forward, back = 4 * face + (k + 1) % 4, 4 * face + (k + 3) % 4
        across, opposite = other + k, other + (k + 2) % 4
        cross = np.where(face == 0, across, opposite)
        return np.stack((forward, cross, back, np.where(face == 0, opposite, across)), axis=1)
    steps = range(1, min(size, MAX_DEGREE + 1))
    return np.array([(p + k) % size for k in steps], np.int64).reshape(-1, size).T
