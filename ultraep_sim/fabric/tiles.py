"""The global tile list of a weight distribution: who stores which tile to whom, in what order.

Weights are cut into tiles. A *task* is one expert's weights on one rank that has them (the home,
or a relay that received them), with the ranks it stores them to. An *entry* of the list is one
tile of one task: a worker loads it once and stores it to every destination of the task. Each
sender runs a persistent kernel whose workers pull its own entries in list order.

Order of the list, by class, and inside a class chunk by chunk over all its tasks:

0. homes feed their relays, so that the second stage starts as early as it can;
1. homes send to replicas that nobody else waits for;
2. relays forward. The tile of a forwarding task may be loaded once the chunk that holds it has
   arrived (its ready flag), which class 0 of the same list sends: a task waits only for entries
   earlier in the list, so whoever pulls in order cannot deadlock.

Everything is flat arrays, and numpy is all it needs: the same list can be executed by a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..planning.plan import Plan
from ..planning.relay import relay_tree

TILE_BYTES = 32 * 1024
"""Published tile (UltraEP, arXiv 2606.04101)."""
CHUNK_TILES = 8
"""Published tiles of a chunk: what one ready flag of the relay stands for."""

FEED, LEAF, FORWARD = 0, 1, 2


@dataclass(frozen=True, eq=False)
class TileList:
    """Tasks, their destinations, and the order of their tiles.

    Attributes
    ----------
    num_ranks : int
    copy_bytes, tile_bytes, chunk_tiles : int
        Bytes of one expert's weights, of a tile (the last of a copy may be shorter), and tiles of
        a chunk (the last may have fewer).
    task_expert, task_source : int32 [tasks]
        Whose weights, and the rank that sends them.
    task_slot : int32 [tasks]
        Redundant slot of the source that holds them; -1 where it is the home.
    task_wait : int64 [tasks]
        Copy (index into ``copy_rank``) that must have arrived, chunk by chunk; -1 for a home.
    copy_offsets : int64 [tasks + 1]
        Copies that task ``t`` writes are ``copy_offsets[t]:copy_offsets[t + 1]``.
    copy_rank, copy_slot : int32 [copies]
        Where a copy goes.
    copy_instance : int64 [copies]
        Its instance in the plan.
    entry_task, entry_tile : int32 [entries]
        The global list, in order.
    sender_offsets : int64 [ranks + 1]
    sender_entries : int64 [entries]
        Entries that rank ``r`` pulls, in list order:
        ``sender_entries[sender_offsets[r]:sender_offsets[r + 1]]``.
    """

    num_ranks: int
    copy_bytes: int
    tile_bytes: int
    chunk_tiles: int
    task_expert: NDArray[np.int32] = field(repr=False)
    task_source: NDArray[np.int32] = field(repr=False)
    task_slot: NDArray[np.int32] = field(repr=False)
    task_wait: NDArray[np.int64] = field(repr=False)
    copy_offsets: NDArray[np.int64] = field(repr=False)
    copy_rank: NDArray[np.int32] = field(repr=False)
    copy_slot: NDArray[np.int32] = field(repr=False)
    copy_instance: NDArray[np.int64] = field(repr=False)
    entry_task: NDArray[np.int32] = field(repr=False)
    entry_tile: NDArray[np.int32] = field(repr=False)
    sender_offsets: NDArray[np.int64] = field(repr=False)
    sender_entries: NDArray[np.int64] = field(repr=False)

    @property
    def tiles_per_copy(self) -> int:
        """Tiles of one expert's weights."""
        return -(-self.copy_bytes // self.tile_bytes)

    @property
    def chunks_per_copy(self) -> int:
        """Chunks, each with a ready flag, of one expert's weights."""
        return -(-self.tiles_per_copy // self.chunk_tiles)

    @property
    def relayed(self) -> bool:
        """Whether any task forwards what it received."""
        return bool((self.task_wait >= 0).any())

    @cached_property
    def tile_sizes(self) -> NDArray[np.int64]:
        """Bytes of each tile of a copy, int64 [tiles per copy]."""
        sizes = np.full(self.tiles_per_copy, self.tile_bytes, np.int64)
        sizes[-1] = self.copy_bytes - (self.tiles_per_copy - 1) * self.tile_bytes
        return sizes

    @cached_property
    def pair_bytes(self) -> NDArray[np.int64]:
        """Bytes that the entries store from rank to rank, int64 [source, destination].

        Counted tile by tile over the list; a copy to the sender's own rank is on the diagonal.
        """
        fan = np.diff(self.copy_offsets)[self.entry_task]
        size = np.repeat(self.tile_sizes[self.entry_tile], fan)
        source = np.repeat(self.task_source[self.entry_task], fan).astype(np.int64)
        first = np.repeat(self.copy_offsets[self.entry_task] - np.cumsum(fan) + fan, fan)
        to = self.copy_rank[first + np.arange(len(size))]
        out = np.zeros((self.num_ranks, self.num_ranks), np.int64)
        np.add.at(out, (source, to), size)
        return out

    def __str__(self) -> str:
        stages = "two stages" if self.relayed else "direct"
        return (
            f"TileList: {len(self.copy_rank)} copies of {self.copy_bytes} bytes by "
            f"{len(self.task_source)} tasks, {len(self.entry_task)} tiles, {stages}"
        )


def plan_tiles(
    plan: Plan,
    copy_bytes: int,
    *,
    relay: bool = False,
    tile_bytes: int = TILE_BYTES,
    chunk_tiles: int = CHUNK_TILES,
) -> TileList:
    """List the tiles of a plan's weight distribution.

    Parameters
    ----------
    plan : Plan
    copy_bytes : int
        Bytes of one expert's weights.
    relay : bool
        Send through `relay_tree` where its rule finds a gain.
    tile_bytes, chunk_tiles : int

    Returns
    -------
    TileList

    Raises
    ------
    InputError
        A size that is no positive integer, or a replica outside its home's scale-up domain.
    """
    require_one_domain(plan)
    parent = None
    if relay:
        layout = plan.layout
        parent, _ = relay_tree(plan.offsets, plan.rank, layout.num_ranks, layout.domain)
    return tile_list(
        plan.offsets, plan.rank, plan.slot, plan.layout.num_ranks, copy_bytes,
        parent=parent, tile_bytes=tile_bytes, chunk_tiles=chunk_tiles,
    )  # fmt: skip


def require_one_domain(plan: Plan) -> None:
    """Refuse a plan whose weights leave a scale-up domain: ports and flags are a switch's."""
    domain = plan.layout.domain_of
    home = plan.rank[plan.offsets[plan.expert]]
    far = np.flatnonzero(domain[home] != domain[plan.rank])
    if far.size:
        raise InputError(
            "a replica is in another scale-up domain than its main",
            place=f"plan.rank[{far[0]}]",
            value=int(plan.rank[far[0]]),
            remedy="plan inside domains, or time it in closed form (ultraep_sim.fabric.streaming)",
        )


def tile_list(
    offsets: NDArray[np.int64],
    rank: NDArray[np.int32],
    slot: NDArray[np.int32],
    num_ranks: int,
    copy_bytes: int,
    *,
    parent: NDArray[np.int32] | None = None,
    tile_bytes: int = TILE_BYTES,
    chunk_tiles: int = CHUNK_TILES,
) -> TileList:
    """List the tiles of given instances.

    Parameters
    ----------
    offsets : ndarray of int64, shape [experts + 1]
        Instances of expert ``e`` are ``offsets[e]:offsets[e + 1]``; the first is the main.
    rank, slot : ndarray of int32, shape [instances]
        Host and redundant slot (-1 for a main).
    num_ranks, copy_bytes : int
    parent : ndarray of int32, shape [instances], optional
        Rank each instance gets its weights from (`relay_tree`); default its home.
    tile_bytes, chunk_tiles : int

    Returns
    -------
    TileList
    """
    sizes = {"copy_bytes": copy_bytes, "tile_bytes": tile_bytes, "chunk_tiles": chunk_tiles}
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise InputError(
                "not a positive integer", place=name, value=value, remedy="give 1 or more"
            )
    tasks = _tasks(offsets, rank, slot, parent)
    tiles = -(-int(copy_bytes) // int(tile_bytes))
    entry_task, entry_tile = _entries(tasks.kind, tiles, int(chunk_tiles))
    source = tasks.source[entry_task]
    by_sender = np.argsort(source, kind="stable")
    starts = np.searchsorted(source[by_sender], np.arange(num_ranks + 1))
    return TileList(
        int(num_ranks), int(copy_bytes), int(tile_bytes), int(chunk_tiles),
        tasks.expert, tasks.source, tasks.slot, tasks.wait,
        tasks.copy_offsets, rank[tasks.copies], slot[tasks.copies], tasks.copies,
        entry_task, entry_tile, starts.astype(np.int64), by_sender.astype(np.int64),
    )  # fmt: skip


@dataclass
class _Tasks:
    kind: NDArray[np.int8]
    expert: NDArray[np.int32]
    source: NDArray[np.int32]
    slot: NDArray[np.int32]
    wait: NDArray[np.int64]
    copy_offsets: NDArray[np.int64]
    copies: NDArray[np.int64]


def _tasks(
    offsets: NDArray[np.int64],
    rank: NDArray[np.int32],
    slot: NDArray[np.int32],
    parent: NDArray[np.int32] | None,
) -> _Tasks:
    """Group the replicas by (sending instance); homes before relays of the same expert."""
    instances = np.arange(len(rank))
    main = np.repeat(offsets[:-1], np.diff(offsets))
    expert = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    sender = main.copy()  # the instance a replica is copied from
    if parent is not None:
        through = np.flatnonzero((parent != rank[main]) & (instances != main))
        for i in through:
            mine = np.arange(main[i] + 1, offsets[expert[i] + 1])
            sender[i] = mine[rank[mine] == parent[i]][0]
    replicas = instances[instances != main]
    order = replicas[np.lexsort((replicas, sender[replicas]))]
    senders, first = np.unique(sender[order], return_index=True)
    copy_offsets = np.append(first, len(order)).astype(np.int64)
    at = np.full(len(rank), -1, np.int64)
    at[order] = np.arange(len(order))
    feeds = np.zeros(len(rank), bool)
    relays = senders[senders != main[senders]]
    feeds[main[relays]] = True  # in a tree all copies of such a home go to relays
    kind = np.where(senders != main[senders], FORWARD, np.where(feeds[senders], FEED, LEAF))
    return _Tasks(
        kind.astype(np.int8),
        expert[senders].astype(np.int32),
        rank[senders],
        slot[senders],
        at[senders],
        copy_offsets,
        order,
    )


def _entries(
    kind: NDArray[np.int8], tiles: int, chunk_tiles: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lay out class by class, chunk by chunk, task by task, tile by tile."""
    chunks = -(-tiles // chunk_tiles)
    tile = np.arange(chunks * chunk_tiles, dtype=np.int32).reshape(chunks, 1, chunk_tiles)
    parts = []
    for which in (FEED, LEAF, FORWARD):
        task = np.flatnonzero(kind == which).astype(np.int32)
        shape = (chunks, len(task), chunk_tiles)
        both = (np.broadcast_to(task[None, :, None], shape), np.broadcast_to(tile, shape))
        real = both[1] < tiles
        parts.append((both[0][real], both[1][real]))
    return (
        np.concatenate([task for task, _ in parts]),
        np.concatenate([tile for _, tile in parts]),
    )
