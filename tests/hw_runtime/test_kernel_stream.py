"""The streaming kernel on the host: bytes, flags, epochs, odd sizes, dead locks, lost flags."""

import numpy as np
import pytest
from grid_kernels import FAULTS, POISON, Ranks, grid_kernels
from host_kernels import needs_compiler

from hw_runtime.check.cases import (
    Size,
    expected_slots,
    fanout_plan,
    random_loads,
    random_weights,
    solved_plan,
    stream,
)
from hw_runtime.fabrics import Geometry
from hw_runtime.fabrics.structs import BARRIERS, EPOCH, ERROR
from ultraep_sim.fabric.tiles import plan_tiles, tile_list
from ultraep_sim.planning import EPLayout

pytestmark = needs_compiler
LAYOUT = EPLayout(12, 24, 2)
SIZES = [
    Size("whole tiles", 9 * 64, 64, 2),
    Size("tail of 1", 7 * 64 + 1, 64, 3),
    Size("odd tail", 5 * 128 + 37, 128, 2),
    Size("less than 16", 11, 64, 8),
    Size("tile of 40", 6 * 40 + 3, 40, 2),
]


def case(size, plan, *, seed=0, relay=True, misalign=0):
    geometry = Geometry(
        LAYOUT, size.copy_bytes, tile_bytes=size.tile_bytes, chunk_tiles=size.chunk_tiles
    )
    tiles = plan_tiles(
        plan, size.copy_bytes, relay=relay, tile_bytes=size.tile_bytes, chunk_tiles=size.chunk_tiles
    )
    mains = random_weights(stream(seed), LAYOUT, size.copy_bytes)
    ranks = Ranks(geometry, mains, misalign=misalign)
    ranks.use(tiles)
    return geometry, tiles, mains, ranks


def assert_delivered(ranks, plan, mains, epoch):
    g = ranks.g
    want = expected_slots(plan, mains, g.main_row)
    for r in range(LAYOUT.num_ranks):
        for slot in range(LAYOUT.slots_per_rank):
            flags = ranks.ready[r].reshape(LAYOUT.slots_per_rank, -1)[slot]
            if (r, slot) in want:
                np.testing.assert_array_equal(ranks.weights(r, slot), want[r, slot])
                assert (flags == epoch).all()
            beyond = ranks.slots[r, slot, g.copy_bytes :]
            assert (beyond == POISON).all(), "bytes behind a copy were written"
    assert not ranks.pending.any()
    assert not ranks.state[:, ERROR:].any(), "state is ready for the next launch"


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
@pytest.mark.parametrize("together", [False, True], ids=["launch a rank", "one launch"])
def test_every_replica_arrives(size, together):
    plan = fanout_plan(LAYOUT, 11, expert=3)
    _, tiles, mains, ranks = case(size, plan)
    assert tiles.relayed
    for order in range(3):
        ranks.slots[...] = POISON
        ranks.stream(order, blocks=1 + order, together=together)
        assert_delivered(ranks, plan, mains, order + 1)
        used = ranks.state[:1] if together else ranks.state
        assert (used[:, EPOCH] == order + 1).all()


@pytest.mark.parametrize("misalign", [1, 8])
def test_mains_at_odd_addresses(misalign):
    plan = solved_plan(LAYOUT, random_loads(stream(3), LAYOUT, 2048))
    _, _, mains, ranks = case(SIZES[2], plan, misalign=misalign)
    ranks.stream(0)
    assert_delivered(ranks, plan, mains, 1)


def test_sixty_random_orders():
    rng = stream(8)
    for order in range(60):
        plan = solved_plan(LAYOUT, random_loads(rng, LAYOUT, 2048)) if order % 2 else None
        plan = plan or fanout_plan(LAYOUT, 4 + order % 8, expert=order % 24)
        _, _, mains, ranks = case(SIZES[order % 2], plan, seed=order)
        ranks.stream(order, blocks=1 + order % 3)
        assert_delivered(ranks, plan, mains, 1)


