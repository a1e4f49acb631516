"""Tokens go to instances by place: exact numbers, evenly spread, in both forms of routing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_runtime.check.cases import random_loads, solved_plan, stream
from hw_runtime.fabrics import Geometry
from hw_runtime.reroute import (
    choose_dense,
    choose_topk,
    count_topk,
    gather_dense,
    instances,
    spread_dense,
)
from ultraep_sim.errors import InputError
from ultraep_sim.planning import EPLayout


def routed(seed, tokens=300, ranks=6, experts=20, k=4):
    """Ids of every source, and a plan for them."""
    rng = stream(seed)
    share = rng.dirichlet(np.full(experts, 0.2)) + 1e-9
    ids = [
        np.array([rng.choice(experts, k, replace=False, p=share / share.sum()) for _ in range(n)])
        for n in rng.integers(1, tokens, ranks)
    ]
    layout = EPLayout(ranks, experts, 2)
    loads = np.stack([np.bincount(one.ravel(), minlength=experts) for one in ids])
    return ids, solved_plan(layout, loads)


def plain_choice(ids, plan, source):
    """The rule again, straight from its words: a list of the tokens left, thinned out."""
    out = np.full(ids.shape, -1)
    for e in range(plan.layout.num_experts):
        left = [tuple(at) for at in np.argwhere(ids == e)]
        for i in range(plan.offsets[e], plan.offsets[e + 1]):
            q, n = int(plan.split[source, i]), len(left)
            taken = [p for p in range(n) if (p + 1) * q // n > p * q // n]
            for p in taken:
                out[left[p]] = i
            left = [at for p, at in enumerate(left) if p not in set(taken)]
    return out


@pytest.mark.parametrize("seed", range(4))
def test_every_token_goes_to_one_instance_of_its_expert_and_quotas_are_met(seed):
    ids, plan = routed(seed)
    assert plan.num_replicas > 0
    got = np.zeros(len(plan.rank), np.int64)
    for source, mine in enumerate(ids):
        instance = choose_topk(mine, plan.offsets, plan.split[source])
        assert np.array_equal(plan.expert[instance], mine)
        assert np.array_equal(instance, plain_choice(mine, plan, source))
        counts = np.bincount(instance.ravel(), minlength=len(plan.rank))
        assert np.array_equal(counts, plan.split[source])
        got += counts
    assert np.array_equal(got, plan.quota)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any))
def test_any_run_of_tokens_is_shared_out_like_the_whole(split):
    split = np.array(split)
    n = int(split.sum())
    instance = choose_topk(np.zeros((n, 1), int), np.array([0, len(split)]), split).ravel()
    assert np.array_equal(np.bincount(instance, minlength=len(split)), split)
    for i, q in enumerate(split):
        seen = np.append(0, np.cumsum(instance == i))
        ideal = np.arange(n + 1) * q / n
        # The first instance stays within one token of its share; each thinning adds one more.
        assert np.abs(seen - ideal).max() <= i + 1


def test_both_forms_choose_the_same():
    ids, plan = routed(5)
    for source, mine in enumerate(ids):
        chosen = np.zeros((len(mine), plan.layout.num_experts), bool)
        np.put_along_axis(chosen, mine, True, axis=1)
        dense = choose_dense(chosen, plan.offsets, plan.split[source])
        topk = choose_topk(mine, plan.offsets, plan.split[source])
        assert np.array_equal(np.take_along_axis(dense, mine, axis=1), topk)
        assert np.array_equal(dense >= 0, chosen)


def test_dense_values_travel_and_their_gradients_come_back():
    ids, plan = routed(6)
    layout = plan.layout
    table = instances(plan, Geometry(layout, 16).main_row)
    rng = stream(7)
    for source, mine in enumerate(ids):
        chosen = np.zeros((len(mine), layout.num_experts), bool)
        np.put_along_axis(chosen, mine, True, axis=1)
        instance = choose_dense(chosen, plan.offsets, plan.split[source])
        values = np.where(chosen, rng.random(chosen.shape), 0).astype(np.float32)
        moved = spread_dense(values, instance, table)
        assert np.array_equal((moved > 0).sum(axis=1), (values > 0).sum(axis=1))
        assert np.array_equal(gather_dense(moved, instance, table), values)
        # The gather is the transpose of the spread: <spread(v), g> = <v, gather(g)>.
        grad = rng.random(moved.shape)
        back = gather_dense(grad, instance, table)
        assert np.isclose((moved * grad).sum(), (values * back).sum())
        assert not back[~chosen].any()


def test_physical_numbers_put_slots_behind_mains():
    _, plan = routed(8, ranks=6, experts=20)  # 20 experts on 6 ranks: 4, 4, 3, 3, 3, 3 mains
    table = instances(plan, Geometry(plan.layout, 16).main_row)
    assert (table.mains_room, table.per_rank) == (4, 6)
    assert len(set(table.physical.tolist())) == len(plan.rank)
    assert np.array_equal(table.physical // table.per_rank, plan.rank)
    local = table.physical % table.per_rank
    assert np.array_equal(local >= table.mains_room, plan.is_replica)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([[0, 20]], r"topk_ids\[0, 1\]: expert id out of range \(got 20\); give 0 to 19"),
        ([[0, 1], [-1, 3]], r"topk_ids\[1, 0\]: expert id out of range \(got -1\)"),
        ([[4, 4]], r"topk_ids\[0, 1\]: a token names an expert twice \(got 4\)"),
    ],
)
def test_bad_ids_are_named(ids, words):
    with pytest.raises(InputError, match=words):
        count_topk(np.array(ids), 20)


def test_tokens_of_another_batch_are_refused():
    layout = EPLayout(4, 8, 1)
    plan = solved_plan(layout, random_loads(stream(9), layout, 64))
    with pytest.raises(InputError, match="not those the placement was planned for"):
        choose_topk(np.array([[0, 1]]), plan.offsets, plan.split[0])


def test_counts_are_loads():
    ids, plan = routed(10)
    for source, mine in enumerate(ids):
        counts = count_topk(mine.astype(np.int32), plan.layout.num_experts)
        assert counts.dtype == np.int32
        assert np.array_equal(counts, plan.loads[source])
