"""Histogram and reroute kernels give the integers of the CPU code, bit for bit.

The same sources run on host fibers here, in random orders of threads; on a GPU where there is one.
"""

import numpy as np
import pytest
import torch

from hw_runtime.counting import CHUNK_PAIRS, LoadCounter, Receivers
from hw_runtime.planner import DevicePlan, QuotaPlanner
from hw_runtime.reroute import choose_dense, choose_topk, gather_dense, instances, spread_dense
from hw_runtime.rerouter import Rerouter
from tests.hw_runtime.host_kernels import HostOrder, needs_compiler
from tests.hw_runtime.loads import MAX_TOTAL, random_layout, random_matrix, random_options
from ultraep_sim.errors import InputError
from ultraep_sim.planning import EPLayout, split_tokens

DTYPES = (torch.int16, torch.int32, torch.int64)


def host(family, order):
    return {"kernels": HostOrder(family, order)}


def gpu(family, order):
    return {"device": "cuda"}


def random_ids(rng, tokens, experts, k, padding=0.0):
    """Ids of one rank, skewed, none twice in a token, some of them padding."""
    weight = np.log(rng.dirichlet(np.full(experts, 0.3)) + 1e-12)
    ids = np.argsort(-(weight + rng.gumbel(size=(tokens, experts))), axis=1)[:, :k]
    return np.where(rng.random(ids.shape) < padding, -1, ids)


def counted(ids, experts):
    return np.bincount(ids[ids >= 0], minlength=experts)


