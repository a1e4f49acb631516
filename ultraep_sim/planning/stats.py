"""What the time model needs to know of many plans: flat integer arrays, one row a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..errors import PlanError
from .layout import EPLayout
from .plan import Plan
from .relay import fill_candidate, fill_relay
from .replicas import Replicas

NO_ROOM = "invariant 2: a rank computes more instances than mains and slots"


@dataclass(frozen=True)
class LoadStats:
    """Counts of N records on R ranks; every array is int64 unless it says otherwise.

    Attributes
    ----------
    pairs : [N, R]
        Pairs each rank computes after reroute.
    tiles : int32 [N, R, I]
        ceil(quota / tile rows) of every instance with a quota above zero (their weights are read),
        in the order of experts; zero where a rank has fewer. A sum over instances does not tell
        how long they take: each waits for its own weights.
    near_sent, near_received : [N, R]
        Pairs that leave or reach a rank at dispatch inside its scale-up domain; distinct
        (token, rank) visits where the all-to-all de-duplicates (`StatsBuilder.scale_wire`).
    far_sent, far_received : [N, R]
        The same across domains.
    copies_sent, copies_received : [N, R]
        Replica weights a home sends directly, and a rank receives.
    relay_sent : [N, R]
        Copies each rank sends under the relay tree; equal to ``copies_sent`` without one.
    far_copies_sent, far_copies_received : [N, R]
        Those of ``copies_sent`` and ``copies_received`` that cross scale-up domains.
    far_relay_sent, far_relay_received : [N, R]
        The same of ``relay_sent`` and of what a rank receives under the relay tree.
    relayed : bool [N]
        Whether the relay rule found a gain (with ``any_tree``: whether there is a tree).
    crosses : bool [N]
        Whether the group has several domains and the plan may place across them.
    moved_copies : [N, R]
        Expert weights received because a placement changed before this record.
    replicas, max_fanout : [N]
    """

    pairs: NDArray[np.int64]
    tiles: NDArray[np.int32]
    near_sent: NDArray[np.int64]
    near_received: NDArray[np.int64]
    far_sent: NDArray[np.int64]
    far_received: NDArray[np.int64]
    copies_sent: NDArray[np.int64]
    copies_received: NDArray[np.int64]
    relay_sent: NDArray[np.int64]
    far_copies_sent: NDArray[np.int64]
    far_copies_received: NDArray[np.int64]
    far_relay_sent: NDArray[np.int64]
    far_relay_received: NDArray[np.int64]
    relayed: NDArray[np.bool_]
    crosses: NDArray[np.bool_]
    moved_copies: NDArray[np.int64]
    replicas: NDArray[np.int64]
    max_fanout: NDArray[np.int64]

    def head(self, records: int) -> LoadStats:
        """Return the first ``records`` rows (views)."""
        return self.part(slice(records))

    def part(self, rows: slice) -> LoadStats:
        """Return consecutive rows (views)."""
        return LoadStats(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def take(self, rows: NDArray[np.integer[Any]]) -> LoadStats:
        """Return some rows, in the order given (copies)."""
        return LoadStats(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def packed(self) -> LoadStats:
        """Return a copy in int32, half the size: counts of a rank stay below 2^31."""
        return LoadStats(**{f.name: _packed(getattr(self, f.name)) for f in fields(self)})

    @staticmethod
    def joined(parts: Sequence[LoadStats]) -> LoadStats:
        """Return the rows of all parts, one after the other."""
        names = [f.name for f in fields(LoadStats)]
        return LoadStats(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        )


def _packed(column: NDArray[Any]) -> NDArray[Any]:
    return column.copy() if column.dtype == np.bool_ else column.astype(np.int32)


class StatsBuilder:
    """Fill a `LoadStats` plan by plan.

    Parameters
    ----------
    capacity : int
        Records it can hold.
    layout : EPLayout
        Its ranks, and the instances each can hold.
    tile_rows : int
        Rows of a GEMM tile.
    any_tree : bool
        Count what ranks send under a relay tree of every expert with replicas enough, for a time
        model to choose by, and not only where the published rule finds a gain.
    """

    def __init__(
        self, capacity: int, layout: EPLayout, tile_rows: int, *, any_tree: bool = False
    ) -> None:
        self._tile_rows = tile_rows
        self._any_tree = any_tree
        per_rank = {
            f.name: np.zeros((capacity, layout.num_ranks), np.int64)
            for f in fields(LoadStats)
            if f.name not in ("tiles", "relayed", "crosses", "replicas", "max_fanout")
        }
        most = (capacity, layout.num_ranks, layout.instances_per_rank)
        self._stats = LoadStats(
            **per_rank,
            tiles=np.zeros(most, np.int32),
            relayed=np.zeros(capacity, np.bool_),
            crosses=np.zeros(capacity, np.bool_),
            replicas=np.zeros(capacity, np.int64),
            max_fanout=np.zeros(capacity, np.int64),
        )
        self._capacity = capacity
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Whether the next `add` would not fit."""
        return self._count == self._capacity

    @property
    def room(self) -> int:
        """Records that still fit."""
        return self._capacity - self._count

    @property
    def stats(self) -> LoadStats:
        """What was added since the last `reset` (views into the builder's arrays)."""
        return self._stats.head(self._count)

    def reset(self) -> None:
        """Forget all records, keep the arrays."""
        self._count = 0

    def add(self, plan: Plan, moved: NDArray[np.int64] | None = None) -> None:
        """Append one plan.

        Parameters
        ----------
        plan : Plan
            Its loads must have one row a rank.
        moved : ndarray of int64, shape [ranks], optional
            Expert weights each rank received for a new placement.

        Raises
        ------
        PlanError
            A rank computes more instances than it has room for.
        """
        n, out = self._count, self._stats
        for name in ("pairs", "tiles", "near_received", "far_received"):
            getattr(out, name)[n] = 0
        layout = plan.layout
        rank, offsets = plan.rank, plan.offsets
        if not compute_side(rank, plan.quota, self._tile_rows, out.pairs[n], out.tiles[n]):
            raise PlanError(NO_ROOM)
        if layout.num_domains == 1:
            out.near_sent[n] = plan.loads.sum(axis=1)
            one_domain(
                plan.loads, offsets, rank, plan.quota, plan.locality,
                out.near_sent[n], out.near_received[n],
            )  # fmt: skip
        else:
            many_domains(
                plan.split, rank, layout.domain,
                out.near_sent[n], out.near_received[n], out.far_sent[n], out.far_received[n],
            )  # fmt: skip
        parent = np.empty(rank.shape[0], np.int32)
        sent = out.relay_sent[n]
        out.relayed[n] = fill_relay(offsets, rank, layout.domain, parent, out.copies_sent[n], sent)
        if self._any_tree:
            out.relayed[n] = fill_candidate(offsets, rank, parent, sent)
        out.copies_received[n] = plan.receives_per_rank
        self._add_far_copies(plan, parent)
        out.moved_copies[n] = 0 if moved is None else moved
        out.replicas[n] = plan.num_replicas
        out.max_fanout[n] = plan.max_fanout
        self._count += 1

    def add_replicas(
        self,
        layout: EPLayout,
        loads: NDArray[np.int32],
        totals: NDArray[np.int64],
        sums: NDArray[np.int64],
        replicas: Replicas,
    ) -> None:
        """Append plans that keep mains home and replicas in their domain, all at once.

        Parameters
        ----------
        layout : EPLayout
        loads : ndarray of int32, shape [N, ranks, experts]
        totals : ndarray of int64, shape [N, experts]
            ``loads`` summed over the ranks.
        sums : ndarray of int64, shape [N, ranks]
            ``loads`` summed over the experts.
        replicas : Replicas
        """
        from .batch_stats import fill_stats

        stop = self._count + len(loads)
        out = self._stats.part(slice(self._count, stop))
        trees = self._any_tree
        fill_stats(out, layout, loads, totals, sums, replicas, self._tile_rows, any_tree=trees)
        self._count = stop

    def repeat(self, times: int) -> None:
        """Append the last record again, so many times."""
        n = self._count
        for f in fields(LoadStats):
            column = getattr(self._stats, f.name)
            column[n : n + times] = column[n - 1]
        self._count += times

    def scale_wire(self, sent: NDArray[np.float64], received: NDArray[np.float64]) -> None:
        """Shrink what the last record sends and receives, where less travels than its pairs.

        Parameters
        ----------
        sent, received : ndarray of float64, shape [ranks]
            Share that is left, near and far alike.
        """
        n, out = self._count - 1, self._stats
        for factor, columns in (
            (sent, (out.near_sent, out.far_sent)),
            (received, (out.near_received, out.far_received)),
        ):
            for column in columns:
                column[n] = np.rint(column[n] * factor)

    def _add_far_copies(self, plan: Plan, parent: NDArray[np.int32]) -> None:
        n, out = self._count, self._stats
        out.crosses[n] = plan.may_cross and plan.layout.num_domains > 1
        counts = (
            out.far_copies_sent, out.far_copies_received,
            out.far_relay_sent, out.far_relay_received,
        )  # fmt: skip
        if not out.crosses[n]:
            for column in counts:
                column[n] = 0
            return
        home = np.repeat(plan.rank[plan.offsets[:-1]], np.diff(plan.offsets))
        found = (*_far(home, plan.rank, plan.layout), *_far(parent, plan.rank, plan.layout))
        for column, values in zip(counts, found, strict=True):
            column[n] = values


