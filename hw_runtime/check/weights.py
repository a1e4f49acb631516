"""Weights are bitwise equal to their mains after a distribution, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from ultraep_sim.fabric.tiles import plan_tiles
from ultraep_sim.planning import EPLayout, MosaicOptions, Plan, QuotaOptions

from ..fabrics import Geometry
from . import cases
from .path import ids_to_weights
from .suite import Case, Context, Mismatch, require_equal

POISON = 0xA5
ORDERS = 3
LARGE = 100_000
"""Copies above these bytes are distributed in one order only: they take long to compare."""
DTYPES = {"bf16": (40, 64, 2), "fp16": (40, 64, 2), "fp8 + scales": (1, 96 * 32 + 4 * 24, 1)}
"""Weights of one expert as bytes: rows, columns, bytes of an element; fp8 with its fp32 scales."""


def suite(context: Context) -> Iterator[Case]:
    """Yield a case for every size, fan-out and dtype, direct and relayed."""
    ranks = context.ranks(16)
    layout = EPLayout(ranks, 2 * ranks, 2)
    loads = cases.random_loads(cases.stream(context.seed, 1), layout, 4096)
    solved = cases.solved_plan(layout, loads)
    wide = cases.fanout_plan(layout, min(13, ranks - 1), expert=ranks - 1)
    for size in cases.SIZES:
        for name, plan, relay in (("direct", solved, False), ("relay", wide, True)):
            yield (
                f"{size.name}, {name}",
                partial(_sync, context, plan, size, relay),
            )
    for fanouts in (range(1, 8), range(8, 24), range(24, 64)):
        label = f"fan-out {fanouts[0]}-{fanouts[-1]}"
        yield label, partial(_fanouts, context, fanouts)
    for name, (rows, columns, width) in DTYPES.items():
        size = cases.Size(name, rows * columns * width, 256, 4)
        yield f"{name} as bytes", partial(_sync, context, solved, size, True)
    if context.fabric != "host":
        from ..planners import planner_of

        for options in (QuotaOptions(), MosaicOptions()):
            policy = planner_of(options).policy
            yield (
                f"from ids on by {policy}, no host between",
                partial(ids_to_weights, context, options),
            )


def _fanouts(context: Context, fanouts: range) -> tuple[int, str]:
    ranks = context.ranks(64)
    layout = EPLayout(ranks, ranks, 1)
    checked = 0
    for fanout in fanouts:
        plan = cases.fanout_plan(layout, min(fanout, ranks - 1), expert=fanout % ranks)
        checked += _sync(context, plan, cases.Size("", 5 * 48 + 7, 48, 2), True, orders=1)[0]
    return checked, "bytes of replicas equal their mains"


def _sync(
    context: Context, plan: Plan, size: cases.Size, relay: bool, orders: int = ORDERS
) -> tuple[int, str]:
    """Distribute twice into the same slots, other weights each time, and compare every byte."""
    geometry = Geometry(
        plan.layout, size.copy_bytes, tile_bytes=size.tile_bytes, chunk_tiles=size.chunk_tiles
    )
    tiles = plan_tiles(
        plan, size.copy_bytes, relay=relay, tile_bytes=size.tile_bytes, chunk_tiles=size.chunk_tiles
    )
    if size.copy_bytes > LARGE:
        orders = 1
    checked = 0
    for order in range(orders):
        with context.open(geometry, order) as fabric:
            for r in fabric.local_ranks:
                fabric.slots(r)[...] = POISON
            fabric.barrier()
            for turn in range(2):
                rng = cases.stream(context.seed, 2, order, turn)
                weights = cases.random_weights(rng, plan.layout, size.copy_bytes)
                epoch = fabric.distribute(tiles, [context.put(rows) for rows in weights])
                fabric.synchronize()
                if epoch != turn + 1:
                    raise Mismatch(f"distribution {turn + 1} has epoch {epoch}")
                want = cases.expected_slots(plan, weights, geometry.main_row)
                for r in fabric.local_ranks:
                    held = context.get(fabric.acquire(tiles, epoch, r))
                    for slot in range(plan.layout.slots_per_rank):
                        idle = np.full(size.copy_bytes, POISON, np.uint8)
                        place = f"epoch {epoch}, rank {r}, slot {slot}"
                        require_equal(held[slot], want.get((r, slot), idle), place)
                        checked += size.copy_bytes
                    fabric.release(r)
                fabric.barrier()
    return checked, "bytes: replicas equal their mains, idle slots stay poisoned"
