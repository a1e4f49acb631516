"""The planner kernel gives the CPU planner's plans, bit for bit (invariant 5).

The same source runs on host fibers here, in random orders of threads; on a GPU where there is one.
"""

import numpy as np
import pytest
import torch

from hw_runtime.planner import DevicePlan, QuotaPlanner
from tests.hw_runtime.host_kernels import HostOrder, needs_compiler
from tests.hw_runtime.loads import MAX_TOTAL, random_layout, random_matrix, random_options
from tests.hw_runtime.same_plan import assert_same_plan
from ultraep_sim.errors import InputError
from ultraep_sim.planning import EPLayout, QuotaOptions, QuotaSolver

CASES = 150


def assert_same(plan: DevicePlan, record: int, matrix: np.ndarray, options: QuotaOptions) -> int:
    total = matrix.astype(np.int64).sum(axis=0)
    return assert_same_plan(plan, record, total, QuotaSolver(plan.layout).solve(total, options))


def compare(rng: np.random.Generator, device: str = "cpu", kernels: object = None) -> int:
    layout, options = random_layout(rng), random_options(rng)
    matrix = random_matrix(rng, layout)
    planner = QuotaPlanner(layout, options, device=device, kernels=kernels)
    plan = planner.plan(torch.from_numpy(matrix).to(device))
    return assert_same(plan, 0, matrix, options)


@needs_compiler
@pytest.mark.parametrize("seed", range(5))
def test_kernel_on_the_host_equals_the_solver(seed):
    rng = np.random.default_rng(seed)
    replicas = [compare(rng, kernels=HostOrder("planner", at)) for at in range(CASES)]
    assert sum(replicas) > 5 * CASES  # there was something to get wrong


