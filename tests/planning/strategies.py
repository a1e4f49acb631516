"""Hypothesis strategies for layouts and loads, shared by planning, policy and engine tests."""

import numpy as np
from hypothesis import strategies as st

from ultraep_sim.planning import EPLayout


@st.composite
def layouts(draw, max_ranks=12, max_experts=24, max_slots=4, any_home=True):
    ranks = draw(st.integers(1, max_ranks))
    experts = draw(st.integers(1, max_experts))
    slots = draw(st.integers(0, min(max_slots, experts)))
    domain = draw(st.integers(1, ranks))
    home = None
    if any_home and draw(st.booleans()):
        home = draw(st.lists(st.integers(0, ranks - 1), min_size=experts, max_size=experts))
    return EPLayout(ranks, experts, slots, domain, home)


@st.composite
def load_matrices(draw, layout, max_load=2000, one_row=True):
    """Loads of every kind: uniform, skewed, sparse, one-hot, all zero."""
    sources = 1 if one_row and draw(st.booleans()) else layout.num_ranks
    shape = (sources, layout.num_experts)
    kind = draw(st.sampled_from(["uniform", "zipf", "sparse", "one_hot", "zero"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "zero":
        return np.zeros(shape, np.int64)
    if kind == "one_hot":
        loads = np.zeros(shape, np.int64)
        loads[rng.integers(sources), rng.integers(layout.num_experts)] = rng.integers(1, max_load)
        return loads
    loads = rng.integers(0, max_load, shape)
    if kind == "zipf":
        skew = 1.0 / np.arange(1, layout.num_experts + 1) ** rng.uniform(0.5, 3)
        loads = (loads * rng.permutation(skew)).astype(np.int64)
    if kind == "sparse":
        loads = np.where(rng.random(shape) < 0.2, loads, 0)
    return loads


@st.composite
def problems(draw, **kwargs):
    """Draw a layout and loads that fit it."""
    layout = draw(layouts(**kwargs))
    return layout, draw(load_matrices(layout))
