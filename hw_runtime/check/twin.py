"""The simulator's transfers are these: same task list, same bytes per link, same relay tree.

What the host fabric has stored and read, byte by byte, is compared with what the simulator counts
on its links for the same plan. The suite always runs on the host fabric, which counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from ultraep_sim.fabric.tiles import TileList, plan_tiles
from ultraep_sim.planning import EPLayout, Plan, relay_tree

from ..fabrics import Geometry
from ..reduction import gradient_list
from . import cases
from .suite import Case, Context, Mismatch, require_equal


def suite(context: Context) -> Iterator[Case]:
    """Yield direct and relayed distributions, and the gradient reduction."""
    layout = EPLayout(24, 48, 2)
    loads = cases.random_loads(cases.stream(context.seed, 6), layout, 4096)
    plans = {
        "solved plan": cases.solved_plan(layout, loads),
        "fan-out 23": cases.fanout_plan(layout, 23),
    }
    for name, plan in plans.items():
        for relay in (False, True):
            yield (
                f"{name}, {'relay' if relay else 'direct'}",
                partial(_weights, context, plan, relay),
            )
        yield f"{name}, gradients", partial(_gradients, context, plan)


def _weights(context: Context, plan: Plan, relay: bool) -> tuple[int, str]:
    from ultraep_sim.fabric.tile_stream import StreamModel, stream
    from ultraep_sim.model import get_rack

    size = cases.Size("", 7 * 64 + 5, 64, 2)
    geometry = Geometry(
        plan.layout, size.copy_bytes, tile_bytes=size.tile_bytes, chunk_tiles=size.chunk_tiles
    )
    tiles = plan_tiles(
        plan, size.copy_bytes, relay=relay, tile_bytes=size.tile_bytes, chunk_tiles=size.chunk_tiles
    )
    _same_tree(plan, tiles, relay)
    with context.open_host(geometry, 0) as fabric:
        weights = cases.random_weights(cases.stream(context.seed, 7), plan.layout, size.copy_bytes)
        fabric.distribute(tiles, weights)
        require_equal(fabric.sent, tiles.pair_bytes, "bytes [source, destination] of the list")
        stores = stream(tiles, StreamModel.of(get_rack("paper-rack64"))).stores
        simulated = np.zeros_like(fabric.sent)
        np.add.at(simulated, (stores.source, stores.destination), stores.size)
        require_equal(fabric.sent, simulated, "bytes [source, destination] of the simulator")
        moved = int(fabric.sent.sum())
    return moved, "bytes, each on the link the simulator puts it on"


def _same_tree(plan: Plan, tiles: TileList, relay: bool) -> None:
    """Hold who sends to whom in the list against the relay rule."""
    parent = np.repeat(plan.rank[plan.offsets[:-1]], np.diff(plan.offsets))
    if relay:
        layout = plan.layout
        parent, _ = relay_tree(plan.offsets, plan.rank, layout.num_ranks, layout.domain)
    source = np.repeat(tiles.task_source, np.diff(tiles.copy_offsets))
    wrong = np.flatnonzero(source != parent[tiles.copy_instance])
    if wrong.size:
        raise Mismatch(f"copy {wrong[0]} comes from rank {source[wrong[0]]}, not from its parent")


def _gradients(context: Context, plan: Plan) -> tuple[int, str]:
    from ultraep_sim.fabric.gradient_tiles import ReductionModel, reduce_tiles
    from ultraep_sim.model import get_rack

    geometry = Geometry(plan.layout, 64, 1031)
    work = gradient_list(plan, geometry.main_row)
    with context.open_host(geometry, 0) as fabric:
        mains = [np.zeros((int(n), 1031), np.float32) for n in plan.layout.mains_per_rank]
        fabric.reduce(work, mains)
        require_equal(fabric.read, work.pair_bytes(1031 * 4), "bytes [replica, home] of the list")
        result = reduce_tiles(plan, 1031 * 4, ReductionModel.of(get_rack("paper-rack64")))
        simulated = np.zeros_like(fabric.read)
        np.add.at(simulated, (result.server, result.home), result.size)
        require_equal(fabric.read, simulated, "bytes [replica, home] of the simulator")
        moved = int(fabric.read.sum())
    return moved, "bytes, each on the link the simulator puts it on"
