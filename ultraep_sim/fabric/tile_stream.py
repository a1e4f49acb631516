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
        work = (
            tiles.task_wait, tiles.copy_offsets, tiles.copy_rank, tiles.entry_task,
            tiles.entry_tile, tiles.sender_offsets, tiles.sender_entries, tiles.tile_sizes,
        )  # fmt: skip
        law = (tiles.chunk_tiles, slots, per_byte, overhead, 1.0 / model.hbm.si, model.flag.si)
        _run(work, law, tiles.chunks_per_copy, base, out_int, out_time)
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
    order = np.argsort(out_time[:, 0], kind="stable")
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

# Kernels share three tuples. ``work``: task_wait, copy_offsets, copy_rank, entry_task, entry_tile,
# sender_offsets, sender_entries, tile_sizes (see TileList). ``law``: chunk_tiles, buffers of a
# sender, seconds per byte [ranks], overhead, seconds per byte of HBM, flag. ``ports``: when a
# rank's egress, ingress and HBM are free [3, ranks]. Buffers are numbered rank x buffers + k.


@njit(cache=True)
def _run(work, law, chunks, base, out_int, out_time):  # type: ignore[no-untyped-def]  # numba kernel
    """Process events until none is left; a row of the outputs a store."""
    copy_rank, sender_offsets = work[2], work[5]
    ranks, slots = sender_offsets.shape[0] - 1, law[1]
    heap = make_heap(_heap_size(work, slots, chunks))
    ports = np.zeros((3, ranks))
    pulled = sender_offsets[:-1].copy()
    entry = np.full(ranks * slots, -1, np.int64)  # what a buffer holds
    left = np.zeros(ranks * slots, np.int64)  # stores until it is free
    flags = _make_flags(work, law, chunks, ranks * slots)
    for r in range(ranks):
        for k in range(min(slots, sender_offsets[r + 1] - sender_offsets[r])):
            push(heap[0], heap[1], heap[2], base, _PULL, r, r * slots + k)
    done = 0
    while heap[2][0] > 0:
        now, kind, a, slot = pop(heap[0], heap[1], heap[2])
        if kind == _PULL:
            _pull(now, a, slot, work, law, pulled, entry, flags, ports, heap)
        elif kind == _LOADED:
            left[slot] = _send(now, a, slot, work, law, entry, ports, heap)
        elif kind == _STORE:
            r, d, tile = slot // slots, copy_rank[a], work[4][entry[slot]]
            out_int[done, 0], out_int[done, 1], out_int[done, 2], out_int[done, 3] = r, d, a, tile
            end = _receive(now, r, d, work[7][tile], law, ports, out_time[done])
            done += 1
            push(heap[0], heap[1], heap[2], end, _ARRIVED, a, slot)
        elif kind == _ARRIVED:
            _arrive(now, a, work[4][entry[slot]] // law[0], law, flags, heap)
            left[slot] -= 1
            if left[slot] == 0:
                push(heap[0], heap[1], heap[2], now, _PULL, slot // slots, slot)
        else:
            _wake(now, a, slot, work, law, entry, flags, ports, heap)
    return done


@njit(cache=True)
def _heap_size(work, slots, chunks):  # type: ignore[no-untyped-def]  # numba kernel
    """Bound the events in flight: of each buffer a load or its stores, and a flag each chunk."""
    copy_offsets, ranks = work[1], work[5].shape[0] - 1
    widest = 1
    for t in range(copy_offsets.shape[0] - 1):
        widest = max(widest, copy_offsets[t + 1] - copy_offsets[t])
    return ranks * slots * (widest + 1) + work[2].shape[0] * chunks + 1


@njit(cache=True)
def _make_flags(work, law, chunks, buffers):  # type: ignore[no-untyped-def]  # numba kernel
    """Return tiles left [copies, chunks], ready, first and last waiter, next waiter, forwards."""
    copies, tiles = work[2].shape[0], work[7].shape[0]
    missing = np.full((copies, chunks), law[0], np.int64)
    missing[:, chunks - 1] = tiles - (chunks - 1) * law[0]
    ready = np.zeros((copies, chunks), np.bool_)
    first = np.full((copies, chunks), -1, np.int64)
    last = np.full((copies, chunks), -1, np.int64)
    forwards = np.zeros(copies, np.bool_)
    for t in range(work[0].shape[0]):
        if work[0][t] >= 0:
            forwards[work[0][t]] = True
    return missing, ready, first, last, np.full(buffers, -1, np.int64), forwards


@njit(cache=True)
def _pull(now, r, slot, work, law, pulled, entry, flags, ports, heap):  # type: ignore[no-untyped-def]
    """Take the sender's next entry; load it, or queue for its chunk, first come first served."""
    task_wait, entry_task, entry_tile, sender_offsets, sender_entries = (
        work[0], work[3], work[4], work[5], work[6],
    )  # fmt: skip
    if pulled[r] == sender_offsets[r + 1]:
        return
    entry[slot] = sender_entries[pulled[r]]
    pulled[r] += 1
    _, ready, first, last, following, _ = flags
    copy = task_wait[entry_task[entry[slot]]]
    chunk = entry_tile[entry[slot]] // law[0]
    if copy < 0 or ready[copy, chunk]:
        _load(now, r, slot, work, law, entry, ports, heap)
        return
    if first[copy, chunk] < 0:
        first[copy, chunk] = slot
    else:
        following[last[copy, chunk]] = slot
    last[copy, chunk] = slot


@njit(cache=True)
def _load(now, r, slot, work, law, entry, ports, heap):  # type: ignore[no-untyped-def]
    ports[2, r] = max(now, ports[2, r]) + work[7][work[4][entry[slot]]] * law[4]
    push(heap[0], heap[1], heap[2], ports[2, r], _LOADED, r, slot)


@njit(cache=True)
def _send(now, r, slot, work, law, entry, ports, heap):  # type: ignore[no-untyped-def]
    """Queue a store to every destination at the egress port; return how many."""
    copy_offsets, copy_rank = work[1], work[2]
    task = work[3][entry[slot]]
    seconds = work[7][work[4][entry[slot]]] * law[2][r] + law[3]
    for copy in range(copy_offsets[task], copy_offsets[task + 1]):
        start = now
        if copy_rank[copy] != r:
            start = max(now, ports[0, r])
            ports[0, r] = start + seconds
        push(heap[0], heap[1], heap[2], start, _STORE, copy, slot)
    return copy_offsets[task + 1] - copy_offsets[task]


@njit(cache=True)
def _receive(now, r, d, size, law, ports, times):  # type: ignore[no-untyped-def]
    """Bring a store through the ingress port; fill its four times, return when it is over."""
    if d == r:
        times[:] = now
        return now
    sent = now + size * law[2][r] + law[3]
    taken = size * law[2][d] + law[3]
    # A slower sender feeds the port late; a busy or slower receiver ends late.
    end = max(sent, max(now, ports[1, d]) + taken)
    ports[1, d] = end
    times[0], times[1], times[2], times[3] = now, sent, end - taken, end
    return end


@njit(cache=True)
def _arrive(now, copy, chunk, law, flags, heap):  # type: ignore[no-untyped-def]
    """Count a tile of a chunk; the last one of a copy that is forwarded raises the flag."""
    missing, forwards = flags[0], flags[5]
    missing[copy, chunk] -= 1
    if missing[copy, chunk] == 0 and forwards[copy]:
        push(heap[0], heap[1], heap[2], now + law[5], _FLAG, copy, chunk)


@njit(cache=True)
def _wake(now, copy, chunk, work, law, entry, flags, ports, heap):  # type: ignore[no-untyped-def]
    """Let the buffers that waited for a chunk load it, in the order they came."""
    _, ready, first, _, following, _ = flags
    ready[copy, chunk] = True
    slot = first[copy, chunk]
    while slot >= 0:
        _load(now, slot // law[1], slot, work, law, entry, ports, heap)
        after = following[slot]
        following[slot] = -1
        slot = after
