"""The device's task lists are the CPU's, bit for bit: tasks, entries, relays, gradients."""

import re

import numpy as np
import pytest
from grid_kernels import grid_kernels, listed, struct
from host_kernels import needs_compiler

from hw_runtime.check.cases import fanout_plan, random_loads, solved_plan, stream
from hw_runtime.compile import KERNELS
from hw_runtime.fabrics import Geometry
from hw_runtime.fabrics import structs as layout_of
from hw_runtime.fabrics.structs import TASKS, gradient_arrays, task_numbers, tile_arrays
from hw_runtime.reduction import gradient_list
from ultraep_sim.errors import InputError
from ultraep_sim.fabric.tiles import plan_tiles
from ultraep_sim.planning import EPLayout, QuotaSolver
from ultraep_sim.planning.assemble import plan_from_replicas
from ultraep_sim.planning.quota import Solution

LAYOUTS = [
    EPLayout(16, 64, 2),
    EPLayout(8, 32, 2),
    EPLayout(12, 5, 3),
    EPLayout(9, 20, 1, home=[i * 7 % 9 for i in range(20)]),
    EPLayout(72, 96, 2),
]


def opened(plan, rng):
    """Give a plan's replicas in a random order of opening, and the plan of that order."""
    which = rng.permutation(np.flatnonzero(plan.is_replica))
    solution = Solution(0, plan.expert[which], plan.rank[which], plan.quota[which])
    again = plan_from_replicas(plan.layout, plan.loads, *solution[1:])
    return solution, again


def cases(layout, seed):
    rng = stream(seed, layout.num_ranks)
    loads = random_loads(rng, layout, 2048)
    solution = QuotaSolver(layout).solve(loads.sum(axis=0))
    yield solution, solved_plan(layout, loads)
    wide = min(layout.num_ranks - 1, 63)
    for fanout in (0, 1, 3, wide):
        yield opened(fanout_plan(layout, fanout, expert=layout.num_experts - 1), rng)
    yield crowded(layout, rng)


def crowded(layout, rng):
    """Fill every slot with replicas of few experts, so that several of them are relayed."""
    expert, rank = [], []
    for _ in range(layout.slots_per_rank):
        for r in rng.permutation(layout.num_ranks):
            for e in rng.permutation(min(4, layout.num_experts)):
                if layout.home[e] != r and (e, r) not in set(zip(expert, rank, strict=True)):
                    expert.append(int(e))
                    rank.append(int(r))
                    break
    ints = (np.array(expert, np.int32), np.array(rank, np.int32), np.zeros(len(rank), np.int64))
    loads = np.ones((1, layout.num_experts), np.int64)
    return Solution(0, *ints), plan_from_replicas(layout, loads, *ints)


@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"EP{layout.num_ranks}")
@pytest.mark.parametrize("relay", [False, True])
def test_lists_are_bit_identical(layout, relay):
    geometry = Geometry(layout, 10 * 64 + 5, 3, tile_bytes=64, chunk_tiles=4)
    relayed = 0
    for number, (solution, plan) in enumerate(cases(layout, 5)):
        tiles = plan_tiles(plan, geometry.copy_bytes, relay=relay, tile_bytes=64, chunk_tiles=4)
        relayed += tiles.relayed
        out, tasks, gradients = listed(geometry, solution, layout.home, relay, order=number)
        instances = layout.num_experts + len(solution.expert)
        np.testing.assert_array_equal(out["offsets"], plan.offsets)
        np.testing.assert_array_equal(out["out_rank"][:instances], plan.rank)
        np.testing.assert_array_equal(out["out_slot"][:instances], plan.slot)
        for name, want in tile_arrays(tiles, geometry).items():
            np.testing.assert_array_equal(tasks[name], want, err_msg=name)
        work = gradient_list(plan, geometry.main_row)
        for name, want in gradient_arrays(work, geometry).items():
            np.testing.assert_array_equal(gradients[name], want, err_msg=name)
        entries(geometry, tasks, tiles)
    assert relayed == 0 or relay
    assert relayed or not relay or layout.num_ranks <= 8


def entries(geometry, tasks, tiles):
    """Expand every sender's list and the global one: TileList's entries in TileList's order."""
    ranks = geometry.layout.num_ranks
    record = struct(TASKS, tasks, **task_numbers(geometry))
    lists = [*range(0, ranks, 5), ranks]
    for which in lists:
        count = len(tiles.entry_task)
        want = np.arange(count)
        if which < ranks:
            begin, end = tiles.sender_offsets[which : which + 2]
            want = tiles.sender_entries[begin:end]
        task, tile = np.full(count + 1, -1, np.int32), np.full(count + 1, -1, np.int32)
        grid_kernels("tasks").run("list_entries_of", [[record, which, task, tile]], blocks=2)
        np.testing.assert_array_equal(task[: len(want)], tiles.entry_task[want])
        np.testing.assert_array_equal(tile[: len(want)], tiles.entry_tile[want])
        assert (task[len(want) :] == -1).all()


@pytest.mark.parametrize(
    ("file", "name", "fields"),
    [
        ("tiles.cuh", "TaskArrays", layout_of.TASKS),
        ("tasks.cu", "PlanArrays", layout_of.PLAN),
        ("tasks.cu", "GradientArrays", layout_of.GRADIENTS),
        ("stream.cu", "StreamArgs", layout_of.STREAM),
        ("reduce.cu", "ReduceArgs", layout_of.REDUCE),
    ],
)
def test_structs_have_the_fields_python_writes(file, name, fields):
    found = fields_of(file, name)
    if found[0] == "tasks":
        found = [*layout_of.TASKS, *found[1:]]
    assert tuple(found) == fields


def fields_of(file, name):
    body = re.search(rf"struct {name} \{{(.*?)\n\}};", (KERNELS / file).read_text(), re.S)[1]
    body = re.sub(r"//.*", "", body)
    return [
        re.search(r"\w+$", part.strip())[0]
        for line in body.split(";")
        for part in line.split(",")
        if part.strip()
    ]


def test_constants_are_the_kernels():
    text = (KERNELS / "stream.cu").read_text()
    assert f"constexpr int kStages = {layout_of.STAGES};" in text
    assert f"constexpr u32 kHead = {layout_of.SHARED_HEAD};" in text
    assert fields_of("stream.cu", "StreamState")[:4] == ["epoch", "barriers", "error", "where"]
    bits = int(re.search(r"kIndexBits = (\d+)", (KERNELS / "tasks.cu").read_text())[1])
    assert 1 << bits >= layout_of.MAX_RANKS
    assert layout_of.stream_shared_bytes(32768) <= 227 * 1024
    with pytest.raises(InputError, match="too many ranks"):
        layout_of.capacity(Geometry(EPLayout(2000, 8, 1), 64))
