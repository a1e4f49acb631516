"""Tokens sent once to a rank: counted exactly, and estimated from counts with a stated error."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ultraep_sim as us
from tests.trace.shared_routing import PER_TOKEN, ROUTING
from ultraep_sim.errors import InputError
from ultraep_sim.fabric.dedup import count_visits, dedup_factors, distinct_visits
from ultraep_sim.fabric.pairs import pair_matrix
from ultraep_sim.planning import EPLayout


def loads_of(topk, source, ranks, experts):
    loads = np.zeros((ranks, experts), np.int64)
    np.add.at(loads, (source[:, None], topk), 1)
    return loads


def test_three_ranks_by_hand():
    """Two experts a rank. Token 0 takes both of rank 1; tokens 1 and 2 take ranks 0, 1 and 1, 2."""
    topk, source = np.array([[2, 3], [0, 2], [3, 4]]), np.array([0, 0, 2])
    plan = us.plan(loads_of(topk, source, 3, 6), EPLayout(3, 6, 0), policy="none")
    assert pair_matrix(plan).tolist() == [[1, 3, 0], [0, 0, 0], [0, 1, 1]]
    assert count_visits(plan, topk, source).tolist() == [[1, 2, 0], [0, 0, 0], [0, 1, 1]]


def test_estimate_by_hand():
    """Rank 0 has 10 tokens of 2 experts: chances .6 and .4 on rank 1, d = 2 - .36 - .16 - .25 x 4.

    The last are two experts at .5 on ranks 0 and 2.
    """
    loads = np.zeros((3, 6), np.int64)
    loads[0, [2, 3, 0, 4]] = [6, 4, 5, 5]
    plan = us.plan(loads, EPLayout(3, 6, 0), policy="none")
    d = 2 - 0.36 - 0.16 - 2 * 0.25
    expected = 10 * (1 - 0.4 * 0.6 * (1 - 0.24 / d))
    got = distinct_visits(plan, 2)
    np.testing.assert_allclose(got[0], [5, expected, 5])
    np.testing.assert_array_equal(got[1:], np.zeros((2, 3)))
    sent, received = dedup_factors(plan, 2)
    np.testing.assert_allclose(sent, [(expected + 5) / 15, 1, 1])
    np.testing.assert_allclose(received, [1, expected / 10, 1])


@st.composite
def routed(draw):
    ranks, experts = draw(st.integers(2, 6)), draw(st.integers(4, 16))
    top_k = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.dirichlet(np.full(experts, draw(st.sampled_from([0.3, 3.0]))))
    keys = np.log(weight + 1e-9) + rng.gumbel(size=(draw(st.integers(1, 300)), experts))
    topk = np.argsort(-keys, axis=1)[:, :top_k]
    source = rng.integers(0, ranks, len(topk))
    layout = EPLayout(ranks, experts, draw(st.integers(0, 2)))
    policy = draw(st.sampled_from(["none", "ultraep"]))  # with locality: local shares are exact
    return us.plan(loads_of(topk, source, ranks, experts), layout, policy=policy), topk, source


@given(case=routed())
@settings(max_examples=80, deadline=None)
def test_visits_lie_between_tokens_and_pairs(case):
    plan, topk, source = case
    top_k = topk.shape[1]
    exact, pairs = count_visits(plan, topk, source), pair_matrix(plan)
    tokens = np.bincount(source, minlength=plan.layout.num_ranks)
    assert (exact <= np.minimum(pairs, tokens[:, None])).all()
    assert (exact * top_k >= pairs).all()
    estimate = distinct_visits(plan, top_k)
    assert (estimate >= 0).all()
    assert (estimate <= tokens[:, None] + 1e-9).all()
    if plan.num_replicas == 0:  # else shares of an expert are not rounded to tokens
        assert (estimate <= pairs + 1e-6).all()
        assert (estimate * top_k >= pairs - 1e-6).all()


@given(case=routed())
@settings(max_examples=60, deadline=None)
def test_factors_are_the_visits_over_the_pairs(case):
    plan, topk, _ = case
    visits, pairs = distinct_visits(plan, topk.shape[1]), pair_matrix(plan)
    for matrix in (visits, pairs):
        np.fill_diagonal(matrix, 0)
    sent, received = dedup_factors(plan, topk.shape[1])
    for axis, factor in ((1, sent), (0, received)):
        whole = pairs.sum(axis=axis)
        expected = visits.sum(axis=axis)[whole > 0] / whole[whole > 0]
        np.testing.assert_allclose(factor[whole > 0], expected, rtol=1e-6)
        assert (factor[whole == 0] == 1).all()


#: Largest error of the estimate over layers and policies, of all visits that cross ranks.
STATED = {
    ("gpt-oss-20b_token_examples", 8): 0.065,
    ("gpt-oss-20b_token_examples", 16): 0.025,
    ("deepseek-v2-lite_esft_law", 8): 0.03,
    ("deepseek-v2-lite_esft_law", 16): 0.03,
    ("deepseek-v2-lite_esft_summary", 8): 0.045,
    ("deepseek-v2-lite_esft_summary", 16): 0.03,
}


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "ranks"), STATED)
def test_estimate_on_recorded_tokens(name, ranks, record_property):
    """Sequences are dealt over the ranks; mean and largest error over layers are recorded."""
    path = ROUTING / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"recorded third-party data is not here: ../shared/data/routing/{path.name}")
    with np.load(path, allow_pickle=False) as members:
        topk, sequence = members["topk"].astype(np.int64), members["seq"].astype(np.int64)
    experts, top_k, layers = PER_TOKEN[name]
    source = sequence % ranks
    errors = []
    for layer in range(0, layers, 4):
        loads = loads_of(topk[:, layer], source, ranks, experts)
        for policy in ("none", "ultraep"):
            plan = us.plan(loads, EPLayout(ranks, experts, 2), policy=policy)
            exact = count_visits(plan, topk[:, layer], source)
            estimate, pairs = distinct_visits(plan, top_k), pair_matrix(plan)
            for matrix in (exact, estimate, pairs):
                np.fill_diagonal(matrix, 0)
            errors.append(estimate.sum() / exact.sum() - 1)
            # Better than no de-duplication at all.
            assert abs(errors[-1]) < pairs.sum() / exact.sum() - 1
    summary = {"mean": float(np.mean(errors)), "largest": float(np.abs(errors).max())}
    record_property("dedup_error", json.dumps(summary))
    assert summary["largest"] < STATED[name, ranks]


def test_tokens_of_other_loads_are_refused():
    topk, source = np.array([[0, 1]]), np.array([0])
    plan = us.plan(loads_of(topk, source, 2, 2) + 1, EPLayout(2, 2, 0), policy="none")
    with pytest.raises(InputError, match="tokens"):
        count_visits(plan, topk, source)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, True])
def test_top_k_is_a_count(top_k):
    plan = us.plan(np.ones((2, 2), np.int64), EPLayout(2, 2, 0), policy="none")
    with pytest.raises(InputError, match="top_k"):
        dedup_factors(plan, top_k)
