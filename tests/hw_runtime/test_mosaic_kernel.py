"""The mosaic kernel gives the CPU planner's plans, bit for bit, in every order of threads.

The same source runs on host fibers here; on a GPU where there is one.
"""

from collections import Counter

import numpy as np
import pytest
import torch

from hw_runtime.device_plan import DevicePlan
from hw_runtime.mosaic import MosaicPlanner
from tests.hw_runtime.host_kernels import HostOrder, needs_compiler
from tests.hw_runtime.loads import MAX_TOTAL, TARGETS, random_layout, random_matrix
from ultraep_sim.errors import InputError
from ultraep_sim.planning import EPLayout, MosaicOptions, MosaicSolver
from ultraep_sim.planning.assemble import plan_from_replicas

CASES = 100


def assert_same(plan: DevicePlan, record, matrix, options, speeds=None) -> int:
    """Compare the lists, the instances and the header; return the replicas."""
    layout = plan.layout
    total = matrix.astype(np.int64).sum(axis=0)
    want = MosaicSolver(layout, speeds).solve(total, options)
    got = plan.solution(record)
    assert got.tau == want.tau
    for name in ("expert", "rank", "quota"):
        assert np.array_equal(getattr(got, name), getattr(want, name)), name
    assert int(plan.header[record, 3]) == int(total.sum())
    made = plan_from_replicas(layout, total[None], want.expert, want.rank, want.quota)
    n = len(made.rank)
    assert np.array_equal(plan.offsets[record].cpu().numpy(), made.offsets)
    for name in ("rank", "slot", "quota"):
        have = getattr(plan, f"instance_{name}")[record, :n].cpu().numpy()
        assert np.array_equal(have, getattr(made, name)), name
    return len(want.expert)


def compare(rng, layout, matrix, options, speeds=None, *, device="cpu", order=None) -> int:
    kernels = None if order is None else HostOrder("mosaic", order)
    planner = MosaicPlanner(layout, options, speeds=speeds, device=device, kernels=kernels)
    plan = planner.plan(torch.from_numpy(matrix).to(device))
    return assert_same(plan, 0, matrix, options, speeds)


def draw(rng, *, everything: bool):
    """Draw a layout, loads and options; ``everything`` adds tiles, crossing and speeds."""
    layout = random_layout(rng)
    matrix = random_matrix(rng, layout)
    target = float(rng.choice(TARGETS))
    if not everything:
        return layout, matrix, MosaicOptions(target), None
    tile = int(rng.choice([1, 2, 16, 128, 1000]))
    speeds = None
    if rng.random() < 0.5:
        speeds = rng.choice([0.5, 0.9, 1.0, 1.0, 1.3, 16.0, 2**-10], layout.num_ranks)
    return layout, matrix, MosaicOptions(target, "fast", tile, bool(rng.random() < 0.4)), speeds


@needs_compiler
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_kernel_on_the_host_equals_the_solver(seed, everything):
    rng = np.random.default_rng(seed + 10 * everything)
    drawn = [draw(rng, everything=everything) for _ in range(CASES)]
    replicas = [compare(rng, *case, order=at) for at, case in enumerate(drawn)]
    assert sum(replicas) > 5 * CASES  # there was something to get wrong
