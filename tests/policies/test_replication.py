"""EPLB's two rules on examples worked by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ultraep_sim.policies.replication import pack, replicate

loads = st.lists(st.integers(0, 1000), min_size=1, max_size=30).map(np.array)


def test_replicate_by_hand():
    # 132 -> 66 | 90 -> 45 | next largest shares: 66, 61, 45, 40 -> expert 1 again
    assert replicate(np.array([90, 132, 40, 61]), 3).tolist() == [2, 3, 1, 1]


def test_ties_go_to_the_lower_expert():
    assert replicate(np.array([10, 10, 10]), 1).tolist() == [2, 1, 1]


def test_capped_copies_go_to_the_next():
    assert replicate(np.array([100, 1]), 3, max_copies=2).tolist() == [2, 2]


@given(loads, st.integers(0, 20))
def test_replicate_leaves_no_better_single_choice(weights, extra):
    """The largest share before each step was the one reduced: undoing it is never better."""
    copies = replicate(weights, extra)
    assert copies.sum() == len(weights) + extra
    worst = (weights / copies).max()
    for e in np.flatnonzero(copies > 1):
        assert weights[e] / (copies[e] - 1) >= worst


def test_pack_by_hand():
    # 9 | 8 | then 5 on the lighter (8 -> 13), 4 on 9 -> 13, 2 and 1 fill the last places
    assert pack(np.array([5.0, 9, 1, 8, 4, 2]), 2).tolist() == [1, 0, 1, 1, 0, 0]


@given(loads, st.integers(1, 8))
def test_packs_hold_equal_counts(weights, packs):
    counts = np.bincount(pack(weights.astype(float), packs), minlength=packs)
    assert counts.sum() == len(weights)
    assert counts.max() <= -(-len(weights) // packs)
