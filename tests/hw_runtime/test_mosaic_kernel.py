"""The mosaic kernel gives the CPU planner's plans, bit for bit, in every order of threads.

The same source runs on host fibers here; on a GPU where there is one.
"""

from collections import Counter

import numpy as np
import pytest
import torch

from hw_runtime.device_plan import DevicePlan
from hw_runtime.mosaic import MosaicPlanner
from hw_runtime.planner import QuotaPlanner
from tests.hw_runtime.host_kernels import HostOrder, needs_compiler
from tests.hw_runtime.loads import MAX_TOTAL, TARGETS, random_layout, random_matrix
from tests.hw_runtime.same_plan import assert_same_plan
from ultraep_sim.errors import InputError
from ultraep_sim.planning import EPLayout, MosaicOptions, MosaicSolver
from ultraep_sim.planning.mosaic_probe import _best_of, _chained, _cross, capacity, views
from ultraep_sim.planning.mosaic_solver import _rank_loads

CASES = 100


def assert_same(plan: DevicePlan, record, matrix, options, speeds=None) -> int:
    """Compare the lists, the instances and the header; return the replicas."""
    total = matrix.astype(np.int64).sum(axis=0)
    return assert_same_plan(
        plan, record, total, MosaicSolver(plan.layout, speeds).solve(total, options)
    )


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


