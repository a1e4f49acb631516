"""Execute a tile list in time: persistent kernels, buffers, ports, ready flags.

Each sender runs workers (thread blocks) with two tile buffers each. A buffer pulls the sender's
next entry of the list, waits for its chunk where it forwards, loads the tile from HBM once, and
stores it to every destination; it is free again when all of them have it. A store takes

    tile bytes / link bandwidth + per-tile overhead

of the sender's egress port and of the receiver's ingress port. Each port serves one store at a
time, first come first served; between them the switch never blocks and holds what a busy receiver
cannot take yet, which the buffers of the senders bound. A copy within one rank uses no port.

Two numbers set the time: link bandwidth and per-tile overhead. The rest is structure: tile and
chunk size, workers, the launch (longer with a second stage, as published), HBM, and the flag's way
(a fence and a write over the switch).
Only what leaves neither the scale-up domain nor the healthy rack is simulated here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..errors import InputError
from ..model.profiles import RackProfile
from ..model.provenance import Quantity, assumed, fitted, published
from .event_heap import make_heap, pop, push
from .tiles import TILE_BYTES, TileList

Seconds = NDArray[np.float64]

ROUND_TRIP = published(1.7, "us", "remote load over the NVL72 switch, round trip")
FLAG = published(
    1.5 * ROUND_TRIP.value,
    "us",
    "fence (one round trip of 1.7 us) and flag write (half of one) over the switch",
    ROUND_TRIP.value,
    4 * ROUND_TRIP.value,
)
WORKERS = assumed(16, "1", "thread blocks of the kernel; not published, and not binding", 8, 64)
BUFFERS = 2


@dataclass(frozen=True)
class StreamModel:
    """What a tile transfer takes.

    Attributes
    ----------
    link : Quantity
        Bandwidth of a port and direction.
    tile_overhead : Quantity
        Time a port is lost per stored tile.
    base : Quantity
        From the launch to the first load, and from the last store to the end of the kernel.
    relay : Quantity
        What a launch takes longer where the list has a second stage.
    flag : Quantity
        From the last store of a chunk to the moment its relay may load it.
    workers : Quantity
        Thread blocks of a sender, with two tile buffers each.
    hbm : Quantity
        Rate at which a sender loads tiles from its memory.
    """

    link: Quantity
    tile_overhead: Quantity
    base: Quantity
    relay: Quantity
    flag: Quantity
    workers: Quantity
    hbm: Quantity

    def __post_init__(self) -> None:
        for name in ("link", "workers", "hbm"):
            if getattr(self, name).value <= 0:
                raise InputError(
                    "not a positive number",
                    place=name,
                    value=getattr(self, name).value,
                    remedy="give a number above 0",
                )

    @classmethod
    def of(cls, rack: RackProfile) -> StreamModel:
        """Read it off a rack: the overhead is what its streaming rate leaves of its link."""
        link = min(rack.scale_up_GBps.si, rack.gpu.memory_rate)
        overhead_ns = TILE_BYTES * max(0.0, 1 / rack.stream_rate - 1 / link) * 1e9
        return cls(
            rack.scale_up_GBps,
            fitted(
                overhead_ns, "ns", f"32 KiB tiles at {rack.stream_GBps} on {rack.scale_up_GBps}"
            ),
            rack.stream_base_us,
            rack.relay_us,
            FLAG,
            WORKERS,
            rack.gpu.hbm_achieved_TBps,
        )


@dataclass(frozen=True, eq=False)
class Stores:
    """When every store held its two ports; arrays of one row a store, in order of egress.

    Attributes
    ----------
    source, destination : int32
        Ranks.
    copy, tile : int32
        What was stored: index into the list's copies, tile of the copy.
    size : int64
        Bytes.
    egress, egress_end, ingress, ingress_end : float64
        Seconds since the launch.
    """

    source: NDArray[np.int32]
    destination: NDArray[np.int32]
    copy: NDArray[np.int32]
    tile: NDArray[np.int32]
    size: NDArray[np.int64]
    egress: Seconds
    egress_end: Seconds
    ingress: Seconds
    ingress_end: Seconds


@dataclass(frozen=True, eq=False)
class StreamResult:
    """What happened.

    Attributes
    ----------
    finish : float64 [ranks]
        When a rank's last store, sent or received, is over, the base included; 0 on a rank that
        takes no part.
    copy_done : float64 [copies]
        When the last tile of each copy has arrived.
    egress_busy, ingress_busy : float64 [ranks]
        Seconds in which a port stored.
    stores : Stores
    """

    finish: Seconds
    copy_done: Seconds
    egress_busy: Seconds
    ingress_busy: Seconds
    stores: Stores = field(repr=False)

    @property
    def seconds(self) -> float:
        """When the last rank is done."""
        return float(self.finish.max(initial=0.0))

    def sent_bytes(self) -> NDArray[np.int64]:
        """Bytes over each egress port, int64 [ranks]."""
        return self._bytes(self.stores.source)

    def received_bytes(self) -> NDArray[np.int64]:
        """Bytes over each ingress port, int64 [ranks]."""
        return self._bytes(self.stores.destination)

    def _bytes(self, rank: NDArray[np.int32]) -> NDArray[np.int64]:
        away = self.stores.source != self.stores.destination
        out = np.zeros(len(self.finish), np.int64)
        np.add.at(out, rank[away], self.stores.size[away])
        return out


def stream(tiles: TileList, model: StreamModel, link_share: Seconds | None = None) -> StreamResult:
    """Run a tile list.

    Parameters
    ----------
    tiles : TileList
        Inside one scale-up domain.
    model : StreamModel
    link_share : ndarray of float64, shape [ranks], optional
        Share of the bandwidth that each rank's ports still have; default all of it.

    Returns
    -------
    StreamResult

    Raises
    ------
    InputError
        A share that is not in (0, 1], or not one a rank.
    """
    share = check_share(link_share, tiles.num_ranks)
    per_byte = 1.0 / (model.link.si * share)
    overhead = model.tile_overhead.si
    slots = round(model.workers.si) * BUFFERS
    fan = np.diff(tiles.copy_offsets)
    stores = int(fan[tiles.entry_task].sum())
    base = model.base.si + (model.relay.si if tiles.relayed else 0.0)
    out_int = np.zeros((stores, 4), np.int32)
    out_time = np.zeros((stores, 4))
    if stores:
        _run(
            tiles.task_source, tiles.task_wait, tiles.copy_offsets, tiles.copy_rank,
            tiles.entry_task, tiles.entry_tile, tiles.sender_offsets, tiles.sender_entries,
            tiles.tile_sizes, tiles.chunk_tiles, tiles.chunks_per_copy,
            slots, per_byte, overhead, 1.0 / model.hbm.si, base, model.flag.si,
            out_int, out_time,
        )  # fmt: skip
    return _result(tiles, out_int, out_time)


def check_share(share: Seconds | None, ranks: int) -> Seconds:
    """Return the share of each rank's link, float64 [ranks]; see `stream`."""
    if share is None:
        return np.ones(ranks)
    share = np.asarray(share, np.float64)
    if share.shape != (ranks,) or not bool(((share > 0) & (share <= 1)).all()):
        raise InputError(
            "no share of a link for every rank",
            place="link_share",
            value=share.tolist(),
            remedy=f"give {ranks} numbers above 0 and up to 1",
        )
    return share


