"""The manager: its life of a placement, and what it says to bad input."""

import numpy as np
import pytest
import torch

from hw_runtime.check.cases import expected_slots, random_loads, stream
from hw_runtime.errors import FabricError
from hw_runtime.fabrics import Geometry, open_fabric
from hw_runtime.manager import Balance, Manager
from ultraep_sim.errors import InputError, LoadsError, PolicyError
from ultraep_sim.planning import EPLayout, QuotaSolver

LAYOUT = EPLayout(4, 10, 2)
ELEMENTS = 40


def make(sets=1, layout=LAYOUT, balance=None, elements=ELEMENTS):
    geometry = Geometry(layout, ELEMENTS * 4, elements, sets=sets)
    return Manager(open_fabric("host", geometry, seed=0), balance)


def ids_of(seed, layout=LAYOUT, tokens=50, k=2):
    rng = stream(seed)
    share = rng.dirichlet(np.full(layout.num_experts, 0.3)) + 1e-6
    share /= share.sum()
    draw = [
        [rng.choice(layout.num_experts, k, replace=False, p=share) for _ in range(tokens)]
        for _ in range(layout.num_ranks)
    ]
    return [torch.tensor(np.array(one), dtype=torch.int32) for one in draw]


def weights_of(seed, layout=LAYOUT):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(int(n), ELEMENTS, generator=generator) for n in layout.mains_per_rank]


def test_ids_and_their_counts_give_the_same_placement():
    manager, ids = make(), ids_of(0)
    by_ids = manager.update_placement(ids)
    counts = torch.from_numpy(manager.exchange(ids))
    assert counts.dtype == torch.int32
    by_counts = manager.update_placement(counts=counts)
    for name in ("offsets", "rank", "slot", "quota"):
        assert np.array_equal(getattr(by_ids.plan, name), getattr(by_counts.plan, name))
    solution = QuotaSolver(LAYOUT).solve(counts.numpy().sum(axis=0).astype(np.int64))
    assert by_ids.plan.tau == solution.tau
    assert by_ids.plan.num_replicas == len(solution.expert) > 0


def test_slots_hold_what_the_plan_says():
    manager, mains = make(), weights_of(1)
    placement = manager.update_placement(ids_of(1))
    manager.weight_sync(placement, mains)
    slots = manager.acquire(placement)
    raw = [one.view(torch.uint8).numpy() for one in mains]
    want = expected_slots(placement.plan, raw, manager.fabric.geometry.main_row)
    assert want
    for (rank, slot), row in want.items():
        assert np.array_equal(slots[rank][slot].numpy(), row)
    manager.release(placement)


def test_reroute_meets_quotas_on_physical_experts():
    manager, ids = make(), ids_of(2)
    placement = manager.update_placement(ids)
    physical = manager.reroute(placement, ids)
    table = placement.table
    counts = torch.bincount(torch.cat(physical).ravel(), minlength=table.num_physical).numpy()
    assert np.array_equal(counts[table.physical], placement.plan.quota)
    assert counts.sum() == placement.plan.quota.sum()
    rank_loads = counts.reshape(table.num_ranks, -1).sum(axis=1)
    assert np.array_equal(rank_loads, placement.plan.rank_loads)


def test_gradients_reach_their_mains_and_the_slots_are_zero_again():
    manager = make()
    placement = manager.update_placement(ids_of(3))
    plan = placement.plan
    slots = manager.gradient_slots(placement)
    mains = [torch.ones(int(n), ELEMENTS) for n in LAYOUT.mains_per_rank]
    for i in np.flatnonzero(plan.is_replica):
        slots[plan.rank[i]][plan.slot[i]] = float(i)
    manager.grad_reduce(placement, mains)
    manager.finish()
    assert not any(one.any() for one in manager.gradient_slots(placement))
    row = manager.fabric.geometry.main_row
    for e in range(LAYOUT.num_experts):
        replicas = np.arange(plan.offsets[e] + 1, plan.offsets[e + 1])
        assert (mains[LAYOUT.home[e]][row[e]] == 1.0 + replicas.sum()).all()