def compare_histogram(rng, where, order):
    experts, k = int(rng.integers(1, 513)), int(rng.integers(1, 9))
    ids = random_ids(rng, int(rng.choice([0, 1, 37, 300, 1111])), experts, min(k, experts), 0.1)
    options = where("histogram", order)
    device = options.get("device", "cpu")
    counter = LoadCounter(experts, **options)
    rows = [torch.full((experts,), -1, dtype=torch.int32, device=device) for _ in range(3)]
    dtype = DTYPES[order % 3]
    counts = counter.topk(torch.tensor(ids, dtype=dtype, device=device), Receivers(rows, device))
    counts.check()
    flat = ids.reshape(-1)
    chunks = max(1, -(-len(flat) // CHUNK_PAIRS))
    parts = [counted(flat[c * CHUNK_PAIRS :][:CHUNK_PAIRS], experts) for c in range(chunks)]
    want = np.cumsum([np.zeros(experts, int), *parts], axis=0)
    assert np.array_equal(counts.before.cpu(), want[:-1])
    for got in (counts.totals, *rows):
        assert np.array_equal(got.cpu(), want[-1])
    # The dense form of the same routing has the same totals.
    chosen = np.zeros((len(ids), experts + 1), bool)
    np.put_along_axis(chosen, ids, True, axis=1)  # padding goes to the last column
    dense = counter.dense(torch.tensor(chosen[:, :-1], device=device).contiguous())
    assert np.array_equal(dense.totals.cpu(), want[-1])


def compare_split(rng, where, order):
    layout = random_layout(rng, 72, 200)
    matrix, given = random_matrix(rng, layout), random_options(rng)
    options = where("reroute", order)
    device = options.get("device", "cpu")
    plan = QuotaPlanner(layout, given).plan(torch.from_numpy(matrix))
    locality = bool(rng.random() < 0.8)
    moved = DevicePlan(layout, *(getattr(plan, name).to(device) for name in TENSORS))
    split = Rerouter(layout, **options).split(
        torch.from_numpy(matrix).to(device), moved, locality=locality
    )
    full = plan.plan(torch.from_numpy(matrix))
    want = split_tokens(full.loads, full.offsets, full.rank, full.quota, locality=locality)
    assert np.array_equal(split[:, : len(full.rank)].cpu().numpy(), want)
    return full.num_replicas


TENSORS = (
    "header",
    "expert",
    "rank",
    "quota",
    "offsets",
    "instance_rank",
    "instance_slot",
    "instance_quota",
)


def compare_tokens(rng, where, order, ranks=6, experts=40, k=4):
    """Plan for the ids of all sources, then reroute each: both forms, there and back."""
    layout = EPLayout(ranks, experts, 2)
    all_ids = [random_ids(rng, int(rng.integers(0, 500)), experts, k) for _ in range(ranks)]
    all_ids[0] = np.where(rng.random(all_ids[0].shape) < 0.1, -1, all_ids[0])
    matrix = torch.tensor(np.stack([counted(ids, experts) for ids in all_ids]), dtype=torch.int32)
    options = where("reroute", order)
    device = options.get("device", "cpu")
    plan = QuotaPlanner(layout).plan(matrix)
    full = plan.plan(matrix)
    plan = DevicePlan(layout, *(getattr(plan, name).to(device) for name in TENSORS))
    counter = LoadCounter(experts, **where("histogram", order))
    rerouter = Rerouter(layout, **options)
    split = rerouter.split(matrix.to(device), plan)
    main_row = np.concatenate([np.arange(n) for n in layout.mains_per_rank]).astype(np.int32)
    table = instances(full, main_row)
    assert (rerouter.mains_room, rerouter.per_rank) == (table.mains_room, table.per_rank)
    for source, ids in enumerate(all_ids):
        given = torch.tensor(ids, dtype=DTYPES[source % 3], device=device)
        got, physical = rerouter.topk(given, counter.topk(given), plan, split[source])
        valid = ids >= 0
        want = choose_topk(ids[valid][:, None], full.offsets, full.split[source])[:, 0]
        assert np.array_equal(got.cpu().numpy()[valid], want)
        assert np.array_equal(physical.cpu().numpy()[valid], table.physical[want])
        assert bool((got.cpu()[torch.from_numpy(~valid)] == -1).all())
        assert bool((physical.cpu()[torch.from_numpy(~valid)] == -1).all())
        assert physical.dtype == given.dtype
        chosen = np.zeros((len(ids), experts + 1), bool)
        np.put_along_axis(chosen, ids, True, axis=1)
        chosen = np.ascontiguousarray(chosen[:, :-1])
        mapped = torch.from_numpy(chosen).to(device)
        dense = rerouter.dense(mapped, counter.dense(mapped), plan, split[source])
        want = choose_dense(chosen, full.offsets, full.split[source])
        assert np.array_equal(dense.cpu().numpy(), want)
        chosen, dense, want = chosen[:50], dense[:50].contiguous(), want[:50]
        for dtype in (torch.float32, torch.bfloat16):
            values = torch.tensor(rng.random(chosen.shape) * chosen).to(dtype)
            there = rerouter.spread(values.to(device), dense, plan)
            wide = spread_dense(values.float().numpy(), want, table)
            assert np.array_equal(there.float().cpu().numpy(), wide)
            grad = torch.tensor(rng.random(wide.shape)).to(dtype)
            back = rerouter.gather(grad.to(device), dense, plan)
            assert np.array_equal(
                back.float().cpu().numpy(), gather_dense(grad.float().numpy(), want, table)
            )
    return full.num_replicas


@needs_compiler
def test_histogram_on_the_host():
    rng = np.random.default_rng(0)
    for order in range(30):
        compare_histogram(rng, host, order)


@needs_compiler
@pytest.mark.parametrize("seed", range(3))
def test_split_on_the_host(seed):
    rng = np.random.default_rng(seed)
    assert sum(compare_split(rng, host, order) for order in range(50)) > 400


@needs_compiler
@pytest.mark.parametrize("seed", range(2))
def test_tokens_on_the_host(seed):
    rng = np.random.default_rng(seed)
    assert sum(compare_tokens(rng, host, order) for order in range(3)) > 6


def test_host_backends_give_the_same():
    rng = np.random.default_rng(3)
    for order in range(20):
        compare_histogram(rng, lambda *_: {}, order)
        compare_split(rng, lambda *_: {}, order)
    assert compare_tokens(rng, lambda *_: {}, 0) > 0


@needs_compiler
def test_the_largest_products_are_exact():
    """One expert with 2^31 - 1 tokens over many instances: 64-bit products and divisions."""
    layout = EPLayout(24, 2, 1)
    matrix = np.zeros((24, 2), np.int32)
    matrix[:, 0] = MAX_TOTAL // 24
    matrix[5, 0] += MAX_TOTAL - int(matrix.sum(dtype=np.int64))
    plan = QuotaPlanner(layout).plan(torch.from_numpy(matrix))
    full = plan.plan(torch.from_numpy(matrix))
    assert full.max_fanout == 23
    split = Rerouter(layout, **host("reroute", 1)).split(torch.from_numpy(matrix), plan)
    assert np.array_equal(split[:, : len(full.rank)].numpy(), full.split)


@needs_compiler
def test_ids_out_of_range_are_counted_where_nobody_looked(monkeypatch):
    # On a GPU the front end does not read the ids.
    monkeypatch.setattr("hw_runtime.counting.check_ids", lambda ids, *_: ids)
    monkeypatch.setattr("hw_runtime.rerouter.check_ids", lambda ids, *_: ids)
    ids = torch.tensor([[0, 8], [-1, 3], [-2, 30000], [3, 0]])
    counts = LoadCounter(8, **host("histogram", 0)).topk(ids)
    assert counts.totals.tolist() == [2, 0, 0, 2, 0, 0, 0, 0]
    with pytest.raises(InputError, match=r"topk_ids: expert ids out of range \(got 3\)"):
        counts.check()
    layout = EPLayout(4, 8, 0)
    plan = QuotaPlanner(layout).plan(counts.totals[None])
    rerouter = Rerouter(layout, **host("reroute", 0))
    split = rerouter.split(counts.totals[None].contiguous(), plan)
    instance, physical = rerouter.topk(ids, counts, plan, split[0])
    assert instance.tolist() == physical.tolist() == [[0, -1], [-1, 3], [-1, -1], [3, 0]]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (torch.zeros(4, 2), r"topk_ids: wrong dtype \(got 'float32'\); give int16 or int32 or"),
        (torch.zeros(4, dtype=torch.int32), r"topk_ids: wrong shape \(got \(4,\)\)"),
        (torch.zeros(2, 4, dtype=torch.int32).T, r"topk_ids: not contiguous"),
        (torch.tensor([[0, 1], [2, 8]]), r"topk_ids\[1, 1\]: expert id out of range \(got 8\)"),
        (torch.tensor([[0, -2]]), r"topk_ids\[0, 1\]: expert id out of range \(got -2\); give 0 t"),
        (torch.zeros(4, 2, dtype=torch.int32, device="meta"), r"topk_ids: wrong device"),
    ],
)
def test_wrong_ids_are_refused(ids, words):
    with pytest.raises(InputError, match=words):
        LoadCounter(8).topk(ids)


