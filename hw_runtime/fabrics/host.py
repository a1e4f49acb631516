"""All ranks in one process on the CPU: the reference that GPU backends are held to.

It executes the same task list as the kernels, entry by entry, as actors whose steps interleave in
an order drawn from a seed (`actors.play`): each rank has workers that pull its entries, wait for
the ready flag of a chunk where they forward, load a tile, store it to every destination in two
halves (a reader could see half of it), and raise the flag when a chunk is whole. What the kernels
must not rely on (a fast link, a lucky order) is not to be had here either.

A distribution or a reduction of all ranks is one call. A test of races composes the parts itself:
`barrier_steps`, `distribute_steps`, `read_steps` and `reduce_steps` are one rank's side of each,
to be strung together in one program a rank and run by `play`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.tiles import TileList

from ..errors import FabricError
from ..reduction import GradientList, ordered_sum
from .actors import Actor, Start, Wait, play
from .base import Fabric, Geometry
from .faults import check_fault

POISON = 0xA5
Bytes = NDArray[np.uint8]


class HostFabric(Fabric):
    """See the module.

    Parameters
    ----------
    geometry : Geometry
    workers : int
        Workers of a rank: thread blocks of the kernel.
    seed : int, optional
        Draws the order of steps; default in turn.
    fault : str, optional
        One of `faults.FAULTS`, to prove that a check notices it.

    Attributes
    ----------
    sent : ndarray of int64 [source, destination]
        Bytes of weights stored so far; within a rank on the diagonal.
    read : ndarray of int64 [replica's rank, home]
        Bytes of replica gradients read so far.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        workers: int = 2,
        seed: int | None = None,
        fault: str | None = None,
    ) -> None:
        if workers < 1:
            raise InputError("no worker", place="workers", value=workers, remedy="give 1 or more")
        g = self.geometry = geometry
        ranks, slots = g.layout.num_ranks, g.layout.slots_per_rank
        self.local_ranks = tuple(range(ranks))
        self.workers = workers
        self.fault = check_fault(fault)
        self._dropped = False
        self.order = None if seed is None else np.random.default_rng(np.random.SeedSequence(seed))
        self._slots = np.full((ranks, g.sets, slots, g.copy_bytes), POISON, np.uint8)
        dtype = np.float32 if g.gradient_dtype == "fp32" else np.uint16
        self._gradients = np.zeros((ranks, g.sets, slots, g.gradient_elements), dtype)
        self._ready = np.zeros((ranks, g.sets, slots, g.chunks_per_copy), np.int64)
        self._epoch = np.zeros(ranks, np.int64)
        self._arrived = np.zeros(ranks, np.int64)  # barriers each rank has come to
        self._held = np.zeros((ranks, g.sets), np.int64)  # acquired and not released
        self.sent = np.zeros((ranks, ranks), np.int64)
        self.read = np.zeros((ranks, ranks), np.int64)

    def slots(self, rank: int, which: int = 0) -> Bytes:
        """Replica weights of a rank, uint8 [slots, copy_bytes], not a copy."""
        self.geometry.check_set(which)
        rows: Bytes = self._slots[rank, which]
        return rows

    def gradients(self, rank: int, which: int = 0) -> NDArray[Any]:
        """Replica gradients of a rank, float32 or uint16 (bf16 bits), not a copy."""
        self.geometry.check_set(which)
        rows: NDArray[Any] = self._gradients[rank, which]
        return rows

    def poison(self) -> None:
        """Fill every weight slot with `POISON`: what is not written afterwards shows."""
        self._slots[...] = POISON

    def distribute(self, tiles: TileList, mains: Sequence[Bytes], which: int = 0) -> int:
        """Write every replica of a task list; see `Fabric.distribute`.

        Raises
        ------
        FabricError
            A rank still holds what it acquired of this set, or the group hangs.
        """
        self.check(tiles, mains, which)
        held = np.flatnonzero(self._held[:, which])
        if held.size and self.fault != "missing_barrier":
            raise FabricError(
                f"slots of set {which} would be overwritten while rank {held[0]} reads them; "
                "release them first or give the fabric more sets"
            )
        play((self.distribute_steps(r, tiles, mains, which) for r in self.local_ranks), self.order)
        return int(self._epoch[0])

    def acquire(self, tiles: TileList, epoch: int, rank: int, which: int = 0) -> Bytes:
        """Return a rank's slots; its replicas are whole.

        Raises
        ------
        FabricError
            A replica has not arrived, or has been overwritten since.
        """
        for slot in mine(tiles, rank):
            flags = self._ready[rank, which, slot]
            if (flags != epoch).any():
                raise FabricError(
                    f"rank {rank} acquires epoch {epoch} of slot {slot}, but chunk "
                    f"{int(np.argmax(flags != epoch))} has epoch {int(flags[flags != epoch][0])}"
                )
        self._held[rank, which] += 1
        return self.slots(rank, which)

    def release(self, rank: int, which: int = 0) -> None:
        """Give a rank's slots back."""
        if not self._held[rank, which]:
            raise FabricError(f"rank {rank} releases set {which} without having acquired it")
        self._held[rank, which] -= 1

    def reduce(
        self,
        work: GradientList,
        mains: Sequence[NDArray[Any]],
        which: int = 0,
        *,
        sms: int | None = None,
    ) -> None:
        """Add replica gradients to their mains and zero them; see `Fabric.reduce`."""
        self.geometry.check_set(which)
        play((self.reduce_steps(r, work, mains, which) for r in self.local_ranks), self.order)

    def barrier(self) -> None:
        """Nothing to wait for: calls are of all ranks."""

    def reset(self) -> None:
        """Forget epochs, flags and who reads."""
        for array in (self._ready, self._epoch, self._arrived, self._held):
            array[...] = 0

    def close(self) -> None:
        """Nothing to free."""

    def check(self, tiles: TileList, mains: Sequence[Bytes], which: int) -> None:
        """Refuse a task list, weights or a set that do not fit the buffers."""
        self.geometry.check_tiles(tiles)
        self.geometry.check_set(which)
        per_rank = self.geometry.layout.mains_per_rank
        if len(mains) != len(per_rank):
            raise InputError(
                "no main weights for every rank",
                place="mains",
                value=len(mains),
                remedy=f"give {len(per_rank)}",
            )
        for r, rows in enumerate(per_rank):
            if mains[r].shape != (rows, self.geometry.copy_bytes) or mains[r].dtype != np.uint8:
                raise InputError(
                    "main weights do not fit",
                    place=f"mains[{r}]",
                    value=f"{mains[r].dtype} {mains[r].shape}",
                    remedy=f"give uint8 [{rows}, {self.geometry.copy_bytes}]",
                )

    # One rank's side of each operation, as steps of an actor.

    def barrier_steps(self, rank: int) -> Actor:
        """Come to the barrier, and wait for all ranks to have come as often."""
        self._arrived[rank] += 1
        mine = self._arrived[rank]
        if self.fault == "missing_barrier":
            return
        yield Wait(
            lambda: bool((self._arrived >= mine).all()),
            lambda: f"rank {rank} waits at barrier {mine} for rank {int(self._arrived.argmin())}",
        )

    def distribute_steps(
        self, rank: int, tiles: TileList, mains: Sequence[Bytes], which: int
    ) -> Actor:
        """Send what the list says ``rank`` sends, then wait for what it receives."""
        self._epoch[rank] += 1
        kernel = _Kernel(self, rank, tiles, mains, which, int(self._epoch[rank]))
        yield Start(tuple(kernel.worker() for _ in range(self.workers)))
        yield Wait(
            lambda: kernel.running == 0,
            lambda: f"rank {rank} waits for its own workers",
        )
        for slot in mine(tiles, rank):
            for chunk in range(tiles.chunks_per_copy):
                yield self.flag(rank, which, slot, chunk, kernel.epoch)

    def read_steps(
        self, rank: int, tiles: TileList, epoch: int, which: int, out: dict[int, Bytes]
    ) -> Actor:
        """Acquire a rank's replicas, read them tile by tile into ``out[slot]``, release."""
        for slot in mine(tiles, rank):
            for chunk in range(tiles.chunks_per_copy):
                yield self.flag(rank, which, slot, chunk, epoch)
            seen = out[slot] = np.empty(tiles.copy_bytes, np.uint8)
            for begin in range(0, tiles.copy_bytes, tiles.tile_bytes):
                part = slice(begin, begin + tiles.tile_bytes)
                seen[part] = self._slots[rank, which, slot, part]
                yield None

    def reduce_steps(
        self, rank: int, work: GradientList, mains: Sequence[NDArray[Any]], which: int
    ) -> Actor:
        """Reduce the experts whose home is ``rank``, a barrier before and behind."""
        yield from self.barrier_steps(rank)
        for task in np.flatnonzero(work.home == rank):
            where = slice(int(work.offsets[task]), int(work.offsets[task + 1]))
            found: dict[int, NDArray[Any]] = {}
            pending = list(zip(work.rank[where].tolist(), work.slot[where].tolist(), strict=True))
            first = int(self.order.integers(len(pending))) if self.order else len(pending) - 1
            for at in [*range(first, len(pending)), *range(first)]:  # reads return in any order
                far, slot = pending[at]
                replica = self._gradients[far, which, slot]
                found[at] = replica.copy()
                self.read[far, rank] += replica.nbytes
                yield None
            if self.fault != "reorder_add":
                found = dict(sorted(found.items()))
            ordered_sum(mains[rank][work.row[task]], list(found.values()))
            yield None
            for far, slot in pending:
                self._gradients[far, which, slot] = 0
                yield None
        yield from self.barrier_steps(rank)

    def flag(self, rank: int, which: int, slot: int, chunk: int, epoch: int) -> Wait:
        """Wait for a ready flag in a rank's own memory."""
        ready, least = self._ready, epoch - (self.fault == "stale_epoch")
        return Wait(
            lambda: bool(ready[rank, which, slot, chunk] >= least),
            lambda: (
                f"rank {rank} waits for epoch {epoch} of chunk {chunk} of slot {slot} in set "
                f"{which}, which has {int(ready[rank, which, slot, chunk])}"
            ),
        )

    def store(self, source: int, to: tuple[int, int, int], offset: int, data: Bytes) -> None:
        """Store bytes into (rank, set, slot) and count them."""
        self._slots[to][offset : offset + len(data)] = data
        self.sent[source, to[0]] += len(data)

    def raise_flag(self, to: tuple[int, int, int], chunk: int, epoch: int) -> None:
        """Release a chunk."""
        if self.fault == "drop_flag" and not self._dropped:
            self._dropped = True
            return
        self._ready[(*to, chunk)] = epoch


