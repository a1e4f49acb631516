"""The host fabric: it does what the list says, in any order, and says what is wrong."""

import numpy as np
import pytest

from hw_runtime.bf16 import from_float, to_float
from hw_runtime.check.cases import (
    SIZES,
    expected_slots,
    fanout_plan,
    random_loads,
    random_weights,
    solved_plan,
    stream,
)
from hw_runtime.errors import FabricError
from hw_runtime.fabrics import Geometry, open_fabric
from hw_runtime.fabrics.actors import Start, Wait, play
from hw_runtime.fabrics.host import POISON, HostFabric
from hw_runtime.reduction import gradient_list, ordered_sum
from ultraep_sim.errors import InputError
from ultraep_sim.fabric.tiles import plan_tiles
from ultraep_sim.planning import EPLayout

LAYOUT = EPLayout(12, 24, 2)


def case(size=SIZES[1], *, plan=None, **more):
    geometry = Geometry(
        LAYOUT, size.copy_bytes, tile_bytes=size.tile_bytes, chunk_tiles=size.chunk_tiles, **more
    )
    plan = plan or fanout_plan(LAYOUT, 9)
    tiles = plan_tiles(
        plan, size.copy_bytes, relay=True, tile_bytes=size.tile_bytes, chunk_tiles=size.chunk_tiles
    )
    return geometry, plan, tiles, random_weights(stream(1), LAYOUT, size.copy_bytes)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
@pytest.mark.parametrize("workers", [1, 3])
def test_every_replica_is_its_main(size, workers):
    geometry, plan, tiles, mains = case(size)
    assert tiles.relayed
    for seed in (None, 0, 1):
        fabric = HostFabric(geometry, workers=workers, seed=seed)
        epoch = fabric.distribute(tiles, mains)
        want = expected_slots(plan, mains, geometry.main_row)
        for (rank, slot), weights in want.items():
            assert np.array_equal(fabric.acquire(tiles, epoch, rank)[slot], weights)
            fabric.release(rank)
        for rank in range(LAYOUT.num_ranks):
            for slot in set(range(2)) - {s for r, s in want if r == rank}:
                assert (fabric.slots(rank)[slot] == POISON).all()
        assert np.array_equal(fabric.sent, tiles.pair_bytes)


def test_an_order_is_repeatable_and_seeds_differ():
    geometry, _, tiles, mains = case()
    taken = []
    for seed in (3, 3, 4):
        fabric = HostFabric(geometry, seed=seed)
        log = []
        store = fabric.store
        fabric.store = lambda *a, store=store, log=log: (log.append(a[:3]), store(*a))
        fabric.distribute(tiles, mains)
        taken.append(log)
    assert taken[0] == taken[1]
    assert taken[0] != taken[2]
    assert sorted(taken[0]) == sorted(taken[2])


def test_flags_outlive_a_distribution_and_epochs_grow():
    geometry, plan, tiles, mains = case(sets=2)
    fabric = HostFabric(geometry, seed=5)
    first = fabric.distribute(tiles, mains, 0)
    other = random_weights(stream(2), LAYOUT, geometry.copy_bytes)
    second = fabric.distribute(tiles, other, 1)
    assert second == first + 1
    rank, slot = next(iter(expected_slots(plan, mains, geometry.main_row)))
    one, two = fabric.acquire(tiles, first, rank, 0), fabric.acquire(tiles, second, rank, 1)
    assert not np.array_equal(one[slot], two[slot])
    with pytest.raises(FabricError, match="would be overwritten while rank"):
        fabric.distribute(tiles, mains, 0)
    fabric.release(rank, 0)
    assert fabric.distribute(tiles, other, 0) == second + 1
    with pytest.raises(FabricError, match="acquires epoch 1 of slot"):
        fabric.acquire(tiles, first, rank, 0)
    with pytest.raises(FabricError, match="without having acquired"):
        fabric.release(rank, 0)
    fabric.reset()
    assert fabric.distribute(tiles, mains, 0) == 1


def test_a_lost_flag_is_an_error_that_says_who_waits_for_what():
    geometry, _, tiles, mains = case()
    with pytest.raises(FabricError, match=r"hangs.*waits for epoch 1 of chunk . of slot 0"):
        HostFabric(geometry, fault="drop_flag").distribute(tiles, mains)


def test_actors_run_each_step_once_and_start_others():
    seen = []

    def child(name):
        yield None
        seen.append(name)

    def parent():
        yield Start((child("a"), child("b")))
        yield Wait(lambda: len(seen) == 2, lambda: "two children")
        seen.append("parent")

    play([parent()], np.random.default_rng(0))
    assert sorted(seen[:2]) == ["a", "b"]
    assert seen[2] == "parent"
    with pytest.raises(FabricError, match="all 2 actors wait: never; never"):
        play(iter([_never(), _never()]))