def test_what_belongs_to_something_else_is_refused():
    layout = EPLayout(4, 8, 1)
    matrix = torch.ones(4, 8, dtype=torch.int32)
    plan = QuotaPlanner(layout).plan(matrix)
    with pytest.raises(InputError, match="plan: made for another layout"):
        Rerouter(EPLayout(4, 8, 2)).split(matrix, plan)
    rerouter, ids = Rerouter(layout), torch.tensor([[0, 1]])
    with pytest.raises(InputError, match=r"split: wrong shape \(got \(8,\)\); give \[12\]"):
        rerouter.topk(ids, LoadCounter(8).topk(ids), plan, matrix[0])
    with pytest.raises(InputError, match="not those the placement was planned for"):
        rerouter.topk(ids, LoadCounter(8).topk(ids), plan, rerouter.split(matrix, plan)[0])
    wide = Rerouter(EPLayout(8192, 8, 4))
    with pytest.raises(InputError, match="int16 cannot name every physical expert"):
        wide.topk(ids.to(torch.int16), LoadCounter(8).topk(ids), plan, matrix[0])


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(2))
def test_on_a_gpu(seed):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = np.random.default_rng(seed)
    for order in range(100):
        compare_histogram(rng, gpu, order)
        compare_split(rng, gpu, order)
    for order in range(20):
        compare_tokens(rng, gpu, order)
