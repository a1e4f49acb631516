"""The split: both sums exact (invariant 1), locality first, close to proportional."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.planning import split_tokens


@st.composite
def splits(draw):
    """Loads [sources, experts] and instances with quotas that sum to each expert's load."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sources, experts = int(rng.integers(1, 12)), int(rng.integers(1, 8))
    loads = rng.integers(0, draw(st.sampled_from([2, 50, 20_000])), (sources, experts))
    offsets, rank, quota = [0], [], []
    for e in range(experts):
        width = int(rng.integers(1, sources + 1))
        cuts = np.sort(rng.integers(0, loads[:, e].sum() + 1, width - 1))
        quota += np.diff(np.concatenate(([0], cuts, [loads[:, e].sum()]))).tolist()
        rank += rng.permutation(sources)[:width].tolist()
        offsets.append(len(rank))
    return loads, np.array(offsets), np.array(rank, np.int32), np.array(quota)


@given(splits(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_rows_and_columns_are_exact(problem, locality):
    loads, offsets, rank, quota = problem
    split = split_tokens(loads, offsets, rank, quota, locality=locality)
    assert (split >= 0).all()
    assert split.sum(axis=0).tolist() == quota.tolist()
    assert np.array_equal(np.add.reduceat(split, offsets[:-1], axis=1), loads)


@given(splits())
@settings(max_examples=150, deadline=None)
def test_own_tokens_use_the_local_instance_first(problem):
    loads, offsets, rank, quota = problem
    split = split_tokens(loads, offsets, rank, quota)
    if loads.shape[0] == 1:
        return  # the source is unknown: no rank is local
    for e in range(loads.shape[1]):
        for i in range(offsets[e], offsets[e + 1]):
            assert split[rank[i], i] >= min(loads[rank[i], e], quota[i])


def test_cells_stay_close_to_proportional():
    """Rounding moves a cell by a few tokens only, however many sources share an expert."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(200):
        loads = rng.integers(0, 3000, (64, 1))
        cuts = np.sort(rng.integers(0, loads.sum(), 5))
        quota = np.diff(np.concatenate(([0], cuts, [loads.sum()])))
        split = split_tokens(
            loads, np.array([0, 6]), np.arange(6, dtype=np.int32), quota, locality=False
        )
        worst = max(worst, np.abs(split - loads * quota / loads.sum()).max())
    assert worst < 7, worst


def test_hand_worked_split():
    """Ranks 0-2 hold 6, 3, 3; quotas 5 on rank 0, 7 on rank 1.

    Local first: rank 0 keeps 5, rank 1 keeps 3. Left: 1 and 3 tokens for the 4 places on rank 1.
    """
    split = split_tokens(
        np.array([[6], [3], [3]]), np.array([0, 2]), np.array([0, 1], np.int32), np.array([5, 7])
    )
    assert split.tolist() == [[5, 1], [0, 3], [0, 3]]
