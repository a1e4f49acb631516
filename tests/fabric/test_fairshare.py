"""Max-min fair rates: the definition, hand-computed cases, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.fairshare import FairShare, max_min_rates


def csr(*ways):
    ptr = np.cumsum([0, *map(len, ways)])
    return ptr.astype(np.int64), np.array([link for way in ways for link in way], np.int64)


@st.composite
def networks(draw):
    """Random links, ways, weights and shares; some links dead."""
    links = draw(st.integers(1, 8))
    bandwidths = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 10.0])
    capacity = draw(st.lists(bandwidths, min_size=links, max_size=links))
    ways = draw(
        st.lists(
            st.lists(st.integers(0, links - 1), min_size=1, max_size=4, unique=True),
            min_size=1,
            max_size=12,
        )
    )
    ptr, flat = csr(*ways)
    numbers = st.sampled_from([0.25, 0.5, 1.0, 1.0, 2.0])
    weights = draw(st.lists(numbers, min_size=len(ways), max_size=len(ways)))
    shares = draw(st.lists(numbers, min_size=len(flat), max_size=len(flat)))
    return np.array(capacity), ptr, flat, np.array(weights), np.array(shares)


@settings(max_examples=300)
@given(networks())
def test_every_flow_has_a_bottleneck_and_no_link_is_above_its_capacity(network):
    """The definition: a full link on which nobody gets more for its weight."""
    capacity, ptr, links, weights, shares = network
    solver = FairShare(len(capacity), ptr, links, weights, shares)
    rates = solver.rates(capacity)
    load = solver.load(rates)
    assert (load <= capacity * (1 + 1e-9)).all()
    full = load >= capacity * (1 - 1e-9)
    level = rates / weights
    for f in range(len(rates)):
        way = links[ptr[f] : ptr[f + 1]]
        assert any(
            full[link] and level[f] >= level[solver.owner[links == link]].max() * (1 - 1e-9)
            for link in way
        )


@given(networks(), st.floats(0.1, 10))
def test_rates_scale_with_bandwidth(network, factor):
    capacity, ptr, links, weights, shares = network
    once = max_min_rates(capacity, ptr, links, weights, shares)
    scaled = max_min_rates(capacity * factor, ptr, links, weights, shares)
    assert scaled == pytest.approx(once * factor)


@given(networks(), st.data())
def test_flows_that_do_not_take_part_are_as_if_they_were_not_there(network, data):
    capacity, ptr, links, weights, shares = network
    flows = len(weights)
    active = np.array(data.draw(st.lists(st.booleans(), min_size=flows, max_size=flows)))
    rates = FairShare(len(capacity), ptr, links, weights, shares).rates(capacity, active)
    keep = np.flatnonzero(active)
    entries = np.repeat(active, np.diff(ptr))
    small = np.concatenate([[0], np.cumsum(np.diff(ptr)[keep])])
    alone = max_min_rates(capacity, small, links[entries], weights[keep], shares[entries])
    assert rates[keep] == pytest.approx(alone)
    assert (rates[~active] == 0).all()


def test_three_ranks_by_hand():
    """Ports of 12: ranks 0 and 1 send to 2, and 0 to 1 too.

    The port into 2 is shared by two (6 each); rank 0's port out then has 6 left for rank 1.
    """
    out, into = (0, 1, 2), (3, 4, 5)
    ptr, links = csr((out[0], into[2]), (out[1], into[2]), (out[0], into[1]))
    assert max_min_rates(np.full(6, 12.0), ptr, links).tolist() == [6, 6, 6]
    # With rank 0's port out at 8, it sends 4 on each and rank 1 takes what is left of 2's.
    capacity = np.array([8.0, 12, 12, 12, 12, 12])
    assert max_min_rates(capacity, ptr, links).tolist() == [4, 8, 4]


@pytest.mark.parametrize("senders", [1, 2, 7, 63])
def test_incast_divides_the_receivers_port(senders):
    ptr, links = csr(*((sender, senders) for sender in range(senders)))
    rates = max_min_rates(np.full(senders + 1, 21.0), ptr, links)
    assert rates == pytest.approx(np.full(senders, 21.0 / senders))


def test_weights_and_shares_by_hand():
    ptr, links = csr((0,), (0,))
    assert max_min_rates(np.array([9.0]), ptr, links, np.array([1.0, 2.0])).tolist() == [3, 6]
    # Half of a flow on each of two links of 3 and 5: the weaker one stops it at 6.
    ptr, links = csr((0, 1))
    assert max_min_rates(np.array([3.0, 5.0]), ptr, links, None, np.array([0.5, 0.5])) == [6]


def test_a_flow_over_no_link_is_unbounded_and_one_over_a_dead_link_gets_nothing():
    ptr, links = csr((), (0,), (1,))
    assert max_min_rates(np.array([0.0, 4.0]), ptr, links).tolist() == [np.inf, 0, 4]


def test_no_flows_have_no_rates():
    assert max_min_rates(np.ones(3), np.zeros(1, np.int64), np.zeros(0, np.int64)).size == 0


@given(networks())
def test_the_same_flows_get_the_same_bytes(network):
    assert max_min_rates(*network).tobytes() == max_min_rates(*network).tobytes()


@pytest.mark.parametrize(
    ("capacity", "ptr", "links", "weights", "place"),
    [
        ([1.0], [0, 2], [0], None, "flow_ptr"),
        ([1.0], [0, 1], [1], None, "flow_links"),
        ([1.0], [0, 1], [-1], None, "flow_links"),
        ([-1.0], [0, 1], [0], None, "capacity"),
        ([1.0], [0, 1], [0], [0.0], "weights"),
        ([1.0], [0, 1], [0], [1.0, 1.0], "weights"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(capacity, ptr, links, weights, place):
    with pytest.raises(InputError, match=f"^{place}: "):
        max_min_rates(
            np.array(capacity),
            np.array(ptr),
            np.array(links),
            None if weights is None else np.array(weights),
        )
