"""Book the plans of a whole block of records at once, on flat arrays and all threads.

The counts are those `StatsBuilder.add` takes from one `Plan` after the other, number by number: the
kernels are the same, only the Python between them is gone.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from ..errors import PlanError
from .assemble import group_replicas
from .layout import EPLayout
from .relay import fill_candidate, fill_relay
from .replicas import Replicas
from .reroute import split_into
from .stats import NO_ROOM, LoadStats, compute_side, many_domains, one_domain


def margins(loads: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum every record [N, S, E] over its sources and over its experts: int64 [N, E], [N, S]."""
    records, sources, experts = loads.shape
    totals = np.zeros((records, experts), np.int64)
    sums = np.empty((records, sources), np.int64)
    _margins(loads, totals, sums)
    return totals, sums


def fill_stats(
    out: LoadStats,
    layout: EPLayout,
    loads: NDArray[np.int32],
    totals: NDArray[np.int64],
    sums: NDArray[np.int64],
    replicas: Replicas,
    tile_rows: int,
    *,
    any_tree: bool,
) -> None:
    """Overwrite ``out`` with the counts of N plans that keep mains home.

    Parameters
    ----------
    out : LoadStats
        N rows, views into a builder.
    layout : EPLayout
    loads : ndarray of int32, shape [N, ranks, experts]
    totals : ndarray of int64, shape [N, experts]
        ``loads`` summed over the ranks.
    sums : ndarray of int64, shape [N, ranks]
        ``loads`` summed over the experts.
    replicas : Replicas
    tile_rows, any_tree
        As in `StatsBuilder`.

    Raises
    ------
    PlanError
        A rank computes more instances than it has room for.
    """
    for name in (
        "pairs", "tiles", "near_received", "far_sent", "far_received",
        "copies_received", "moved_copies",
        "far_copies_sent", "far_copies_received", "far_relay_sent", "far_relay_received",
    ):  # fmt: skip
        getattr(out, name)[:] = 0
    out.crosses[:] = False  # plans that may cross domains come one by one
    out.replicas[:] = replicas.opened
    if layout.num_domains == 1:
        out.near_sent[:] = sums
    parts = max(1, min(loads.shape[0], 8 * get_num_threads()))
    fits = _fill(
        loads, totals, parts, layout.home, layout.domain, layout.num_domains > 1, tile_rows,
        any_tree, replicas.opened, replicas.expert, replicas.rank, replicas.quota,
        out.pairs, out.tiles,
        out.near_sent, out.near_received, out.far_sent, out.far_received,
        out.copies_sent, out.copies_received, out.relay_sent, out.relayed, out.max_fanout,
    )  # fmt: skip
    if not fits:
        raise PlanError(NO_ROOM)


@njit(cache=True, parallel=True, nogil=True)
def _margins(loads, totals, sums):  # type: ignore[no-untyped-def]  # numba kernel
    records, sources, experts = loads.shape
    for n in prange(records):
        total = totals[n]
        for s in range(sources):
            row = loads[n, s]
            held = np.int64(0)
            for e in range(experts):
                held += row[e]
            sums[n, s] = held
            for e in range(experts):
                total[e] += row[e]


@njit(cache=True, parallel=True, nogil=True)
def _fill(  # type: ignore[no-untyped-def]  # numba kernel: shapes in fill_stats and LoadStats
    loads, totals, parts, home, domain, several, tile_rows, any_tree, count, expert, rank, quota,
    pairs, tiles, near_sent, near_received, far_sent, far_received,
    copies_sent, copies_received, relay_sent, relayed, max_fanout,
):  # fmt: skip
    records, sources, experts = loads.shape
    ranks, room = pairs.shape[1], experts + expert.shape[1]
    fits = np.ones(parts, np.bool_)
    for part in prange(parts):
        offsets, used = np.empty(experts + 1, np.int64), np.empty(ranks, np.int32)
        host, slot, take = (
            np.empty(room, np.int32),
            np.empty(room, np.int32),
            np.empty(room, np.int64),
        )
        parent = np.empty(room, np.int32)
        split = np.empty((sources if several else 0, room), np.int64)
        for n in range(part * records // parts, (part + 1) * records // parts):
            m = count[n]
            end = experts + m
            used[:] = 0
            group_replicas(
                totals[n], home, expert[n, :m], rank[n, :m], quota[n, :m],
                used, offsets, host, slot, take,
            )  # fmt: skip
            at, amount = host[:end], take[:end]
            fits[part] &= compute_side(at, amount, tile_rows, pairs[n], tiles[n])
            if several:
                split[:, :end] = 0
                split_into(loads[n], offsets, at, amount, True, split)
                many_domains(
                    split, at, domain, near_sent[n], near_received[n], far_sent[n], far_received[n]
                )
            else:
                one_domain(loads[n], offsets, at, amount, True, near_sent[n], near_received[n])
            relayed[n] = fill_relay(offsets, at, domain, parent, copies_sent[n], relay_sent[n])
            if any_tree:
                relayed[n] = fill_candidate(offsets, at, parent, relay_sent[n])
            widest = 0
            for e in range(experts):
                widest = max(widest, offsets[e + 1] - offsets[e] - 1)
            max_fanout[n] = widest
            for i in range(m):
                copies_received[n, rank[n, i]] += 1
    return fits.all()
