"""Flows in time: closed forms, hand-computed cases, conservation, changes midway, named effects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.alltoall import all_to_all
from ultraep_sim.fabric.flow_effects import EFFECTS
from ultraep_sim.fabric.flows import Change, Flows, flows_of_matrix, simulate, slowed_by_bandwidth
from ultraep_sim.fabric.health import degrade, health
from ultraep_sim.fabric.topology import build_topology, preset_topology
from ultraep_sim.fabric.wiring import wiring_of
from ultraep_sim.model import get_rack
from ultraep_sim.scenario.topology import TopologySpec

PAPER = preset_topology("paper-rack")


def ports(gpus=4, domains=1, planes=2, **values):
    """A fabric with easy numbers: 1 GB/s on every GPU's planes and NIC, no latency."""
    rack = get_rack("paper-rack64").with_overrides(
        {"scale_up_GBps": 1.0, "alltoall_forward_GBps": 1.0, "scale_out_achieved_GBps": 1.0}
    )
    numbers = {"planes": planes, "spines": 2, "leaves_per_rack": 1, **values}
    numbers |= dict.fromkeys(("scale_up_latency_us", "scale_out_latency_us", "spine_latency_us"), 0)
    wiring = wiring_of(rack).with_overrides(numbers)
    return build_topology(rack, wiring, domains, domain_size=gpus)


FOUR = ports()


def flows(*rows):
    """Rows of (source, destination, GB, start)."""
    src, dst, size, start = zip(*rows, strict=True)
    return Flows(np.array(src), np.array(dst), np.array(size) * 1e9, np.array(start, float))


def closed_form(topology, matrix, gpus):
    """Time of an all-to-all by `alltoall`, without floors: the slowest rank's busier direction."""
    domain = gpus // topology.domain_size
    near = domain[:, None] == domain
    off = np.where(np.eye(len(gpus), dtype=bool), 0, matrix)
    rack = topology.rack.with_overrides({"alltoall_floor_us": 0, "scale_out_floor_us": 0})
    sums = [(off * mask).sum(axis=axis)[None] for mask in (near, ~near) for axis in (1, 0)]
    return float(all_to_all(rack, *sums, bytes_per_pair=1.0).max())


# -- closed forms ------------------------------------------------------------------------------


def test_a_uniform_all_to_all_in_a_rack_is_the_closed_form_in_one_solve():
    gpus = np.arange(64)
    matrix = np.full((64, 64), 2_000_000)
    result = simulate(PAPER, flows_of_matrix(matrix, gpus))
    expected = closed_form(PAPER, matrix, gpus)
    assert result.end_s == pytest.approx(expected + 0.85e-6)
    assert result.finish_s == pytest.approx(np.full(64 * 63, expected + 0.85e-6))
    assert result.solves == 1
    assert result.effects == ()


def test_a_uniform_all_to_all_across_racks_is_bound_by_the_nics():
    """Near flows end first and take nothing from the NICs: two solves, and the closed form."""
    topology = TopologySpec(domains=2).build(get_rack("h100-nvl8"), groups=1, ranks=16)
    gpus, matrix = np.arange(16), np.full((16, 16), 3_000_000)
    result = simulate(topology, flows_of_matrix(matrix, gpus))
    drained = result.finish_s.max() - 4e-6
    assert drained == pytest.approx(closed_form(topology, matrix, gpus))
    assert result.solves == 2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_all_to_all_beats_the_closed_form(seed):
    matrix = np.random.default_rng(seed).integers(0, 10**9, (4, 4))
    result = simulate(FOUR, flows_of_matrix(matrix, np.arange(4)))
    assert result.end_s >= closed_form(FOUR, matrix, np.arange(4)) * (1 - 1e-9)


# -- by hand -----------------------------------------------------------------------------------


def test_incast_by_hand_and_by_name():
    """Three senders of 1 GB share one port of 1 GB/s; the one of 2 GB has it alone at the end."""
    result = simulate(FOUR, flows((1, 0, 1, 0), (2, 0, 1, 0), (3, 0, 2, 0)))
    assert result.finish_s == pytest.approx([3, 3, 4])
    (effect,) = result.effects
    assert (effect.name, effect.flows, effect.where) == ("incast", 3, "d0.plane0-1 -> gpu0")
    assert effect.seconds == pytest.approx(3)