def scarce(rng):
    """Draw hot ranks with few slots: where passes fail, and other methods decide."""
    ranks, mains = int(rng.integers(2, 41)), int(rng.integers(1, 9))
    domain = min(ranks, int(rng.choice([ranks, ranks, max(1, ranks // 2), 4])))
    layout = EPLayout(ranks, ranks * mains, int(rng.integers(1, 3)), domain)
    hot = np.where(rng.random(ranks) < rng.uniform(0.1, 0.7), 2.0, 0.3)
    heat = np.repeat(hot, mains) * rng.gamma(rng.choice([0.3, 1, 5]), 1, ranks * mains)
    matrix = np.floor(heat * rng.choice([20, 300, 5e4]))[None].astype(np.int32)
    target, tile = float(rng.choice([1.0, 1.0, 1.01, 1.05])), int(rng.choice([1, 1, 16]))
    speeds = rng.choice([0.9, 1.0, 1.1], ranks) if rng.random() < 0.2 else None
    return layout, matrix, MosaicOptions(target, "fast", tile, bool(rng.random() < 0.3)), speeds


def decided_by(layout, matrix, options, speeds):
    """Say which methods of the CPU's last probe made the plan."""
    solver = MosaicSolver(layout, speeds)
    total = matrix.astype(np.int64).sum(axis=0)
    tau = solver.solve(total, options).tau
    problem, work = solver._problem, views(solver._problem, solver._memory)
    first, _, high = _rank_loads(total, problem, options.numbers, work)
    if high <= first:
        return ["nothing"]
    again, ranks, domain = int(tau > first), layout.num_ranks, layout.domain
    work[0][1][:ranks] = [capacity(tau, speed) for speed in solver.speeds]
    if options.cross and domain < ranks and _cross(total, problem, work) >= 0:
        return ["cross"]
    found = []
    for begin in range(0, ranks, domain):
        part = (total, begin, min(begin + domain, ranks))
        plain, all_orders = (
            _best_of(*part, k, options.tile_rows, problem, work, 0) for k in (0, again)
        )
        plain_chain, chains = (_chained(*part, k, problem, work, 0) for k in (0, again))
        if all_orders >= 0:
            found.append("pass" if plain == all_orders else "shuffled pass")
        elif chains >= 0:
            found.append("chain" if plain_chain >= 0 else "lucky chain")
        else:
            return ["greedy"]
    return found


@needs_compiler
def test_every_method_decides_and_gives_the_cpu_s_plan():
    rng = np.random.default_rng(30)
    seen = Counter()
    for order in range(250):
        case = scarce(rng)
        compare(rng, *case, order=order)
        seen.update(decided_by(*case))
    for method in ("pass", "shuffled pass", "chain", "lucky chain", "cross", "greedy"):
        assert seen[method] >= 2, seen


@needs_compiler
def test_order_of_threads_does_not_matter():
    layout = EPLayout(64, 256, 2)
    rng = np.random.default_rng(7)
    matrix = rng.multinomial(65536, rng.dirichlet(np.full(256, 0.2)), size=64).astype(np.int32)
    for target in (1.0, 1.01):
        counts = {
            compare(rng, layout, matrix, MosaicOptions(target), order=order) for order in range(8)
        }
        assert len(counts) == 1
        assert counts.pop() > 30


@needs_compiler
def test_many_records_in_one_launch():
    layout = EPLayout(16, 64, 2, 8)
    rng = np.random.default_rng(8)
    records = np.stack([rng.integers(0, 10**k, (16, 64)) for k in range(1, 7)]).astype(np.int32)
    planner = MosaicPlanner(layout, kernels=HostOrder("mosaic", 1))
    plan = planner.plan(torch.from_numpy(records))
    for record, matrix in enumerate(records):
        assert_same(plan, record, matrix, MosaicOptions())
    assert planner.plan(torch.from_numpy(records), out=plan) is plan
    assert plan.plan(torch.from_numpy(records[0])).policy == "mosaic"
    with pytest.raises(InputError, match="out: made for other plans"):
        QuotaPlanner(layout).plan(torch.from_numpy(records), out=plan)


@needs_compiler
@pytest.mark.parametrize(
    "layout",
    [
        EPLayout(256, 512, 4),
        EPLayout(256, 256, 1, 1),
        EPLayout(1, 512, 2),
        EPLayout(97, 40, 1),
        EPLayout(90, 180, 2, 45),
        EPLayout(256, 3072, 2),  # no room for sixteen warps
        EPLayout(8, 16, 0),
    ],
)
@pytest.mark.parametrize("cross", [False, True])
def test_large_and_odd_groups(layout, cross):
    rng = np.random.default_rng(9)
    share = rng.dirichlet(np.full(layout.num_experts, 0.1))
    for total in (10**6, MAX_TOTAL, 0):
        matrix = rng.multinomial(total, share, size=1).astype(np.int32)
        options = MosaicOptions(1.01, "fast", 64, cross)
        compare(rng, layout, matrix, options, order=3)


@pytest.mark.parametrize("seed", range(2))
def test_host_backend_gives_the_same_arrays(seed):
    rng = np.random.default_rng(seed)
    drawn = [draw(rng, everything=True) for _ in range(CASES)]
    assert sum(compare(rng, *case) for case in drawn) > CASES
    layout, matrix, _, _ = drawn[0]
    compare(rng, layout, matrix, MosaicOptions(effort="thorough"))  # the host has every effort


@needs_compiler
def test_kernel_reports_loads_it_cannot_plan(monkeypatch):
    monkeypatch.setattr("hw_runtime.planner.check_device_loads", lambda loads, *_: loads[None])
    planner = MosaicPlanner(EPLayout(4, 8, 1), kernels=HostOrder("mosaic", 0))
    for cell, value, words in [
        ((1, 3), -5, "a load is negative"),
        ((0, 0), MAX_TOTAL, "the total load of a record reaches"),
    ]:
        matrix = torch.zeros((4, 8), dtype=torch.int32)
        matrix[3, 7] = 1
        matrix[cell] = value
        plan = planner.plan(matrix)
        with pytest.raises(InputError, match=rf"loads\[0\]: {words}"):
            plan.check()
        assert plan.header[0, :2].tolist() == [0, 0]


def test_what_the_kernel_lacks_is_refused_by_name():
    layout, kernels = EPLayout(4, 8, 1), object()
    for options, words in [
        (MosaicOptions(effort="thorough"), r"options.effort: .*got 'thorough'\); give fast"),
        (MosaicOptions(tile_rows=2**31), r"options.tile_rows: .* give at most 1073741824"),
    ]:
        with pytest.raises(InputError, match=words):
            MosaicPlanner(layout, options, kernels=kernels)
        MosaicPlanner(layout, options)  # the CPU plans it
    for large, words in [
        (EPLayout(257, 512, 1), "up to 256 ranks and 4096 experts .*plan on the CPU"),
        (EPLayout(256, 4096, 4), r"do not fit a block's shared memory \(got 4\)"),
    ]:
        with pytest.raises(InputError, match=words):
            MosaicPlanner(large, kernels=kernels)
        MosaicPlanner(large)


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(4))
def test_gpu_equals_the_solver(seed):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = np.random.default_rng(seed)
    for _ in range(250):
        compare(rng, *draw(rng, everything=True), device="cuda")
        compare(rng, *scarce(rng), device="cuda")