def test_nothing_moves_while_the_set_still_holds_it():
    manager, mains = make(), weights_of(4)
    placement = manager.update_placement(ids_of(4))
    manager.weight_sync(placement, mains)
    moved = manager.fabric.sent.sum()
    assert moved
    manager.weight_sync(placement, mains)
    assert manager.fabric.sent.sum() == moved
    mains[0].add_(1)
    manager.weight_sync(placement, mains)
    assert manager.fabric.sent.sum() == 2 * moved


def test_micro_batches_take_turns_over_the_sets():
    manager, mains = make(sets=2), weights_of(5)
    placements = [manager.update_placement(ids_of(5 + m), micro_batch=m) for m in range(3)]
    assert [one.which for one in placements] == [0, 1, 0]
    for placement in placements[:2]:
        manager.weight_sync(placement, mains)
        manager.acquire(placement)
    with pytest.raises(FabricError, match="set 0 of the slots is still held"):
        manager.weight_sync(placements[2], mains)
    manager.release(placements[0])
    manager.weight_sync(placements[2], mains)
    with pytest.raises(FabricError, match="holds other replicas"):
        manager.acquire(placements[0])
    manager.release(placements[1])
    with pytest.raises(FabricError, match="released twice"):
        manager.release(placements[1])


def test_a_barrier_stands_before_every_overwrite_that_no_exchange_guards(monkeypatch):
    manager, mains, calls = make(), weights_of(6), []
    monkeypatch.setattr(manager.fabric, "barrier", lambda: calls.append(1))
    ids = [ids_of(6), ids_of(7)]

    def use(placement):
        manager.weight_sync(placement, mains)
        manager.acquire(placement)
        manager.release(placement)

    first = manager.update_placement(ids[0])
    use(first)
    second = manager.update_placement(ids[1])  # exchanged behind the release: that is a barrier
    use(second)
    assert not calls
    use(first)  # backward: nothing was exchanged
    assert len(calls) == 1
    early = manager.update_placement(ids[0])
    use(second)  # released behind the exchange of `early`
    use(early)
    assert len(calls) == 3
    use(manager.update_placement(counts=manager.exchange(ids[1])))  # exchanged by someone else
    assert len(calls) == 4


@pytest.mark.parametrize("policy", ["ultraep", "mosaic"])
def test_policies_lower_the_largest_rank_load(policy):
    manager = make(balance=Balance(policy=policy))
    plan = manager.update_placement(ids_of(8)).plan
    assert plan.policy == policy
    plan.validate()
    assert plan.imbalance < plan.imbalance_before


def test_a_reset_forgets_an_aborted_step():
    manager, mains = make(), weights_of(9)
    placement = manager.update_placement(ids_of(9))
    manager.weight_sync(placement, mains)
    manager.acquire(placement)
    manager.gradient_slots(placement)[0].fill_(3.0)
    manager.reset()
    assert not any(one.any() for one in manager.gradient_slots(placement))
    manager.weight_sync(placement, mains)  # nobody holds the set any more
    assert manager.fabric._epoch[0] == 1


IDS = ids_of(10)
BAD_IDS = {
    "dtype": ([*IDS[:3], IDS[3].float()], r"topk_ids\[3\]: wrong dtype \(got 'torch.float32'\)"),
    "shape": ([IDS[0].ravel(), *IDS[1:]], r"topk_ids\[0\]: ids need shape \[tokens, k\]"),
    "memory order": ([IDS[0].t(), *IDS[1:]], r"topk_ids\[0\]: not contiguous"),
    "device": ([IDS[0].to("meta"), *IDS[1:]], r"topk_ids\[0\]: wrong device \(got 'meta'\)"),
    "ranks": (IDS[:3], r"topk_ids: no ids for every local rank \(got 3\)"),
    "numpy": ([IDS[0].numpy(), *IDS[1:]], r"topk_ids\[0\]: not a tensor"),
    "too high": ([IDS[0] + 9, *IDS[1:]], "expert id out of range"),
    "negative": ([IDS[0] - 9, *IDS[1:]], "expert id out of range"),
    "no token": ([one[:0] for one in IDS], "no rank has a token"),
}