def test_three_ranks_by_hand():
    """0 sends 2 GB to 1 and 1 GB to 2; 1 sends 2 GB to 2 from 1 s on.

    Until 1 s, rank 0 sends 0.5 on each. Then 0.5 GB/s each out of 0, and 1 gets 0.5 of the port
    into 2, where 0 takes the other half: 0 -> 2 ends at 2 s. Now 0 -> 1 has 1 GB left at 1 GB/s,
    1 -> 2 has 1.5 GB left at 1 GB/s.
    """
    result = simulate(FOUR, flows((0, 1, 2, 0), (0, 2, 1, 0), (1, 2, 2, 1)))
    assert result.finish_s == pytest.approx([3, 2, 3.5])
    assert result.times.tolist() == [[0, 1], [1, 2], [2, 3], [3, 3.5]]


def test_a_flow_waits_for_its_start_and_leaves_the_clock_to_others():
    result = simulate(FOUR, flows((0, 1, 1, 0), (0, 1, 1, 5)))
    assert result.finish_s == pytest.approx([1, 6])
    assert result.times == pytest.approx(np.array([[0, 1], [5, 6]]))


def test_a_flow_to_itself_and_an_empty_one_end_at_once():
    result = simulate(FOUR, flows((2, 2, 7, 3), (0, 1, 0, 4), (0, 1, 1, 0)))
    assert result.finish_s == pytest.approx([3, 4, 1])


def test_an_empty_flow_does_not_wait_for_a_dead_link():
    assert simulate(degrade(FOUR, "gpu1", 0.0), flows((0, 1, 0, 2))).finish_s == pytest.approx([2])


def test_ends_that_differ_by_rounding_are_one_event():
    third = 1 / 3  # sums to 1 in one order and to a little less in another
    result = simulate(FOUR, flows((0, 1, 0.1 + 0.2, 0), (2, 3, 0.3, 0), (1, 0, 0.9 * third, 0)))
    assert len({0.1 + 0.2, 0.3, 0.9 * third}) > 1
    assert result.solves == 1


def test_both_directions_of_a_port_are_apart():
    assert simulate(FOUR, flows((0, 1, 1, 0), (1, 0, 1, 0))).end_s == pytest.approx(1)


def test_an_oversubscribed_spine_binds_by_name():
    topology = ports(domains=2, oversubscription=2.0)
    rows = [(gpu, gpu + 4, 1, 0) for gpu in range(4)]
    result = simulate(topology, flows(*rows))
    assert result.finish_s == pytest.approx([2] * 4)
    assert {e.name for e in result.effects} == {"spine-bound"}


# -- changes midway ----------------------------------------------------------------------------

# 2 GB at 1 GB/s over two planes; at 1 s plane 0 changes, 1 GB is left.
ONE = flows((0, 1, 2, 0))
DIES = Change(1.0, "d0.plane0", 0.0)


@pytest.mark.parametrize("striping", ["equal", "adaptive"])
def test_a_plane_that_dies_midway_leaves_the_other(striping):
    result = simulate(replace(FOUR, striping=striping), ONE, [DIES])
    assert result.finish_s == pytest.approx([3])
    assert [(e.name, e.start_s, e.where) for e in result.effects] == [("restripe", 1, "d0.plane0")]
    carried = {result.arrays.name(x): result.link_bytes[x] / 1e9 for x in result.links}
    # Class 0 is plane 0: half of the first GB; all else went over plane 1.
    assert carried["gpu0 -> d0.plane0"] == pytest.approx(0.5)
    assert carried["d0.plane1 -> gpu1"] == pytest.approx(1.5)


def test_a_plane_at_a_quarter_slows_all_stripes_unless_they_adapt():
    """Equal stripes run at the slowest plane's 0.125 each; adaptive ones at 0.5 + 0.125."""
    weak = [Change(1.0, "d0.plane0", 0.25)]
    assert simulate(FOUR, ONE, weak).finish_s == pytest.approx([1 + 1 / 0.25])
    adaptive = replace(FOUR, striping="adaptive")
    assert simulate(adaptive, ONE, weak).finish_s == pytest.approx([1 + 1 / 0.625])


def test_fixed_stripes_stall_until_the_repair():
    fixed = replace(FOUR, striping="fixed")
    result = simulate(fixed, ONE, [DIES, Change(4.0, "d0.plane0", 1.0)])
    assert result.finish_s == pytest.approx([5])
    assert {(e.name, e.start_s, e.seconds) for e in result.effects} == {("stall", 1.0, 3.0)}