def _result(tiles: TileList, out_int: NDArray[np.int32], out_time: Seconds) -> StreamResult:
    order = np.lexsort((np.arange(len(out_int)), out_time[:, 0]))
    out_int, out_time = out_int[order], out_time[order]
    source, destination, copy, tile = (np.ascontiguousarray(c) for c in out_int.T)
    times = [np.ascontiguousarray(c) for c in out_time.T]
    stores = Stores(
        source, destination, copy, tile, tiles.tile_sizes[tile].astype(np.int64), *times
    )
    ranks = tiles.num_ranks
    finish, copy_done = np.zeros(ranks), np.zeros(len(tiles.copy_rank))
    np.maximum.at(finish, source, stores.ingress_end)
    np.maximum.at(finish, destination, stores.ingress_end)
    np.maximum.at(copy_done, copy, stores.ingress_end)
    egress, ingress = np.zeros(ranks), np.zeros(ranks)
    np.add.at(egress, source, stores.egress_end - stores.egress)
    np.add.at(ingress, destination, stores.ingress_end - stores.ingress)
    return StreamResult(finish, copy_done, egress, ingress, stores)


_PULL, _LOADED, _STORE, _ARRIVED, _FLAG = 0, 1, 2, 3, 4


@njit(cache=True)
def _run(  # type: ignore[no-untyped-def]  # numba kernel: shapes in TileList
    task_source, task_wait, copy_offsets, copy_rank,
    entry_task, entry_tile, sender_offsets, sender_entries,
    tile_sizes, chunk_tiles, chunks,
    slots, per_byte, overhead, hbm_per_byte, base, flag,
    out_int, out_time,
):  # fmt: skip
    ranks = sender_offsets.shape[0] - 1
    copies = copy_rank.shape[0]
    pulled = sender_offsets[:-1].copy()
    slot_entry = np.full(ranks * slots, -1, np.int64)
    slot_left = np.zeros(ranks * slots, np.int64)
    egress_free, ingress_free, hbm_free = np.zeros(ranks), np.zeros(ranks), np.zeros(ranks)
    tiles = tile_sizes.shape[0]
    chunk_left = np.full((copies, chunks), chunk_tiles, np.int64)
    chunk_left[:, chunks - 1] = tiles - (chunks - 1) * chunk_tiles
    ready = np.zeros((copies, chunks), np.bool_)
    # Buffers that wait for a chunk, first come first served.
    first_waiter = np.full((copies, chunks), -1, np.int64)
    last_waiter = np.full((copies, chunks), -1, np.int64)
    next_waiter = np.full(ranks * slots, -1, np.int64)
    forwards = np.zeros(copies, np.bool_)
    for t in range(task_wait.shape[0]):
        if task_wait[t] >= 0:
            forwards[task_wait[t]] = True
    widest = 1
    for t in range(task_source.shape[0]):
        widest = max(widest, copy_offsets[t + 1] - copy_offsets[t])
    # At most one event a buffer that loads, one a store under way, one a flag on its way.
    heap = make_heap(ranks * slots * (widest + 1) + copies * chunks + 1)
    times, events, counters = heap
    for r in range(ranks):
        for k in range(min(slots, sender_offsets[r + 1] - sender_offsets[r])):
            push(times, events, counters, base, _PULL, r, r * slots + k)
    done = 0
    while counters[0] > 0:
        now, kind, a, b = pop(times, events, counters)
        if kind == _PULL:
            r, slot = a, b
            if pulled[r] == sender_offsets[r + 1]:
                continue
            entry = sender_entries[pulled[r]]
            pulled[r] += 1
            slot_entry[slot] = entry
            copy = task_wait[entry_task[entry]]
            chunk = entry_tile[entry] // chunk_tiles
            if copy >= 0 and not ready[copy, chunk]:
                if first_waiter[copy, chunk] < 0:
                    first_waiter[copy, chunk] = slot
                else:
                    next_waiter[last_waiter[copy, chunk]] = slot
                last_waiter[copy, chunk] = slot
                continue
            hbm_free[r] = max(now, hbm_free[r]) + tile_sizes[entry_tile[entry]] * hbm_per_byte
            push(times, events, counters, hbm_free[r], _LOADED, r, slot)
        elif kind == _LOADED:
            r, slot = a, b
            task = entry_task[slot_entry[slot]]
            seconds = tile_sizes[entry_tile[slot_entry[slot]]] * per_byte[r] + overhead
            slot_left[slot] = copy_offsets[task + 1] - copy_offsets[task]
            for copy in range(copy_offsets[task], copy_offsets[task + 1]):
                if copy_rank[copy] == r:
                    push(times, events, counters, now, _STORE, copy, slot)
                    continue
                start = max(now, egress_free[r])
                egress_free[r] = start + seconds
                push(times, events, counters, start, _STORE, copy, slot)
        elif kind == _STORE:
            copy, slot = a, b
            r, d = slot // slots, copy_rank[copy]
            tile = entry_tile[slot_entry[slot]]
            out_int[done, 0], out_int[done, 1] = r, d
            out_int[done, 2], out_int[done, 3] = copy, tile
            end = now
            if d == r:
                out_time[done, :] = now
            else:
                sent = now + tile_sizes[tile] * per_byte[r] + overhead
                taken = tile_sizes[tile] * per_byte[d] + overhead
                # A slower sender feeds the port late; a busy or slower receiver ends late.
                end = max(sent, max(now, ingress_free[d]) + taken)
                ingress_free[d] = end
                out_time[done, 0], out_time[done, 1] = now, sent
                out_time[done, 2], out_time[done, 3] = end - taken, end
            done += 1
            push(times, events, counters, end, _ARRIVED, copy, slot)
        elif kind == _ARRIVED:
            copy, slot = a, b
            chunk = entry_tile[slot_entry[slot]] // chunk_tiles
            chunk_left[copy, chunk] -= 1
            if chunk_left[copy, chunk] == 0 and forwards[copy]:
                push(times, events, counters, now + flag, _FLAG, copy, chunk)
            slot_left[slot] -= 1
            if slot_left[slot] == 0:
                push(times, events, counters, now, _PULL, slot // slots, slot)
        else:
            copy, chunk = a, b
            ready[copy, chunk] = True
            slot = first_waiter[copy, chunk]
            while slot >= 0:
                r = slot // slots
                size = tile_sizes[entry_tile[slot_entry[slot]]]
                hbm_free[r] = max(now, hbm_free[r]) + size * hbm_per_byte
                push(times, events, counters, hbm_free[r], _LOADED, r, slot)
                following = next_waiter[slot]
                next_waiter[slot] = -1
                slot = following
    return done
