"""A plan: which instances an expert has, and how many tokens each of them will process."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from .layout import EPLayout
from .loads import spread_evenly
from .reroute import split_tokens


@dataclass(frozen=True, eq=False)
class Plan:
    """Instances with quotas for one layer and micro-batch, sparse and grouped by expert.

    Parameters
    ----------
    layout : EPLayout
    loads : ndarray of int64, shape [sources, experts]
        What the plan serves: the exact loads, or for a forced balance the balanced ones.
    offsets : ndarray of int64, shape [experts + 1]
        Instances of expert ``e`` are ``offsets[e]:offsets[e + 1]``; the first is the main.
    rank, slot : ndarray of int32, shape [instances]
        Host, and redundant slot on it; slot -1 for a main.
    quota : ndarray of int64, shape [instances]
        Tokens the instance processes.
    policy : str
        Who made it.
    tau : int, optional
        Threshold of the quota planner.
    locality : bool
        Whether a source uses its own instance first.
    moves_mains, forced, may_cross : bool
        The plan does not keep mains at home; it changes the routing itself (``ideal``); its
        replicas may leave the home's scale-up domain.
    solve_us : float, optional
        Measured time of the solving kernel on this machine, microseconds.
    """

    layout: EPLayout
    loads: NDArray[np.int64] = field(repr=False)
    offsets: NDArray[np.int64] = field(repr=False)
    rank: NDArray[np.int32] = field(repr=False)
    slot: NDArray[np.int32] = field(repr=False)
    quota: NDArray[np.int64] = field(repr=False)
    policy: str = ""
    tau: int | None = None
    locality: bool = True
    moves_mains: bool = False
    forced: bool = False
    may_cross: bool = False
    solve_us: float | None = None

    @cached_property
    def expert(self) -> NDArray[np.int32]:
        """Expert of each instance, int32 [instances]."""
        counts = np.diff(self.offsets)
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    @cached_property
    def is_replica(self) -> NDArray[np.bool_]:
        """Whether an instance is a replica, bool [instances]."""
        return self.slot >= 0

    @cached_property
    def rank_loads(self) -> NDArray[np.int64]:
        """Tokens each rank processes, int64 [ranks]."""
        out = np.zeros(self.layout.num_ranks, np.int64)
        np.add.at(out, self.rank, self.quota)
        return out

    @cached_property
    def rank_loads_before(self) -> NDArray[np.int64]:
        """Tokens each rank would process without this plan, int64 [ranks]."""
        out = np.zeros(self.layout.num_ranks, np.int64)
        np.add.at(out, self.layout.home, self.loads.sum(axis=0))
        return out

    @property
    def imbalance(self) -> float:
        """Max over mean rank load; 1.0 where there is no load at all."""
        return _imbalance(self.rank_loads)

    @property
    def imbalance_before(self) -> float:
        """Max over mean rank load with every expert at its home only."""
        return _imbalance(self.rank_loads_before)

    @property
    def num_replicas(self) -> int:
        """Instances beyond the mains."""
        return len(self.rank) - len(self.offsets) + 1

    @property
    def fanout(self) -> NDArray[np.int64]:
        """Replicas of each expert, int64 [experts]."""
        return np.diff(self.offsets) - 1

    @property
    def max_fanout(self) -> int:
        """Most replicas of one expert."""
        return int(self.fanout.max())

    @cached_property
    def sends_per_rank(self) -> NDArray[np.int64]:
        """Replicas whose main each rank hosts: weight copies it sends directly, int64 [ranks]."""
        out = np.zeros(self.layout.num_ranks, np.int64)
        np.add.at(out, self.rank[self.offsets[:-1]], self.fanout)
        return out

    @cached_property
    def receives_per_rank(self) -> NDArray[np.int64]:
        """Replicas each rank hosts, int64 [ranks]."""
        return np.bincount(self.rank[self.is_replica], minlength=self.layout.num_ranks)

    @cached_property
    def split(self) -> NDArray[np.int64]:
        """Tokens of each source to each instance, int64 [sources, instances]; computed lazily."""
        return split_tokens(self.loads, self.offsets, self.rank, self.quota, locality=self.locality)

    @cached_property
    def remote_fraction(self) -> float:
        """Share of pairs that leave their source rank.

        Where the source is unknown every rank is taken to hold its even share of each expert.
        """
        total = int(self.loads.sum())
        if total == 0:
            return 0.0
        ranks = self.layout.num_ranks
        split = self.split
        if self.loads.shape[0] != ranks:
            spread = spread_evenly(self.loads.sum(axis=0), ranks)
            split = split_tokens(
                spread, self.offsets, self.rank, self.quota, locality=self.locality
            )
        local = split[self.rank, np.arange(len(self.rank))].sum()
        return 1.0 - float(local) / total

    def validate(self, loads: NDArray[np.int64] | None = None) -> None:
        """Check every invariant of a plan.

        Parameters
        ----------
        loads : ndarray of int64, shape [sources, experts] or [experts], optional
            The loads it was asked for; default those it carries.

        Raises
        ------
        PlanError
            Naming the invariant (conservation, slots, duplicates, homes, domains) and the place.
        """
        asked = self.loads if loads is None else np.atleast_2d(np.asarray(loads))
        if np.any(np.diff(self.offsets) < 1):
            raise PlanError("invariant 2: an expert has no instance")
        self._check_conservation(asked)
        self._check_hosts()

    def _check_conservation(self, asked: NDArray[np.int64]) -> None:
        if self.forced:
            if not np.array_equal(asked.sum(axis=1), self.loads.sum(axis=1)):
                raise PlanError("invariant 1: a forced balance changed a source's total")
        elif not np.array_equal(asked, self.loads):
            raise PlanError("invariant 1: the plan was made for other loads")
        if self.quota.size and int(self.quota.min()) < 0:
            raise PlanError(f"invariant 1: negative quota on instance {self.quota.argmin()}")
        quota = np.add.reduceat(self.quota, self.offsets[:-1])
        wrong = np.flatnonzero(quota != self.loads.sum(axis=0))
        if wrong.size:
            raise PlanError(f"invariant 1: quotas of expert {wrong[0]} do not sum to its load")
        if self.split.size and int(self.split.min()) < 0:
            raise PlanError("invariant 1: a split is negative")
        if not np.array_equal(self.split.sum(axis=0), self.quota):
            raise PlanError("invariant 1: the split over sources does not sum to the quotas")
        by_expert = np.add.reduceat(self.split, self.offsets[:-1], axis=1)
        if not np.array_equal(by_expert, self.loads):
            raise PlanError("invariant 1: the split of a source does not sum to its loads")

    def _check_hosts(self) -> None:
        layout = self.layout
        if np.any((self.rank < 0) | (self.rank >= layout.num_ranks)):
            raise PlanError("invariant 2: an instance is on no rank of the group")
        mains = self.offsets[:-1]
        if np.any(self.slot[mains] >= 0) or self.num_replicas != int(self.is_replica.sum()):
            raise PlanError("invariant 2: the first instance of every expert is its main")
        if self.moves_mains:
            self._check_capacity()
            return
        if np.any(self.rank[mains] != layout.home):
            raise PlanError("invariant 2: a main left its home")
        pairs = self.expert.astype(np.int64) * layout.num_ranks + self.rank
        if np.unique(pairs).size != pairs.size:
            raise PlanError("invariant 2: an expert has two instances on one rank")
        if self.forced:
            return  # no machine can run a forced balance: it needs no slots
        used = self.rank.astype(np.int64) * (layout.slots_per_rank + 1) + self.slot
        used = used[self.is_replica]
        if np.any(self.slot >= layout.slots_per_rank) or np.unique(used).size != used.size:
            raise PlanError("invariant 2: more replicas on a rank than slots, or a slot used twice")
        home = layout.domain_of[layout.home[self.expert]]
        if not self.may_cross and np.any(home != layout.domain_of[self.rank]):
            raise PlanError("invariant 2: a replica left the scale-up domain of its home")

    def _check_capacity(self) -> None:
        layout = self.layout
        capacity = -(-layout.num_experts // layout.num_ranks) + layout.slots_per_rank
        held = np.bincount(self.rank, minlength=layout.num_ranks)
        if int(held.max()) > capacity:
            raise PlanError(f"invariant 2: rank {held.argmax()} holds more than {capacity} experts")

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain numbers and lists: enough to rebuild or apply it."""
        return {
            "policy": self.policy,
            "num_ranks": self.layout.num_ranks,
            "num_experts": self.layout.num_experts,
            "slots_per_rank": self.layout.slots_per_rank,
            "expert": self.expert.tolist(),
            "rank": self.rank.tolist(),
            "slot": self.slot.tolist(),
            "quota": self.quota.tolist(),
            "rank_loads": self.rank_loads.tolist(),
            "imbalance": self.imbalance,
            "tau": self.tau,
        }

    def __str__(self) -> str:
        return (
            f"Plan by {self.policy or '?'}: imbalance {self.imbalance_before:.3f} -> "
            f"{self.imbalance:.3f}, {self.num_replicas} replicas, max fan-out {self.max_fanout}"
        )


def _imbalance(rank_loads: NDArray[np.int64]) -> float:
    total = int(rank_loads.sum())
    return float(rank_loads.max()) * len(rank_loads) / total if total else 1.0