def test_slots_are_overwritten_and_old_flags_do_not_count():
    plans = [fanout_plan(LAYOUT, 11, expert=e) for e in (0, 5, 0)]
    _, _, mains, ranks = case(SIZES[0], plans[0])
    for turn, plan in enumerate(plans):
        mains = random_weights(stream(turn, 1), LAYOUT, ranks.g.copy_bytes)
        again = Ranks(ranks.g, mains)
        ranks.mains, ranks.main_table = again.mains, again.main_table
        ranks.use(plan_tiles(plan, ranks.g.copy_bytes, relay=True, tile_bytes=64, chunk_tiles=2))
        ranks.stream(turn)
        assert_delivered(ranks, plan, mains, turn + 1)


def test_a_sender_that_does_not_come_is_an_error_not_a_hang():
    plan = fanout_plan(LAYOUT, 11, expert=0)
    _, tiles, _, ranks = case(SIZES[0], plan)
    structs = ranks.structs(limit=3000)
    home = int(LAYOUT.home[0])
    late = [one for r, one in enumerate(structs) if r != home]
    grid_kernels("stream").run("stream_tiles", late, order=1)
    errors = np.flatnonzero(ranks.state[:, ERROR])
    receivers = set(np.unique(tiles.copy_rank).tolist())
    assert set(errors.tolist()) == receivers
    assert not ranks.ready.any(), "a relay that gave up has nothing whole to announce"
    assert not ranks.pending.any()


def test_nothing_to_send_still_counts_the_epoch():
    plan = fanout_plan(LAYOUT, 0)
    _, _, mains, ranks = case(SIZES[0], plan)
    ranks.stream(0)
    assert_delivered(ranks, plan, mains, 1)
    assert (ranks.state[:, EPOCH] == 1).all()


def test_barrier_holds_everybody():
    _, _, _, ranks = case(SIZES[0], fanout_plan(LAYOUT, 3))
    structs = ranks.structs()
    for turn in (1, 2, 3):
        grid_kernels("stream").run("rank_barrier", structs, order=turn)
        assert (ranks.state[:, BARRIERS] == turn).all()
        assert (ranks.arrived == turn).all()
    short = ranks.structs(limit=2000)[1:]  # rank 0 does not come
    grid_kernels("stream").run("rank_barrier", short, order=9)
    assert ranks.state[1:, ERROR].all()
    assert not ranks.state[1:, ERROR + 1].any(), "they waited for rank 0"


def crossing():
    """Homes 0 and 1 relay for each other; a copy is so small that a block could hold all of it."""
    size = Size("", 3 * 64, 64, 4)
    offsets, rank = np.array([0, 3, 6, *range(7, 29)]), [0, 1, 2, 1, 0, 3]
    rank = np.array([*rank, *LAYOUT.home[2:]], np.int32)
    slot = np.where(np.isin(np.arange(len(rank)), [1, 2, 4, 5]), 0, -1).astype(np.int32)
    parent = rank.copy()
    parent[[1, 2, 4, 5]] = [0, 1, 1, 0]
    return size, tile_list(
        offsets, rank, slot, LAYOUT.num_ranks, 3 * 64, parent=parent, tile_bytes=64, chunk_tiles=4
    )


def cross(order):
    """Run the crossing relays, one block a rank, and compare."""
    size, tiles = crossing()
    _, _, mains, ranks = case(size, fanout_plan(LAYOUT, 0), seed=order)
    ranks.main_table[1] = ranks.mains[1][0].ctypes.data  # expert 1 lives on rank 1 here
    ranks.use(tiles)
    ranks.stream(order, blocks=1)
    for r, expert in ((1, 0), (2, 0), (0, 1), (3, 1)):
        want = mains[0][0] if expert == 0 else mains[1][0]
        np.testing.assert_array_equal(ranks.weights(r, 0), want)


def test_relays_that_wait_for_each_other_do_not_lock():
    for order in range(20):
        cross(order)


def hunt(orders):
    """Many orders of relays: enough to notice a broken kernel."""
    for order in range(orders):
        cross(order)
        plan = fanout_plan(LAYOUT, 11, expert=order % 24)
        _, _, mains, ranks = case(SIZES[2 * (order % 2)], plan, seed=order)
        ranks.stream(order, blocks=1 + order % 2)
        assert_delivered(ranks, plan, mains, 1)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_kernel_is_noticed(fault):
    kernels = grid_kernels("stream")
    hunt(2)
    kernels.break_with(fault)
    try:
        with pytest.raises(AssertionError):
            hunt(60)
    finally:
        kernels.break_with(None)
