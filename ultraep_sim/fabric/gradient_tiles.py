"""Gradient reduction tile by tile: homes read replica gradients back and add them, in fixed order.

A home gives the reduction a budget of SMs. An SM pulls the next tile of the home's experts (expert
by expert, tile by tile), and for every replica in the order of the plan reads the tile over the
link, adds it to the main gradient and zeroes the replica's. The order makes the sum deterministic.
One read and add keeps an SM busy for `sm_seconds`, which contains the read on an idle link; where
ports are contended the read itself takes longer and the SM waits. So the home is bound by its SMs
or by the links, whichever is slower.

The reads run beside the attention backward; what sticks out of that window is exposed, because
the buffers are needed by the next MoE layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..errors import InputError
from ..model.profiles import RackProfile
from ..model.provenance import Quantity
from ..planning.plan import Plan
from .event_heap import make_heap, pop, push
from .tile_stream import StreamModel
from .tiles import TILE_BYTES, require_one_domain

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class ReductionModel:
    """What reading back a gradient takes.

    Attributes
    ----------
    link, tile_overhead : Quantity
        As in `StreamModel`.
    rate : Quantity
        Rate at which a home reads and adds with `rate_sms` SMs.
    rate_sms : Quantity
    sms : int
        Budget of a home.
    """

    link: Quantity
    tile_overhead: Quantity
    rate: Quantity
    rate_sms: Quantity
    sms: int

    @classmethod
    def of(cls, rack: RackProfile, sms: int | None = None) -> ReductionModel:
        """Read it off a rack; by default with the SM budget of its measurement.

        Raises
        ------
        ProfileError
            A budget that the GPU does not have.
        """
        rack.grad_reduce_rate(sms)  # refuses a budget beyond the GPU
        budget = round(rack.grad_reduce_sms.si) if sms is None else sms
        stream = StreamModel.of(rack)
        return cls(
            stream.link, stream.tile_overhead, rack.grad_reduce_GBps, rack.grad_reduce_sms, budget
        )

    def sm_seconds(self, size: float) -> float:
        """Seconds one SM takes to read and add ``size`` bytes on an idle link."""
        return size * self.rate_sms.si / self.rate.si


@dataclass(frozen=True, eq=False)
class ReductionResult:
    """What happened.

    Attributes
    ----------
    finish : float64 [ranks]
        When a home has added its last tile, or a replica's rank has served its last read.
    egress_busy, ingress_busy : float64 [ranks]
        Seconds in which a port carried a tile.
    home, server : int32 [reads]
        Who read from whom, in order of egress.
    expert, tile : int32 [reads]
    size : int64 [reads]
        Bytes.
    egress, egress_end, ingress, ingress_end : float64 [reads]
        When the tile held the server's and the home's port.
    added : float64 [reads]
        When the home had added it.
    """

    finish: Seconds
    egress_busy: Seconds
    ingress_busy: Seconds
    home: NDArray[np.int32] = field(repr=False)
    server: NDArray[np.int32] = field(repr=False)
    expert: NDArray[np.int32] = field(repr=False)
    tile: NDArray[np.int32] = field(repr=False)
    size: NDArray[np.int64] = field(repr=False)
    egress: Seconds = field(repr=False)
    egress_end: Seconds = field(repr=False)
    ingress: Seconds = field(repr=False)
    ingress_end: Seconds = field(repr=False)
    added: Seconds = field(repr=False)

    @property
    def seconds(self) -> float:
        """When the last rank is done."""
        return float(self.finish.max(initial=0.0))

    def exposed(self, window_s: float) -> float:
        """Seconds that stick out of the attention backward it runs beside."""
        return max(0.0, self.seconds - window_s)

    def home_rates(self) -> Seconds:
        """Bytes per second each home reads and adds, float64 [ranks]; 0 on the others."""
        read = np.bincount(self.home, self.size.astype(np.float64), len(self.finish))
        done = np.zeros(len(self.finish))
        np.maximum.at(done, self.home, self.added)
        return np.divide(read, done, out=np.zeros_like(read), where=done > 0)


def reduce_tiles(
    plan: Plan, gradient_bytes: int, model: ReductionModel, *, tile_bytes: int = TILE_BYTES
) -> ReductionResult:
    """Reduce the gradients of a plan's replicas to their homes.

    Parameters
    ----------
    plan : Plan
        Inside one scale-up domain.
    gradient_bytes : int
        Bytes of one expert's fp32 gradient.
    model : ReductionModel
    tile_bytes : int

    Returns
    -------
    ReductionResult

    Raises
    ------
    InputError
        A size that is no positive integer, or a replica outside its home's scale-up domain.
    """
    require_one_domain(plan)
    for name, value in {"gradient_bytes": gradient_bytes, "tile_bytes": tile_bytes}.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise InputError(
                "not a positive integer", place=name, value=value, remedy="give 1 or more"
            )
    ranks = plan.layout.num_ranks
    tiles = -(-gradient_bytes // tile_bytes)
    sizes = np.full(tiles, tile_bytes, np.int64)
    sizes[-1] = gradient_bytes - (tiles - 1) * tile_bytes
    hot = np.flatnonzero(plan.fanout > 0)
    home = plan.rank[plan.offsets[hot]]
    order = np.argsort(home, kind="stable")
    hot = hot[order]
    starts = np.searchsorted(home[order], np.arange(ranks + 1))
    reads = int(plan.num_replicas) * tiles
    out_int, out_time = np.zeros((reads, 4), np.int32), np.zeros((reads, 5))
    if reads:
        per_byte = 1.0 / model.link.si
        _run(
            hot, starts, plan.offsets, plan.rank, sizes, model.sms, per_byte,
            model.tile_overhead.si, model.sm_seconds(1.0), out_int, out_time,
        )  # fmt: skip
    return _result(ranks, sizes, out_int, out_time)


def _result(
    ranks: int, sizes: NDArray[np.int64], out_int: NDArray[np.int32], out_time: Seconds
) -> ReductionResult:
    home, server, expert, tile = (np.ascontiguousarray(c) for c in out_int.T)
    egress, egress_end, ingress, ingress_end, added = (np.ascontiguousarray(c) for c in out_time.T)
    finish = np.zeros(ranks)
    np.maximum.at(finish, home, added)
    np.maximum.at(finish, server, ingress_end)
    egress_busy, ingress_busy = np.zeros(ranks), np.zeros(ranks)
    np.add.at(egress_busy, server, egress_end - egress)
    np.add.at(ingress_busy, home, ingress_end - ingress)
    return ReductionResult(
        finish,
        egress_busy,
        ingress_busy,
        home, server, expert, tile, sizes[tile].astype(np.int64),
        egress, egress_end, ingress, ingress_end, added,
    )  # fmt: skip


_NEXT, _READ = 0, 1


@njit(cache=True)
def _run(  # type: ignore[no-untyped-def]  # numba kernel: shapes in reduce_tiles
    hot, starts, offsets, rank, sizes, sms, per_byte, overhead, sm_per_byte, out_int, out_time
):
    ranks, tiles = starts.shape[0] - 1, sizes.shape[0]
    pulled = starts[:-1] * tiles  # entry k of the list: tile k % tiles of expert hot[k // tiles]
    entry = np.full(ranks * sms, -1, np.int64)
    instance = np.zeros(ranks * sms, np.int64)
    egress_free, ingress_free = np.zeros(ranks), np.zeros(ranks)
    times, events, counters = make_heap(ranks * sms + 1)
    for h in range(ranks):
        for k in range(min(sms, (starts[h + 1] - starts[h]) * tiles)):
            push(times, events, counters, 0.0, _NEXT, h, h * sms + k)
    done = 0
    while counters[0] > 0:
        now, kind, h, sm = pop(times, events, counters)
        if kind == _NEXT:  # the next replica of the tile at hand, or the next tile
            if entry[sm] >= 0:
                instance[sm] += 1
            if entry[sm] < 0 or instance[sm] == offsets[hot[entry[sm] // tiles] + 1]:
                if pulled[h] == starts[h + 1] * tiles:
                    continue
                entry[sm] = pulled[h]
                pulled[h] += 1
                instance[sm] = offsets[hot[entry[sm] // tiles]] + 1
            server = rank[instance[sm]]
            start = now
            if server != h:
                start = max(now, egress_free[server])
                egress_free[server] = start + sizes[entry[sm] % tiles] * per_byte + overhead
            push(times, events, counters, start, _READ, h, sm)
        else:
            tile = entry[sm] % tiles
            server = rank[instance[sm]]
            seconds = sizes[tile] * per_byte + overhead
            alone = sizes[tile] * sm_per_byte
            end = now
            if server != h:
                end = max(now, ingress_free[h]) + seconds
                ingress_free[h] = end
            else:
                seconds = 0.0
            # An SM that reads on an idle link is done after `alone`; a late tile delays it.
            added = max(now + alone, end)
            out_int[done, 0], out_int[done, 1] = h, server
            out_int[done, 2], out_int[done, 3] = hot[entry[sm] // tiles], tile
            out_time[done, 0], out_time[done, 1] = now, now + seconds
            out_time[done, 2], out_time[done, 3] = end - seconds, end
            out_time[done, 4] = added
            done += 1
            push(times, events, counters, added, _NEXT, h, sm)
