"""Shared by the transfer tests: a toy stream, random plans, and the check of a port's capacity."""

import numpy as np
from hypothesis import strategies as st

import ultraep_sim as us
from ultraep_sim.fabric.tile_stream import StreamModel
from ultraep_sim.model.provenance import assumed
from ultraep_sim.planning import EPLayout


def number(value, unit="1"):
    return assumed(value, unit, "a test", value, value)


def toy_stream(**changes):
    """1 GB/s, 0.5 us a tile, 10 us a launch, 2 us a flag; memory as good as free."""
    values = {
        "link": number(1, "GB/s"), "tile_overhead": number(500, "ns"), "base": number(10, "us"),
        "relay": number(0, "us"), "flag": number(2, "us"), "workers": number(4),
        "hbm": number(1e9, "TB/s"),
    }  # fmt: skip
    return StreamModel(**{**values, **changes})


@st.composite
def plans(draw, max_ranks=10, policies=("ultraep", "eplb_plus")):
    """A plan on skewed loads, in one scale-up domain, that opens at least one replica."""
    ranks = draw(st.integers(2, max_ranks))
    experts = draw(st.integers(2, 3 * ranks))
    slots = draw(st.integers(1, min(3, experts)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    skew = 1.0 / np.arange(1, experts + 1) ** rng.uniform(0.5, 3)
    loads = (rng.integers(500, 2000, (ranks, experts)) * rng.permutation(skew)).astype(np.int64)
    loads[:, rng.integers(experts)] += 4000
    layout = EPLayout(ranks, experts, slots)
    return us.plan(loads, layout, policy=draw(st.sampled_from(policies)))


def wide_plan(fanout=12, ranks=16, expert=0):
    """One hot expert on rank 0 with many replicas: what a relay is for."""
    loads = np.full((ranks, ranks), 40, np.int64)
    loads[:, expert] = 40 * fanout
    return us.plan(loads, EPLayout(ranks, ranks, 1), policy="eplb_plus")


def assert_one_at_a_time(port, start, end):
    """No two intervals of one port overlap: at no instant does it carry above its bandwidth."""
    order = np.lexsort((end, start, port))
    port, start, end = port[order], start[order], end[order]
    same = port[1:] == port[:-1]
    assert (end >= start).all()
    assert (start[1:][same] >= end[:-1][same] - 1e-12).all()
