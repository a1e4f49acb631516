import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.trace.toys import deal, toy_meta, toy_trace
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import rescale_rows


def plainly(row, total):
    """Largest remainder with Python's integers: the definition."""
    whole = int(sum(row.tolist()))
    shares = [int(count) * total // whole for count in row]
    rests = [int(count) * total % whole for count in row]
    order = sorted(range(len(row)), key=lambda e: (-rests[e], e))
    for e in order[: total - sum(shares)]:
        shares[e] += 1
    return shares


@given(
    loads=arrays(np.int32, (3, 17), elements=st.integers(0, 2**26)),
    total=st.one_of(st.integers(1, 3000), st.integers(2**20, 2**31 - 1)),
)
@settings(max_examples=150, deadline=None)
def test_equals_the_definition(loads, total):
    loads[:, 3] += 1
    expected = [plainly(row, total) for row in loads]
    assert rescale_rows(loads, total).tolist() == expected


@given(
    loads=arrays(np.int32, (4, 12), elements=st.sampled_from([0, 1, 2, 7])),
    total=st.integers(1, 500),
)
@settings(max_examples=150, deadline=None)
def test_ties_go_to_the_lower_expert(loads, total):
    loads[:, 0] += 1
    assert rescale_rows(loads, total).tolist() == [plainly(row, total) for row in loads]


def test_large_products_are_exact():
    loads = np.array([[2**30, 2**30 - 1, 3, 0], [2**31 - 8, 1, 2, 4]], dtype=np.int32)
    for total in (2**31 - 1, 2**31 - 2, 2**30 + 1):
        assert rescale_rows(loads, total).tolist() == [plainly(row, total) for row in loads]


def test_a_row_without_tokens_keeps_none():
    loads = np.array([[0, 0, 0], [1, 0, 2]], dtype=np.int32)
    assert rescale_rows(loads, 7).tolist() == [[0, 0, 0], [2, 0, 5]]


@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 300),
    to=st.integers(1, 4000),
    top_k=st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_rows_stay_possible_and_counts_move_by_less_than_one(seed, tokens, to, top_k):
    row = deal(np.random.default_rng(seed), tokens, 16, top_k)[None]
    scaled = rescale_rows(row, to * top_k)
    assert scaled.sum() == to * top_k
    assert scaled.max() <= to  # no expert twice in a token
    assert (np.abs(scaled - row * (to / tokens)) < 1.0).all()
    assert (rescale_rows(scaled, to * top_k) == scaled).all()


@pytest.mark.parametrize("to", [64, 200, 8192])
def test_imbalance_is_kept(to):
    """Every expert moves by less than one per row, so a rank by less than experts x rows."""
    meta = toy_meta(num_experts=32, top_k=4, source_ranks=8, tokens_per_rank=128)
    trace = toy_trace(meta, steps=2)
    for before, after in zip(trace, trace.rescaled(to), strict=True):
        one = before.loads.sum(axis=0).reshape(8, 4).sum(axis=1)
        two = after.loads.sum(axis=0).reshape(8, 4).sum(axis=1)
        bound = 4 * 8 / (to * 4)  # 4 experts, 8 rows, over the mean rank load of 4 x tokens
        assert abs(one.max() / one.mean() - two.max() / two.mean()) <= bound
        assert (after.loads.sum(axis=1) == to * 4).all()


def test_the_view_is_labelled():
    view = toy_trace().rescaled(100)
    assert view.meta.tokens_per_rank == 100
    assert view.meta.notes["rescaled_to"] == {"tokens_per_rank": 100, "from": 6}


@pytest.mark.parametrize("tokens", [0, -3, 2.5, "8192", True, 2**31, 2**29])
def test_senseless_tokens_are_refused(tokens):
    with pytest.raises(TraceError, match="rescaled"):
        toy_trace().rescaled(tokens)
