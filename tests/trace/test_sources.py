import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trace.toys import deal, toy_meta, toy_trace
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import Trace, resource_rows, spread_row


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 9),
    ranks=st.integers(1, 40),
    tokens=st.integers(1, 200),
    top_k=st.integers(1, 6),
)
@settings(max_examples=150, deadline=None)
def test_sums_are_exact_and_rows_possible(seed, rows, ranks, tokens, top_k):
    rng = np.random.default_rng(seed)
    loads = np.stack([deal(rng, tokens, 12, top_k) for _ in range(rows)])
    found = resource_rows(loads, ranks, top_k)
    assert found.shape == (ranks, 12)
    assert found.dtype == np.int32
    assert (found.sum(axis=0) == loads.sum(axis=0)).all()
    assert (found >= 0).all()
    sums = found.sum(axis=1)
    assert (sums % top_k == 0).all()
    assert (found.max(axis=1) * top_k <= sums).all()  # no expert twice in a token
    assert np.array_equal(found, resource_rows(loads, ranks, top_k))


@given(seed=st.integers(0, 10**6), ranks=st.integers(1, 70), tokens=st.integers(1, 500))
@settings(max_examples=60, deadline=None)
def test_spreading_is_even(seed, ranks, tokens):
    row = deal(np.random.default_rng(seed), tokens, 16, 4)
    found = spread_row(row, ranks, 4)
    assert np.ptp(found.sum(axis=1)) <= 4  # one token
    assert (np.abs(found - row / ranks) < 2).all()


def test_row_sums_do_not_depend_on_the_layer():
    meta = toy_meta(source_ranks=1, tokens_per_rank=37)
    view = toy_trace(meta).with_sources(5)
    sums = {tuple(r.loads.sum(axis=1).tolist()) for r in view}
    assert len(sums) == 1
    Trace.from_records(view.meta, view)  # passes every check of the format


def test_neighbours_are_merged():
    trace = toy_trace()
    for before, after in zip(trace, trace.with_sources(2), strict=True):
        assert np.array_equal(after.loads[0], before.loads[:2].sum(axis=0))
        assert np.array_equal(after.loads[1], before.loads[2:].sum(axis=0))


def test_each_row_is_spread_over_its_own_ranks():
    trace = toy_trace()
    for before, after in zip(trace, trace.with_sources(8), strict=True):
        assert np.array_equal(after.loads.reshape(4, 2, 8).sum(axis=1), before.loads)


def test_odd_numbers_sum_then_spread():
    trace = toy_trace()
    for before, after in zip(trace, trace.with_sources(6), strict=True):
        assert np.array_equal(
            after.loads, spread_row(before.loads.sum(axis=0, dtype=np.int32), 6, 2)
        )


@pytest.mark.parametrize(
    ("ranks", "tokens", "says"),
    [
        (2, 12, "4 rows merged by 2 neighbours into 2"),
        (8, 3, "4 rows spread evenly over 8"),
        (6, 4, "4 rows summed and spread evenly over 6"),
    ],
)
def test_the_view_is_labelled(ranks, tokens, says):
    view = toy_trace().with_sources(ranks)
    assert view.meta.source_ranks == ranks
    assert view.meta.tokens_per_rank == tokens
    assert says in view.meta.notes["sources"]


def test_labels_of_changes_in_a_row_add_up():
    view = toy_trace().with_sources(2).with_sources(4)
    assert view.meta.notes["sources"].startswith("4 rows merged")
    assert "then 2 rows spread" in view.meta.notes["sources"]


def test_the_same_number_changes_nothing():
    trace = toy_trace()
    assert trace.with_sources(4) is trace


@pytest.mark.parametrize("ranks", [0, -1, 2.0, True, 10**7])
def test_senseless_ranks_are_refused(ranks):
    with pytest.raises(TraceError, match="with_sources"):
        toy_trace().with_sources(ranks)