def test_flows_that_would_stall_forever_are_an_error_by_name():
    with pytest.raises(InputError, match=r"1 flows wait forever .* gpu0 -> d0.plane0, from 1 s"):
        simulate(replace(FOUR, striping="fixed"), ONE, [DIES])
    with pytest.raises(InputError, match="wait forever"):
        simulate(FOUR, ONE, [Change(1.0, "gpu1", 0.0)])


def test_parts_that_die_together_are_one_change():
    both = [Change(1.0, f"d0.plane{plane}", 0.0) for plane in (0, 2)]
    result = simulate(ports(planes=4), ONE, both)
    assert result.finish_s == pytest.approx([3])
    assert [(e.name, e.where) for e in result.effects] == [("restripe", "d0.plane0, d0.plane2")]
    from_the_start = simulate(FOUR, ONE, [replace(DIES, time_s=0.0)])
    assert from_the_start.finish_s == pytest.approx([4])
    assert from_the_start.effects == ()


@given(
    striping=st.sampled_from(["equal", "adaptive", "fixed"]),
    parts=st.lists(
        st.tuples(
            st.sampled_from(["d0.plane0", "d0.plane1", "gpu0", ("gpu0", "d0.plane1"), "nic0"]),
            st.sampled_from([0.25, 0.5, 0.75]),
        ),
        max_size=3,
    ),
    peer=st.sampled_from([1, 4]),
)
def test_health_says_what_a_flow_finds(striping, parts, peer):
    """A flow alone takes as much longer as the multiplier of its GPU says."""
    topology = replace(ports(domains=2), striping=striping)
    for part, factor in parts:
        topology = degrade(topology, part, factor)
    hurt = health(topology)
    left = hurt.scale_up[0] if peer == 1 else hurt.scale_out[0]
    assert simulate(topology, flows((0, peer, 1, 0))).end_s == pytest.approx(1 / left)


def test_a_change_when_all_is_over_changes_nothing():
    late = [Change(9.0, "d0.plane0", 0.0)]
    assert simulate(FOUR, ONE, late).finish_s == pytest.approx([2])
    assert simulate(FOUR, ONE, late).effects == ()


def test_a_change_between_flows_holds_for_the_later():
    result = simulate(FOUR, flows((0, 1, 1, 0), (0, 1, 1, 5)), [Change(3.0, "d0.plane1", 0.0)])
    assert result.finish_s == pytest.approx([1, 7])


# -- properties --------------------------------------------------------------------------------

TWO = ports(domains=2)


@st.composite
def runs(draw):
    """Flows over two domains of four, and changes that leave every pair a way."""
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 4), st.integers(0, 4)),
            min_size=1,
            max_size=14,
        )
    )
    parts = st.sampled_from(["d0.plane0", "d1.plane0", "spine0", ("gpu0", "d0.plane0")])
    changes = draw(
        st.lists(
            st.tuples(st.sampled_from([0.5, 1.0, 2.5]), parts, st.sampled_from([0.0, 0.5, 1.0])),
            max_size=3,
        )
    )
    striping = draw(st.sampled_from(["equal", "adaptive"]))
    return replace(TWO, striping=striping), flows(*rows), [Change(*c) for c in changes]


@settings(max_examples=80, deadline=None)
@given(runs())
def test_bytes_are_conserved_and_no_link_is_above_its_capacity(run):
    topology, sent, changes = run
    result = simulate(topology, sent, changes)
    assert (result.finish_s >= sent.start_s).all()
    assert (result.utilisation <= 1 + 1e-9).all()
    assert (result.peak <= 1 + 1e-9).all()
    # What the timeline says adds up to what the links say they carried.
    seconds = result.times[:, 1] - result.times[:, 0]
    assert (seconds > 0).all()
    assert result.link_rate.T @ seconds == pytest.approx(result.link_bytes[result.links])
    # Every byte leaves its source over links of it and comes in over links of its destination.
    arrays, near = result.arrays, sent.src // 4 == sent.dst // 4
    for gpu in range(8):
        for mine, tables in ((sent.src, (arrays.to_planes, arrays.outward[:, 0])),
                             (sent.dst, (arrays.from_planes, arrays.inward[:, 0]))):  # fmt: skip
            own = (mine == gpu) & (sent.src != sent.dst)
            for table, over in zip(tables, (near, ~near), strict=True):
                links = np.atleast_1d(table[gpu])
                carried = result.link_bytes[links[links >= 0]].sum()
                assert carried == pytest.approx(sent.size[own & over].sum())