@needs_compiler
def test_floors_that_shape_the_plan():
    """Small loads, where a floor one token higher or lower decides, and floors after a search."""
    rng = np.random.default_rng(5)
    floored = searched = 0
    for order in range(400):
        ranks, mains = int(rng.integers(4, 17)), int(rng.integers(2, 7))
        layout = EPLayout(ranks, ranks * mains, int(rng.integers(1, 5)))
        # Hot ranks with several like experts: what is left of one is below the floor, the next not.
        hot = np.where(rng.random(ranks) < 0.4, 2.0, 0.3) * rng.uniform(0.7, 1.3, ranks)
        heat = np.repeat(hot, mains)
        matrix = (heat * rng.uniform(20, 60, (1, ranks * mains))).astype(np.int32)
        options = QuotaOptions(float(rng.choice([1.0, 1.01])), int(rng.integers(0, 12)))
        plan = QuotaPlanner(layout, options, kernels=HostOrder("planner", order)).plan(
            torch.from_numpy(matrix)
        )
        assert_same(plan, 0, matrix, options)
        got = plan.solution()
        free = QuotaSolver(layout).solve(matrix[0].astype(np.int64), QuotaOptions(options.target))
        if len(got.expert) != len(free.expert) or not np.array_equal(got.quota, free.quota):
            floored += 1
            searched += got.tau > -(-int(matrix.sum()) * options.target_scaled // (ranks * 10_000))
    assert floored >= 5
    assert searched >= 3


@needs_compiler
def test_order_of_threads_does_not_matter():
    layout = EPLayout(64, 256, 2)
    rng = np.random.default_rng(7)
    matrix = rng.multinomial(65536, rng.dirichlet(np.full(256, 0.2)), size=64).astype(np.int32)
    options = QuotaOptions(1.0)
    for order in range(20):
        plan = QuotaPlanner(layout, options, kernels=HostOrder("planner", order)).plan(
            torch.from_numpy(matrix)
        )
        assert assert_same(plan, 0, matrix, options) == 50


@needs_compiler
def test_many_records_in_one_launch():
    layout = EPLayout(16, 64, 2, 8)
    rng = np.random.default_rng(8)
    records = np.stack([rng.integers(0, 10**k, (16, 64)) for k in range(1, 7)]).astype(np.int32)
    planner = QuotaPlanner(layout, kernels=HostOrder("planner", 1))
    plan = planner.plan(torch.from_numpy(records))
    for record, matrix in enumerate(records):
        assert_same(plan, record, matrix, QuotaOptions())
    assert planner.plan(torch.from_numpy(records), out=plan) is plan


@needs_compiler
@pytest.mark.parametrize(
    "layout", [EPLayout(256, 512, 4), EPLayout(1, 512, 2), EPLayout(97, 40, 1)]
)
def test_large_and_odd_groups(layout):
    rng = np.random.default_rng(9)
    share = rng.dirichlet(np.full(layout.num_experts, 0.1))
    matrix = rng.multinomial(10**6, share, size=1).astype(np.int32)
    planner = QuotaPlanner(layout, kernels=HostOrder("planner", 3))
    assert_same(planner.plan(torch.from_numpy(matrix)), 0, matrix, QuotaOptions())


@pytest.mark.parametrize("seed", range(2))
def test_host_backend_gives_the_same_arrays(seed):
    rng = np.random.default_rng(seed)
    assert sum(compare(rng) for _ in range(CASES)) > CASES


@needs_compiler
def test_kernel_reports_loads_it_cannot_plan(monkeypatch):
    # On a GPU nobody looks at the values before the kernel does.
    monkeypatch.setattr("hw_runtime.planner.check_device_loads", lambda loads, *_: loads[None])
    planner = QuotaPlanner(EPLayout(4, 8, 1), kernels=HostOrder("planner", 0))
    for cells, words in [
        ({(1, 3): -5}, "a load is negative"),
        ({(0, 0): MAX_TOTAL, (3, 7): 1}, "the total load of a record reaches"),
        ({(0, 5): MAX_TOTAL, (1, 5): MAX_TOTAL, (2, 5): 2}, "the total load of a record reaches"),
        ({(0, 5): MAX_TOTAL, (0, 6): MAX_TOTAL, (2, 7): 3}, "the total load of a record reaches"),
    ]:
        matrix = torch.zeros((4, 8), dtype=torch.int32)
        for at, value in cells.items():
            matrix[at] = value
        plan = planner.plan(matrix)
        with pytest.raises(InputError, match=rf"loads\[0\]: {words}"):
            plan.check()
        assert int(plan.header[0, 1]) == 0


def loads(*shape, dtype=torch.int32):
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (loads(4, 8, dtype=torch.int64), r"loads: wrong dtype \(got 'int64'\); give int32"),
        (loads(4, 7), r"loads: wrong shape \(got \(1, 4, 7\)\); give \[any, any, 8\]"),
        (loads(3, 8), r"source rows do not fit .*; give one row \(source unknown\) or 4"),
        (loads(8), r"source rows do not fit"),
        (loads(0, 4, 8), r"source rows do not fit"),
        (loads(8, 4).T, r"loads: not contiguous"),
        ([[1] * 8] * 4, r"loads: not a torch tensor \(got 'list'\)"),
        (-loads(4, 8), r"loads\[0, 0, 0\]: a load is negative"),
        (loads(4, 8) * (MAX_TOTAL // 31), r"loads\[0\]: the total load reaches 2\^31"),
        (loads(4, 8).to("meta"), r"loads: wrong device \(got 'meta'\); move it to cpu"),
    ],
)
def test_wrong_loads_are_refused(given, words):
    with pytest.raises(InputError, match=words):
        QuotaPlanner(EPLayout(4, 8, 1)).plan(given)


def test_layouts_too_large_for_a_block_are_refused():
    kernels = object()
    for layout, words in [
        (EPLayout(257, 512, 1), "up to 256 ranks and 4096 experts .*plan on the CPU"),
        (EPLayout(8, 5000, 1), "up to 256 ranks and 4096 experts"),
        (EPLayout(256, 512, 12), r"do not fit a block's shared memory \(got 12\); give at most 9"),
    ]:
        with pytest.raises(InputError, match=words):
            QuotaPlanner(layout, kernels=kernels)
        QuotaPlanner(layout)  # the host backend takes any
    QuotaPlanner(EPLayout(256, 512, 9), kernels=kernels)


def test_a_missing_gpu_is_one_sentence():
    from hw_runtime.errors import MissingHardwareError

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(MissingHardwareError, match="this machine has no CUDA device"):
        QuotaPlanner(EPLayout(4, 8, 1), device="cuda")
    with pytest.raises(InputError, match="no such backend"):
        QuotaPlanner(EPLayout(4, 8, 1), device="meta")


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(4))
def test_gpu_equals_the_solver(seed):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = np.random.default_rng(seed)
    for _ in range(500):
        compare(rng, "cuda")