def mine(tiles: TileList, rank: int) -> list[int]:
    """Slots of a rank that a task list writes."""
    return [int(slot) for slot in tiles.copy_slot[tiles.copy_rank == rank]]


class _Kernel:
    """One rank's launch: workers that pull its entries in list order."""

    def __init__(
        self,
        fabric: HostFabric,
        rank: int,
        tiles: TileList,
        mains: Sequence[Bytes],
        which: int,
        epoch: int,
    ) -> None:
        self.fabric, self.rank, self.tiles, self.which = fabric, rank, tiles, which
        self.epoch = epoch
        self.mains = mains
        own = slice(int(tiles.sender_offsets[rank]), int(tiles.sender_offsets[rank + 1]))
        self.pending = iter(tiles.sender_entries[own].tolist())
        self.running = fabric.workers
        self.stored: dict[tuple[int, int], int] = {}  # tiles of (task, chunk) that are whole

    def worker(self) -> Actor:
        """Pull entries until none is left."""
        tiles = self.tiles
        for entry in self.pending:
            task, tile = int(tiles.entry_task[entry]), int(tiles.entry_tile[entry])
            chunk = tile // tiles.chunk_tiles
            slot = int(tiles.task_slot[task])
            if tiles.task_wait[task] >= 0:
                yield self.fabric.flag(self.rank, self.which, slot, chunk, self.epoch)
            begin = tile * tiles.tile_bytes
            data = self._source(task, slot)[begin : begin + int(tiles.tile_sizes[tile])].copy()
            yield None
            yield from self._store(task, tile, begin, data)
            self._publish(task, chunk)
            yield None
        self.running -= 1

    def _source(self, task: int, slot: int) -> Bytes:
        if slot >= 0:
            held: Bytes = self.fabric.slots(self.rank, self.which)[slot]
            return held
        row = int(self.fabric.geometry.main_row[self.tiles.task_expert[task]])
        main: Bytes = self.mains[self.rank][row]
        return main

    def _store(self, task: int, tile: int, begin: int, data: Bytes) -> Actor:
        """Store a loaded tile to every destination of its task, half by half."""
        tiles, fabric = self.tiles, self.fabric
        if fabric.fault == "skip_tail" and tile == tiles.tiles_per_copy - 1:
            data = data[: len(data) // 16 * 16]
        if fabric.fault == "swap_tile":
            whole = tiles.copy_bytes // tiles.tile_bytes
            if tile < whole and tile ^ 1 < whole:
                begin = (tile ^ 1) * tiles.tile_bytes
        half = len(data) // 2
        for to in self._destinations(task):
            fabric.store(self.rank, to, begin, data[:half])
            yield None
            fabric.store(self.rank, to, begin + half, data[half:])
            yield None

    def _publish(self, task: int, chunk: int) -> None:
        """Count a tile that every destination has whole; the last of a chunk raises its flags."""
        tiles = self.tiles
        key = (task, chunk)
        self.stored[key] = self.stored.get(key, 0) + 1
        if self.stored[key] == min(
            tiles.chunk_tiles, tiles.tiles_per_copy - chunk * tiles.chunk_tiles
        ):
            for to in self._destinations(task):
                self.fabric.raise_flag(to, chunk, self.epoch)

    def _destinations(self, task: int) -> list[tuple[int, int, int]]:
        tiles = self.tiles
        copies = range(int(tiles.copy_offsets[task]), int(tiles.copy_offsets[task + 1]))
        return [(int(tiles.copy_rank[c]), self.which, int(tiles.copy_slot[c])) for c in copies]
