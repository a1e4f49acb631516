"""Races hunted on the host fabric: whole steps of several micro-batches in seeded random orders.

Each rank has two programs, as a GPU has two streams. The *transfer* program of micro-batch ``m``
waits until the rank itself has read micro-batch ``m - sets``, comes to the barrier, and
distributes into set ``m mod sets``. The *compute* program acquires each micro-batch's replicas
and reads them tile by tile while others already write the next. Whatever a reader saw must be
its own micro-batch's weights, whole.

The suite always runs on the host fabric: there the order of steps can be chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.fabric.tiles import TileList, plan_tiles
from ultraep_sim.planning import EPLayout, Plan

from ..fabrics import Geometry
from ..fabrics.actors import Actor, Wait, play
from ..fabrics.host import HostFabric
from . import cases
from .suite import Case, Context, require_equal

MICRO_BATCHES = 4
Weights = list[NDArray[np.uint8]]


def suite(context: Context) -> Iterator[Case]:
    """Yield one case for one set of slots, and one for two."""
    for sets in (1, 2):
        name = f"{context.orders} orders, {MICRO_BATCHES} micro-batches, {sets} set(s) of slots"
        yield name, partial(_orders, context, sets)


def _orders(context: Context, sets: int) -> tuple[int, str]:
    layout = EPLayout(10, 12, 2)
    size = cases.Size("", 5 * 32 + 9, 32, 2)
    geometry = Geometry(
        layout, size.copy_bytes, sets=sets, tile_bytes=size.tile_bytes, chunk_tiles=size.chunk_tiles
    )
    rng = cases.stream(context.seed, 5, sets)
    plans: list[Plan] = []
    for m in range(MICRO_BATCHES):  # a wide one, so that relays take part, then what loads give
        loads = cases.random_loads(rng, layout, 512)
        wide = cases.fanout_plan(layout, 9, expert=m)
        plans.append(wide if m % 2 == 0 else cases.solved_plan(layout, loads))
    tiles = [
        plan_tiles(
            plan, size.copy_bytes, relay=True, tile_bytes=size.tile_bytes,
            chunk_tiles=size.chunk_tiles,
        )
        for plan in plans
    ]  # fmt: skip
    weights = [cases.random_weights(rng, layout, size.copy_bytes) for _ in plans]
    checked = 0
    for order in range(context.orders):
        with context.open_host(geometry, order) as fabric:
            seen = run_micro_batches(fabric, tiles, weights)
        for m, plan in enumerate(plans):
            for (r, slot), want in cases.expected_slots(
                plan, weights[m], geometry.main_row
            ).items():
                place = f"order {order}, micro-batch {m}, rank {r}, slot {slot}"
                require_equal(seen[m][r][slot], want, place)
                checked += 1
    return checked, "replicas read whole and in time"


def run_micro_batches(
    fabric: HostFabric, tiles: list[TileList], weights: list[Weights]
) -> list[list[dict[int, NDArray[np.uint8]]]]:
    """Run all programs of all ranks; return what each reader saw, [micro-batch][rank][slot]."""
    ranks = fabric.local_ranks
    seen: list[list[dict[int, NDArray[np.uint8]]]] = [[{} for _ in ranks] for _ in tiles]
    read = np.zeros(len(ranks), np.int64)  # micro-batches that a rank has read
    sets = fabric.geometry.sets

    def transfer(rank: int) -> Actor:
        for m, each in enumerate(tiles):
            if fabric.fault != "missing_barrier":
                yield Wait(
                    lambda m=m: bool(read[rank] > m - sets),  # type: ignore[misc]  # bound now
                    lambda m=m: f"rank {rank} waits to have read {m - sets}",  # type: ignore[misc]
                )
            yield from fabric.barrier_steps(rank)
            yield from fabric.distribute_steps(rank, each, weights[m], m % sets)

    def compute(rank: int) -> Actor:
        for m, each in enumerate(tiles):
            yield from fabric.read_steps(rank, each, m + 1, m % sets, seen[m][rank])
            read[rank] += 1

    play([program(r) for r in ranks for program in (transfer, compute)], fabric.order)
    return seen