def _far(
    source: NDArray[np.int32], rank: NDArray[np.int32], layout: EPLayout
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count what ranks send and receive across domains; a main is its own source."""
    far = layout.domain_of[source] != layout.domain_of[rank]
    ranks = layout.num_ranks
    return np.bincount(source[far], minlength=ranks), np.bincount(rank[far], minlength=ranks)


@njit(cache=True)
def compute_side(rank, quota, tile_rows, pairs, tiles):  # type: ignore[no-untyped-def]
    """Add up the pairs of every rank and list the tiles of its instances; False: no room."""
    held = np.zeros(pairs.shape[0], np.int32)
    for i in range(rank.shape[0]):
        if quota[i] > 0:
            r = rank[i]
            if held[r] == tiles.shape[1]:
                return False
            pairs[r] += quota[i]
            tiles[r, held[r]] = (quota[i] + tile_rows - 1) // tile_rows
            held[r] += 1
    return True


@njit(cache=True)
def one_domain(loads, offsets, rank, quota, locality, sent, received):  # type: ignore[no-untyped-def]
    """Sent and received pairs without the full split: only what stays local matters.

    ``sent`` comes with the pairs of every rank and leaves with those that are not kept.

    With locality a rank keeps min(own demand, own quota) of each expert. Without it the split is
    proportional, and a rank keeps floor(demand x quota / load); the rounding of the true split
    moves a cell by a few tokens at most.
    """
    for e in range(loads.shape[1]):
        begin, end = offsets[e], offsets[e + 1]
        load = 0
        if not locality:
            for i in range(begin, end):
                load += quota[i]
        for i in range(begin, end):
            r = rank[i]
            if locality or end - begin == 1:
                wanted = loads[r, e]
                for j in range(begin, i):  # an earlier instance on the same rank came first
                    if rank[j] == r:
                        wanted -= min(wanted, quota[j])
                own = min(wanted, quota[i])
            else:
                own = loads[r, e] * quota[i] // load if load > 0 else 0
            sent[r] -= own
            received[r] += quota[i] - own


@njit(cache=True)
def many_domains(  # type: ignore[no-untyped-def]
    split, rank, domain, near_sent, near_received, far_sent, far_received
):
    """Add up what leaves and reaches every rank, inside its domain and across."""
    near_sent[:] = 0
    far_sent[:] = 0
    for s in range(split.shape[0]):
        for i in range(rank.shape[0]):
            r = rank[i]
            if r == s:
                continue
            if r // domain == s // domain:
                near_sent[s] += split[s, i]
                near_received[r] += split[s, i]
            else:
                far_sent[s] += split[s, i]
                far_received[r] += split[s, i]
