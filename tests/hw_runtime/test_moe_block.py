"""Balancing changes neither loss nor gradients beyond the rounding of the sum order."""

import pytest
import torch
from moe_cases import (
    FIRST_STAGE,
    LAST_STAGE,
    Case,
    dense,
    distance,
    make_case,
    open_manager,
    run,
)

from hw_runtime.errors import FabricError
from ultraep_sim.errors import InputError
from ultraep_sim.planning import EPLayout

RESULTS = ("loss", "x", "router", "experts")
# Over the largest magnitude of each result. fp32: 16 units in the last place (2^-23) for sums of
# some hundred terms in another order. bf16 (2^-8): a weight gradient is rounded once for each
# instance before it is added in fp32, so two or three halves of a unit meet.
TOLERANCE = {torch.float32: 16 * 2.0**-23, torch.bfloat16: 2.0**-7}


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny products on a busy machine: threads that wait for each other take all the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_same(got, want, tolerance):
    for name in RESULTS:
        assert distance(got[name], want[name]) <= tolerance, name


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("sets", "policy", "schedule"),
    [(1, "ultraep", FIRST_STAGE), (2, "mosaic", FIRST_STAGE), (1, "mosaic", LAST_STAGE)],
    ids=["one set, 1F1B", "two sets, 1F1B", "one set, last stage"],
)
def test_three_layers_and_two_micro_batches_share_the_slots(dtype, sets, policy, schedule):
    case = make_case(sets, dtype)
    off = run(case, None, schedule)
    on = run(case, open_manager(case, sets=sets, policy=policy), schedule)
    assert on["replicas"] >= 6  # layers and micro-batches really were balanced
    assert_same(on, off, TOLERANCE[dtype])


@pytest.mark.parametrize("seed", range(4))
def test_random_loads_with_empty_experts(seed):
    case = make_case(100 + seed, torch.float32, layers=1, skew=(0.05, 0.2, 0.5, 3.0)[seed])
    empty = 0
    for ids in case.ids:
        empty += int((torch.bincount(torch.cat(ids[0]).ravel(), minlength=10) == 0).sum())
    assert empty
    assert_same(run(case, open_manager(case)), run(case, None), TOLERANCE[torch.float32])


@pytest.mark.parametrize("balanced", [False, True])
def test_the_block_is_what_plain_autograd_in_float64_computes(balanced):
    case = make_case(7, torch.float32)
    got = run(case, open_manager(case) if balanced else None)
    assert_same(got, dense(case), 64 * 2.0**-23)
    rough = make_case(7, torch.bfloat16)
    got = run(rough, open_manager(rough) if balanced else None)
    assert_same(got, dense(rough), 16 * 2.0**-8)  # three layers of bf16 roundings


def test_fewer_experts_than_ranks():
    case = make_case(3, torch.float32, layout=EPLayout(6, 4, 2), layers=1)
    on = run(case, open_manager(case))
    assert on["replicas"] > 0
    assert_same(on, run(case, None), TOLERANCE[torch.float32])


def test_bf16_replica_gradients_cost_one_more_rounding():
    case = make_case(8, torch.float32, layers=1)
    on = run(case, open_manager(case, gradient_dtype="bf16"))
    assert_same(on, run(case, None), 2.0**-8)


def test_every_run_gives_the_same_bits():
    case = make_case(4, torch.bfloat16)
    first, second = (run(case, open_manager(case)) for _ in range(2))
    for name in RESULTS:
        assert torch.equal(first[name], second[name]), name


def test_sets_change_no_bit():
    case = make_case(4, torch.float32)
    one, two = (run(case, open_manager(case, sets=sets)) for sets in (1, 2))
    for name in RESULTS:
        assert torch.equal(one[name], two[name]), name


def test_rows_are_where_the_plan_wants_them():
    case = make_case(5, torch.float32, layers=1)
    run(case, open_manager(case))
    plan = case.blocks[0].placement.plan
    plan.validate()
    assert plan.imbalance < plan.imbalance_before


def test_the_router_alone_gives_the_same_too():
    case = make_case(6, torch.float32, layers=1, micro_batches=1)
    block = case.blocks[0]
    outs = []
    for manager in (None, open_manager(case)):
        block.balance_with(manager)
        outs.append(torch.cat(block(case.x[0])))
    assert distance(outs[1], outs[0]) <= TOLERANCE[torch.float32]


def test_slots_that_were_not_restored_are_refused(monkeypatch):
    case = make_case(2, torch.float32)
    manager = open_manager(case)
    sync, calls = manager.weight_sync, []

    def forward_only(placement, mains):
        calls.append(placement)
        if len(calls) <= 6:
            sync(placement, mains)

    monkeypatch.setattr(manager, "weight_sync", forward_only)
    with pytest.raises(FabricError, match="holds other replicas; call weight_sync first"):
        run(case, manager)


@pytest.mark.parametrize("lost", ["distribute", "reduce"])
def test_a_lost_transfer_would_show(monkeypatch, lost):
    case = make_case(2, torch.float32)
    manager = open_manager(case)
    if lost == "reduce":
        monkeypatch.setattr(manager.fabric, "reduce", lambda *_, **__: None)
    else:
        manager.fabric._slots[...] = 0
        monkeypatch.setattr(manager.fabric, "store", lambda *_: None)
    on, off = run(case, manager), run(case, None)
    assert distance(on["experts"], off["experts"]) > 1e-2


def test_weights_changed_before_backward_are_refused():
    case = make_case(2, torch.float32, layers=1)
    block = case.blocks[0]
    block.balance_with(open_manager(case))
    out = torch.cat(block(case.x[0]))
    with torch.no_grad():
        block.experts.weights[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_step_of_an_optimizer_brings_new_weights_to_the_slots():
    case: Case = make_case(2, torch.float32, layers=1)
    block, results = case.blocks[0], []
    start = [w.detach().clone() for w in block.experts.weights]
    for manager in (None, open_manager(case)):
        block.balance_with(manager)
        with torch.no_grad():
            for weight, old in zip(block.experts.weights, start, strict=True):
                weight.copy_(old)
        optimizer = torch.optim.SGD(block.experts.weights, lr=1.0)
        for _ in range(2):
            out = torch.cat(block(case.x[0], ids=case.ids[0][0]))
            (out * case.target[0]).sum().backward()
            if manager:
                manager.finish()
            block.experts.hand_out_gradients()
            optimizer.step()
            optimizer.zero_grad()
        results.append(out.detach())
        assert not any(total.any() for total in block.experts.main_grads)
    assert distance(results[1], results[0]) <= 4 * TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[:-1], r"x: no tokens for every rank \(got 3\)"),
        (lambda x: [one.double() for one in x], r"x\[0\]: tokens do not fit the experts"),
        (lambda x: [one[:, 1:] for one in x], r"tokens do not fit"),
        (lambda x: [one[:0] for one in x], "no rank has a token"),
    ],
)
def test_bad_tokens_are_named(change, words):
    case = make_case(1, torch.float32, layers=1)
    with pytest.raises(InputError, match=words):
        case.blocks[0](change(case.x[0]))