@pytest.mark.parametrize("name", BAD_IDS)
def test_bad_ids_are_named(name):
    ids, words = BAD_IDS[name]
    with pytest.raises(InputError, match=words):
        make().update_placement(ids)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (np.ones((4, 9), int), "the last axis is not the layout's experts"),
        (np.ones((3, 10), int), "source rows do not fit"),
        (np.ones(10, int), "loads of unknown sources cannot be rerouted"),
        (np.ones((4, 10)), "loads must be integers"),
        (-np.ones((4, 10), int), "a load is negative"),
        (np.zeros((4, 10), int), "no rank has a token"),
        (np.full((4, 10), 2**31 - 1), "reaches 2\\^31"),
    ],
)
def test_bad_counts_are_named(counts, words):
    with pytest.raises((InputError, LoadsError), match=words):
        make().update_placement(counts=counts)


def test_one_of_ids_and_counts_is_asked_for():
    manager = make()
    for arguments in ({}, {"topk_ids": IDS, "counts": np.ones((4, 10), int)}):
        with pytest.raises(InputError, match="give either topk_ids or counts"):
            manager.update_placement(**arguments)
    with pytest.raises(InputError, match="micro_batch"):
        manager.update_placement(IDS, micro_batch=-1)


def test_bad_weights_and_gradients_are_named():
    manager, mains = make(), weights_of(11)
    placement = manager.update_placement(IDS)
    bad = {
        "no entry for every rank": mains[:3],
        r"mains\[1\]: wrong shape": [mains[0], mains[1][:, :-1].contiguous(), *mains[2:]],
        r"mains\[2\]: not contiguous": [*mains[:2], mains[2].t().contiguous().t(), mains[3]],
        r"mains\[0\]: wrong device": [mains[0].to("meta"), *mains[1:]],
        r"mains\[3\]: not a tensor": [*mains[:3], None],
    }
    for words, tensors in bad.items():
        with pytest.raises(InputError, match=words):
            manager.weight_sync(placement, tensors)
    with pytest.raises(InputError, match=r"main_grads\[0\]: wrong dtype .*float16"):
        manager.grad_reduce(placement, [one.half() for one in mains])
    with pytest.raises(InputError, match="the fabric has no gradient slots"):
        make(elements=0).gradient_slots(placement)


def test_tokens_of_another_micro_batch_are_refused():
    manager = make()
    placement = manager.update_placement(IDS)
    with pytest.raises(InputError, match="not those the placement was planned for"):
        manager.reroute(placement, ids_of(12))


def test_what_cannot_be_balanced_is_refused_at_once():
    with pytest.raises(InputError, match="nowhere to put a replica"):
        make(layout=EPLayout(4, 10, 0))
    with pytest.raises(InputError, match="more ranks than the scale-up domain has"):
        make(layout=EPLayout(4, 10, 2, domain_size=2))
    with pytest.raises(PolicyError, match="the runtime has no such policy"):
        Balance(policy="eplb")
    with pytest.raises(PolicyError, match="target out of range"):
        Balance(target=0.5)


def test_counts_of_other_processes_need_a_process_group():
    manager = make()
    manager.ranks = (0,)
    with pytest.raises(FabricError, match=r"torch.distributed is not initialised"):
        manager.update_placement(IDS[:1])


def test_random_loads_are_planned_as_the_solver_does():
    manager = make(layout=EPLayout(8, 32, 2))
    layout = manager.layout
    for seed in range(20):
        loads = random_loads(stream(seed), layout, 512)
        plan = manager.update_placement(counts=loads).plan
        solution = QuotaSolver(layout).solve(loads.sum(axis=0))
        replicas = np.flatnonzero(plan.is_replica)
        assert plan.tau == solution.tau
        assert sorted(zip(plan.expert[replicas], plan.rank[replicas], strict=True)) == sorted(
            zip(solution.expert, solution.rank, strict=True)
        )
