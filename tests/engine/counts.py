"""Load statistics for tests: named counts, zero where nothing is said."""

from __future__ import annotations

from typing import Any

import numpy as np

from ultraep_sim.model.provenance import Quantity
from ultraep_sim.planning.stats import LoadStats
from ultraep_sim.policies.base import DecisionPrice, Transport

PER_RANK = (
    "pairs", "tiles", "near_sent", "near_received", "far_sent", "far_received",
    "copies_sent", "copies_received", "relay_sent", "moved_copies",
    "far_copies_sent", "far_copies_received", "far_relay_sent", "far_relay_received",
)  # fmt: skip


def make_stats(**counts: Any) -> LoadStats:
    """Build stats of N records on R ranks; a flat list is one record.

    ``tiles`` of three axes are those of every instance; else a rank has one instance.
    """
    given = {name: np.atleast_2d(np.asarray(v)) for name, v in counts.items() if name in PER_RANK}
    tiles = given.pop("tiles", np.zeros((1, 1), np.int64))
    tiles = tiles if tiles.ndim == 3 else tiles[..., None]
    shape = np.broadcast_shapes(tiles.shape[:2], *(v.shape for v in given.values()))
    arrays = {name: np.zeros(shape, np.int64) for name in PER_RANK}
    for name, values in given.items():
        arrays[name] = np.broadcast_to(values, shape).astype(np.int64)
    arrays["tiles"] = np.broadcast_to(tiles, (*shape, tiles.shape[2])).astype(np.int32)
    if "relay_sent" not in given:
        arrays["relay_sent"] = arrays["copies_sent"]
    flags = {
        name: np.broadcast_to(np.asarray(counts.get(name, False)), shape[:1])
        for name in ("relayed", "crosses")
    }
    return LoadStats(
        **arrays,
        **flags,
        replicas=arrays["copies_received"].sum(axis=1),
        max_fanout=arrays["copies_sent"].max(axis=1),
    )


def make_price(
    exchange: float = 0,
    solve: float = 0,
    tasks: float = 0,
    reroute: float = 0,
    transport: Transport = "none",
    relay: bool = False,
    hidden: bool = False,
    prefetched: bool = False,
) -> DecisionPrice:
    """Build a price from microseconds."""
    parts = [Quantity(us, "us", "measured", "test") for us in (exchange, solve, tasks, reroute)]
    return DecisionPrice(*parts, transport, relay, hidden, prefetched)
