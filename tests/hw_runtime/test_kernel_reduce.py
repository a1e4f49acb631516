"""The reduction kernel on the host: the ordered sum bit for bit, zeros, nothing beside them."""

import numpy as np
import pytest
from grid_kernels import aligned, grid_kernels, reduce_struct
from host_kernels import needs_compiler

from hw_runtime.check.cases import fanout_plan, random_loads, solved_plan, stream
from hw_runtime.check.gradients import reference, values
from hw_runtime.fabrics import Geometry
from hw_runtime.fabrics.structs import REDUCE_THREADS
from hw_runtime.reduction import gradient_list
from ultraep_sim.planning import EPLayout

pytestmark = needs_compiler
LAYOUT = EPLayout(8, 16, 2)
WIDTH = {"fp32": 4, "bf16": 2}
TYPES = {"fp32": np.float32, "bf16": np.uint16}


def run(plan, main, replica, elements, *, blocks, order, together, misalign=0):
    geometry = Geometry(LAYOUT, 64, elements, replica)
    rng = stream(2, elements)
    mains = [values(rng, (int(n), elements), main) for n in LAYOUT.mains_per_rank]
    stride = -(-elements * WIDTH[replica] // 128) * 128
    slots = aligned((LAYOUT.num_ranks, 2, stride // WIDTH[replica]), TYPES[replica], 77)
    replicas = {}
    for i in np.flatnonzero(plan.is_replica):
        key = int(plan.rank[i]), int(plan.slot[i])
        replicas[key] = values(rng, (elements,), replica)
        slots[key][:elements] = replicas[key]
    want = reference(plan, mains, replicas, geometry.main_row)
    row = -(-elements * WIDTH[main] // 16) * 16 // WIDTH[main] + 16
    kept = [aligned((len(m), row), TYPES[main], 55) for m in mains]
    for array, m in zip(kept, mains, strict=True):
        array[:, misalign : misalign + elements] = m
    table = np.array(
        [
            kept[LAYOUT.home[e]][geometry.main_row[e]].ctypes.data + misalign * WIDTH[main]
            for e in range(LAYOUT.num_experts)
        ],
        np.int64,
    )
    slot_table = np.array([one.ctypes.data for one in slots], np.int64)
    work = gradient_list(plan, geometry.main_row)
    launches = [
        reduce_struct(geometry, work, table, slot_table, stride, r)
        for r in ([LAYOUT.num_ranks] if together else range(LAYOUT.num_ranks))
    ]
    grid_kernels("reduce").run(
        f"reduce_{main}_{replica}",
        [[one] for one, _ in launches],
        blocks=blocks,
        threads=REDUCE_THREADS,
        order=order,
    )
    for got, expected in zip(kept, want, strict=True):
        part = got[:, misalign : misalign + elements]
        np.testing.assert_array_equal(
            part.view(f"u{WIDTH[main]}"), expected.view(f"u{WIDTH[main]}")
        )
        assert (got[:, misalign + elements :] == 55).all()
        assert (got[:, :misalign] == 55).all()
    for key in replicas:
        assert not slots[key][:elements].any()
    assert (slots[:, :, elements:] == 77).all()
    untouched = set(np.ndindex(LAYOUT.num_ranks, 2)) - set(replicas)
    assert all((slots[key] == 77).all() for key in untouched)


@pytest.mark.parametrize("main", WIDTH)
@pytest.mark.parametrize("replica", WIDTH)
def test_the_sum_is_ordered(main, replica):
    plan = solved_plan(LAYOUT, random_loads(stream(1), LAYOUT, 2048))
    wide = fanout_plan(LAYOUT, 7, expert=13)
    run(plan, main, replica, 4096 + 4096 + 5, blocks=2, order=1, together=True)
    run(wide, main, replica, 4096, blocks=3, order=2, together=True)
    run(wide, main, replica, 1031, blocks=1, order=3, together=False)


def test_more_blocks_than_tiles_and_odd_rows():
    plan = fanout_plan(LAYOUT, 5, expert=2)
    run(plan, "fp32", "fp32", 4096, blocks=5, order=4, together=True)
    run(plan, "fp32", "bf16", 4096 + 3, blocks=1, order=5, together=True, misalign=1)
    run(plan, "bf16", "fp32", 3, blocks=2, order=6, together=True, misalign=1)


def test_nothing_to_reduce():
    run(fanout_plan(LAYOUT, 0), "fp32", "fp32", 64, blocks=1, order=0, together=True)
