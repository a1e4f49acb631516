"""Relay or not: by the published rule, or by what the time model says it saves.

The rule (`ultraep_sim.planning.relay`) relays from four replicas on, only if the busiest sender is
relieved by two copies, never in small domains. By modelled gain every tree is a candidate, and it
is taken where the modelled distribution ends earlier: on a tie the direct way is kept.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..model.profiles import RackProfile
from ..planning.plan import Plan
from ..planning.relay import MIN_FANOUT, fill_candidate
from .streaming import Far, distribute
from .tile_stream import StreamModel, StreamResult, stream
from .tiles import CHUNK_TILES, TILE_BYTES, TileList, plan_tiles, tile_list

Counts = NDArray[np.integer[Any]]
Seconds = NDArray[np.float64]
Decide = Literal["off", "rule", "gain"]


def candidate_tree(
    offsets: NDArray[np.int64],
    rank: NDArray[np.int32],
    num_ranks: int,
    min_fanout: int = MIN_FANOUT,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Relay every expert from ``min_fanout`` replicas on, whatever it gains.

    Parameters
    ----------
    offsets : ndarray of int64, shape [experts + 1]
    rank : ndarray of int32, shape [instances]
    num_ranks : int
    min_fanout : int
        At least 2.

    Returns
    -------
    parent : ndarray of int32, shape [instances]
        Sending rank of each replica; the host itself for a main.
    sent : ndarray of int64, shape [ranks]
        Copies each rank sends.
    """
    parent = np.empty(rank.shape[0], np.int32)
    sent = np.zeros(num_ranks, np.int64)
    fill_candidate(offsets, rank, parent, sent, min_fanout)
    return parent, sent


def choose_tiles(
    plan: Plan,
    copy_bytes: int,
    model: StreamModel,
    *,
    decide: Decide = "rule",
    tile_bytes: int = TILE_BYTES,
    chunk_tiles: int = CHUNK_TILES,
) -> tuple[TileList, StreamResult]:
    """List and run a plan's distribution, relayed where that is decided.

    Parameters
    ----------
    plan : Plan
    copy_bytes : int
    model : StreamModel
    decide : {"off", "rule", "gain"}
        ``gain`` runs the direct list and the candidate tree and keeps the faster.
    tile_bytes, chunk_tiles : int

    Returns
    -------
    TileList, StreamResult

    Raises
    ------
    InputError
        Another choice.
    """
    sizes = {"tile_bytes": tile_bytes, "chunk_tiles": chunk_tiles}
    if decide not in get_args(Decide):
        raise InputError(
            "unknown choice", place="decide", value=decide,
            remedy=f"one of {', '.join(get_args(Decide))}",
        )  # fmt: skip
    tiles = plan_tiles(plan, copy_bytes, relay=decide == "rule", **sizes)
    result = stream(tiles, model)
    if decide != "gain" or plan.max_fanout < MIN_FANOUT:
        return tiles, result
    parent, _ = candidate_tree(plan.offsets, plan.rank, plan.layout.num_ranks)
    other = tile_list(
        plan.offsets, plan.rank, plan.slot, plan.layout.num_ranks, copy_bytes,
        parent=parent, **sizes,
    )  # fmt: skip
    relayed = stream(other, model)
    return (other, relayed) if relayed.seconds < result.seconds else (tiles, result)


def distribute_gain(
    rack: RackProfile,
    sent: Counts,
    received: Counts,
    relay_sent: Counts,
    copy_bytes: float,
    far: Far | None = None,
    far_relay: Far | None = None,
) -> tuple[Seconds, NDArray[np.bool_]]:
    """Time the distribution in closed form, relayed where that ends earlier.

    Parameters
    ----------
    rack : RackProfile
    sent, received : integer ndarray [N, R]
        Copies each rank sends directly, and receives.
    relay_sent : integer ndarray [N, R]
        Copies each rank sends under a tree; a record in which it equals ``sent`` has no tree.
        ``LoadStats.relay_sent`` holds the rule's trees only, `planning.relay.fill_candidate`
        all of them.
    copy_bytes : float
    far, far_relay : pair of integer ndarray [N, R], optional
        Those that cross domains, directly and under the tree.

    Returns
    -------
    seconds : ndarray of float64 [N, R]
    relayed : ndarray of bool [N]
    """
    direct = distribute(rack, sent, received, copy_bytes, far=far)
    tree = (np.asarray(relay_sent) != sent).any(axis=-1)
    through = distribute(rack, relay_sent, received, copy_bytes, tree, far_relay)
    relayed = tree & (through.max(axis=-1) < direct.max(axis=-1))
    return np.where(relayed[:, None], through, direct), relayed