def _never():
    yield Wait(lambda: False, lambda: "never")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_gradients_are_added_in_order_and_zeroed(dtype, seed):
    plan = solved_plan(LAYOUT, random_loads(stream(0), LAYOUT, 4096))
    assert plan.max_fanout >= 3
    geometry = Geometry(LAYOUT, 64, 33, dtype)
    fabric = HostFabric(geometry, seed=seed)
    rng = stream(9)

    def draw(shape):
        values = (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 4, shape)).astype("f4")
        return from_float(values) if dtype == "bf16" else values

    mains = [draw((int(n), 33)) for n in LAYOUT.mains_per_rank]
    for i in np.flatnonzero(plan.is_replica):
        fabric.gradients(plan.rank[i])[plan.slot[i]] = draw(33)
    want = [rows.copy() for rows in mains]
    for e in range(LAYOUT.num_experts):
        span = np.arange(plan.offsets[e] + 1, plan.offsets[e + 1])
        target = want[LAYOUT.home[e]][geometry.main_row[e]]
        total = to_float(target) if dtype == "bf16" else target.copy()
        for i in span[np.argsort(plan.rank[span])]:
            replica = fabric.gradients(plan.rank[i])[plan.slot[i]]
            total += to_float(replica) if dtype == "bf16" else replica
        if span.size:
            target[:] = from_float(total) if dtype == "bf16" else total
    work = gradient_list(plan, geometry.main_row)
    fabric.reduce(work, mains, sms=4)
    for got, expected in zip(mains, want, strict=True):
        assert np.array_equal(got, expected)
    assert not fabric._gradients.any()
    assert np.array_equal(fabric.read, work.pair_bytes(33 * (2 if dtype == "bf16" else 4)))


def test_bf16_rounds_like_torch():
    torch = pytest.importorskip("torch")
    bits = stream(4).integers(0, 2**32, 20000, np.uint32)
    values = np.concatenate((bits.view("f4"), np.array([0.0, -0.0, np.inf, -np.inf], "f4")))
    ours = to_float(from_float(values))
    theirs = torch.from_numpy(values.copy()).bfloat16().float().numpy()
    assert np.array_equal(ours, theirs, equal_nan=True)


def test_mixed_dtypes_accumulate_in_fp32():
    main = np.zeros(1, np.uint16)
    ordered_sum(main, [np.full(1, 1.0, "f4"), np.full(1, 2.0**-8, "f4"), np.full(1, 2.0**-8, "f4")])
    assert to_float(main)[0] == 1.0 + 2.0**-7  # each half-ulp alone would be rounded away


def bad(message, call):
    with pytest.raises(InputError, match=message):
        call()


def test_bad_input_is_named():
    geometry, _, tiles, mains = case()
    fabric = HostFabric(geometry)
    bad(
        "copy_bytes: the task list was made for",
        lambda: fabric.distribute(case(SIZES[0])[2], mains),
    )
    bad("no such set", lambda: fabric.distribute(tiles, mains, 1))
    bad("no main weights for every rank", lambda: fabric.distribute(tiles, mains[1:]))
    short = [mains[0][:, :-1], *mains[1:]]
    bad(r"mains\[0\]: main weights do not fit", lambda: fabric.distribute(tiles, short))
    bad("more ranks than the scale-up domain", lambda: Geometry(EPLayout(8, 8, 1, 4), 64))
    bad("copy_bytes: not a positive", lambda: Geometry(LAYOUT, 0))
    bad("unknown gradient dtype", lambda: Geometry(LAYOUT, 64, 3, "fp16"))
    bad("unknown fabric", lambda: open_fabric("nvshmem", geometry))
    bad("unknown fault", lambda: HostFabric(geometry, fault="cosmic_ray"))
    bad("no worker", lambda: HostFabric(geometry, workers=0))
    none = EPLayout(12, 24, 1)
    deep = solved_plan(LAYOUT, random_loads(stream(0), LAYOUT, 4096))
    wide = plan_tiles(deep, 64)
    assert wide.copy_slot.max() == 1
    bad("slot that does not exist", lambda: Geometry(none, 64).check_tiles(wide))
    bad("another group", lambda: Geometry(EPLayout(11, 24, 2), 64).check_tiles(wide))


def test_nothing_to_send():
    plan = fanout_plan(LAYOUT, 0)
    geometry, _, tiles, mains = case(plan=plan)
    fabric = HostFabric(geometry, seed=0)
    assert fabric.distribute(tiles, mains) == 1
    fabric.reduce(gradient_list(plan, geometry.main_row), mains)
    assert fabric.sent.sum() == fabric.read.sum() == 0