@settings(max_examples=30, deadline=None)
@given(runs())
def test_the_same_run_gives_the_same_bytes(run):
    one, two = simulate(*run), simulate(*run)
    assert one.finish_s.tobytes() == two.finish_s.tobytes()
    assert one.link_rate.tobytes() == two.link_rate.tobytes()
    assert one.effects == two.effects


@settings(max_examples=50, deadline=None)
@given(
    pair=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    size=st.floats(0.01, 100),
    factor=st.floats(0.05, 0.5),
)
def test_a_single_flow_never_ends_later_with_twice_the_bandwidth(pair, size, factor):
    sent = flows((*pair, size, 0))
    nodes = [*TWO.nodes("plane"), *TWO.nodes("nic"), *TWO.nodes("spine")]
    slow, fast = degrade(TWO, nodes, factor), degrade(TWO, nodes, 2 * factor)
    assert simulate(fast, sent).end_s <= simulate(slow, sent).end_s


@settings(max_examples=30, deadline=None)
@given(runs(), st.sampled_from([0.1, 0.5]))
def test_a_coarse_resolution_conserves_bytes(run, resolution):
    topology, sent, changes = run
    exact = simulate(topology, sent, changes)
    coarse = simulate(topology, sent, changes, resolution_s=resolution)
    assert coarse.peak.max(initial=0) <= 1 + 1e-9
    if not changes:
        assert coarse.link_bytes == pytest.approx(exact.link_bytes)
    seconds = coarse.times[:, 1] - coarse.times[:, 0]
    assert coarse.link_rate.T @ seconds == pytest.approx(coarse.link_bytes[coarse.links])


def test_a_coarse_resolution_solves_less_and_is_late_by_little():
    """240 different sizes end one by one; within 2 % of the run they may end together."""
    sent = flows_of_matrix(np.random.default_rng(0).pareto(2, (16, 16)) * 1e6, np.arange(16))
    exact = simulate(PAPER, sent)
    coarse = simulate(PAPER, sent, resolution_s=exact.end_s / 50)
    assert exact.solves == 240
    assert coarse.solves < 51
    assert exact.end_s * 0.98 < coarse.end_s < exact.end_s * 1.05


# -- what closed forms do not know -------------------------------------------------------------


def test_more_bandwidth_can_lengthen_a_run_and_is_reported_by_name():
    """A flow let through faster takes bandwidth from one that then meets a third.

    1 -> 2 (3 GB from 0 s), 0 -> 2 (1 GB from 1 s), 1 -> 0 (4 GB from 3 s), ports of 1 GB/s.
    With rank 0 sending at a quarter, 1 -> 2 keeps 0.75 of the port into 2, has 0.5 GB left at 3 s,
    shares its port out with 1 -> 0 for 1 s, and 1 -> 0 ends at 4 + 3.5 = 7.5 s. With rank 0 at
    full speed, 1 -> 2 has 0.5 of that port, 1 GB left at 3 s, shares for 2 s: 1 -> 0 ends at 8 s.
    """
    sent = flows((1, 2, 3, 0), (0, 2, 1, 1), (1, 0, 4, 3))
    port_out = [("gpu0", "d0.plane0"), ("gpu0", "d0.plane1")]
    slow = simulate(degrade(FOUR, port_out, 0.25, one_way=True), sent)
    fast = simulate(FOUR, sent)
    assert slow.finish_s == pytest.approx([4, 5, 7.5])
    assert fast.finish_s == pytest.approx([5, 3, 8])
    effects = slowed_by_bandwidth(slow, fast)
    assert [(e.name, e.where, round(e.seconds, 6)) for e in effects] == [
        ("fair-sharing", "flow 0", 1.0),
        ("fair-sharing", "flow 2", 0.5),
    ]
    assert slowed_by_bandwidth(fast, fast) == ()
    assert {e.name for e in effects} <= set(EFFECTS)


@pytest.mark.parametrize(
    ("src", "size", "start", "place"),
    [([-1], [1.0], [0.0], "src"), ([0], [-1.0], [0.0], "size"), ([0], [1.0], [np.nan], "start_s"),
     ([0, 1], [1.0], [0.0], "dst")],
)  # fmt: skip
def test_flows_that_are_none_are_refused(src, size, start, place):
    with pytest.raises(InputError, match=f"^{place}: "):
        Flows(np.array(src), np.array([0]), np.array(size), np.array(start))


def test_no_flows_take_no_time():
    nothing = Flows(*(np.zeros(0, t) for t in (np.int64, np.int64, float, float)))
    assert simulate(FOUR, nothing).end_s == 0
