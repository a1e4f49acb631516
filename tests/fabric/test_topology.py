"""The fabric graph, its arrays, its state of health, and groups on physical GPUs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraep_sim.errors import InputError, ProfileError
from ultraep_sim.fabric.groups import domains_needed, place_groups, spares
from ultraep_sim.fabric.health import degrade, health
from ultraep_sim.fabric.hops import group_link
from ultraep_sim.fabric.topology import KINDS, build_topology, preset_topology
from ultraep_sim.fabric.topology_arrays import flatten, flatten_states
from ultraep_sim.fabric.wiring import WIRINGS, wiring_of
from ultraep_sim.model import RACKS, get_rack
from ultraep_sim.planning import EPLayout
from ultraep_sim.scenario.topology import TopologySpec

PAPER = preset_topology("paper-rack")
NVL8 = TopologySpec(domains=8).build(get_rack("h100-nvl8"), groups=1, ranks=8)
NVL72 = preset_topology("nvl72")


def spec(rack="paper-rack64", groups=1, ranks=64, domain_size=None, **values):
    return TopologySpec(**values).build(
        get_rack(rack), groups=groups, ranks=ranks, domain_size=domain_size
    )


FORTY = spec(preset="paper-40-racks")


@pytest.mark.parametrize(
    ("topology", "gpus", "hosts", "planes", "leaves", "spines"),
    [(PAPER, 64, 16, 18, 4, 8), (NVL72, 72, 18, 18, 4, 8), (NVL8, 64, 8, 32, 4, 8)],
    ids=["paper-rack", "nvl72", "nvl8"],
)
def test_presets_have_what_the_hardware_has(topology, gpus, hosts, planes, leaves, spines):
    counts = {kind: len(topology.nodes(kind)) for kind in ("gpu", "host", "plane", "leaf", "spine")}
    assert counts == {"gpu": gpus, "host": hosts, "plane": planes, "leaf": leaves, "spine": spines}
    assert len(topology.nodes("nic")) == gpus == topology.num_gpus


def test_forty_racks_hold_2560_gpus_and_every_pair_is_connected():
    assert FORTY.num_gpus == 2560
    assert FORTY.racks == 40
    assert nx.is_strongly_connected(FORTY.graph)


@pytest.mark.parametrize("name", list(RACKS))
def test_a_gpus_links_add_up_to_the_racks_figures(name):
    rack = get_rack(name)
    topology = build_topology(rack, wiring_of(rack), 2)
    sums = dict.fromkeys(KINDS, 0.0)
    for _, other, link in topology.graph.out_edges("gpu3", data="link"):
        sums[link.kind] += link.bandwidth.si
        assert topology.graph.has_edge(other, "gpu3")
    assert sums["scale_up"] == pytest.approx(rack.scale_up_GBps.si)
    from_nic = [link for _, _, link in topology.graph.out_edges("nic3", data="link")]
    assert [link.bandwidth.si for link in from_nic if link.kind == "nic"] == [
        rack.scale_out_Gbps.si
    ]


@pytest.mark.parametrize("topology", [PAPER, NVL8, NVL72], ids=["paper", "nvl8", "nvl72"])
def test_every_link_says_where_its_numbers_come_from(topology):
    for *_, link in topology.graph.edges(data="link"):
        for number in (link.bandwidth, link.achieved, link.latency):
            assert number.provenance
            assert number.source
        assert 0 < link.achieved.si <= link.bandwidth.si


def test_presets_of_the_scenario_are_those_of_the_fabric():
    field = TopologySpec.model_fields["preset"].annotation
    named = {name for part in field.__args__ for name in getattr(part, "__args__", ())}
    assert named == set(WIRINGS)


def test_a_link_of_a_leaf_is_as_wide_as_its_nics_over_spines_and_oversubscription():
    topology = spec(domains=2, oversubscription=4.0, spines=5, leaves_per_rack=8)
    link = topology.graph.edges["r0.leaf0", "spine0"]["link"]
    assert link.bandwidth.si == pytest.approx(8 * get_rack("paper-rack64").scale_out_Gbps.si / 20)
    assert link.bandwidth.provenance == "assumed"


def test_a_faster_nic_gets_a_host_link_as_fast():
    rack = get_rack("gb200-nvl72").with_overrides({"scale_out_Gbps": 1600})
    assert wiring_of(rack).pcie_GBps.value == 200
    assert wiring_of(get_rack("gb200-nvl72")).pcie_GBps.value == 63


@pytest.mark.parametrize(
    ("values", "rack", "words"),
    [
        ({"preset": "paper-40-racks"}, "h100-nvl8", ("topology.preset", "64", "h100-nvl8")),
        ({"preset": "nvl72"}, "paper-rack64", ("topology.preset", "leave the preset out")),
        ({"leaves_per_rack": 65}, "paper-rack64", ("topology.leaves_per_rack", "1 to 64")),
    ],
)
def test_impossible_fabrics_are_refused_by_name(values, rack, words):
    with pytest.raises(ProfileError) as caught:
        spec(rack, **values)
    for word in words:
        assert word in str(caught.value)


def test_a_small_rack_has_no_more_leaves_than_nics_unless_told_so():
    assert len(spec(ranks=2, domain_size=2, domains_per_rack=1).nodes("leaf")) == 2
    with pytest.raises(ProfileError, match="leaves_per_rack"):
        spec(ranks=2, domain_size=2, domains_per_rack=1, leaves_per_rack=4)


def test_a_scenario_value_is_marked_as_the_users():
    link = spec(planes=9, scale_up_latency_us=2.0).graph.edges["gpu0", "d0.plane0"]["link"]
    assert link.bandwidth.value == 100
    assert link.latency.si == pytest.approx(1e-6)
    assert link.latency.provenance == "assumed"


# -- arrays ----------------------------------------------------------------------------------


def ways_of(topology, src, dst):
    arrays = flatten(topology)
    routes = arrays.routes(np.array([src]), np.array([dst]))
    named = [arrays.name(link) for link in routes.links]
    return named, arrays.capacity[routes.links], routes.shares, float(routes.latency_s[0])


def test_a_pair_in_a_domain_uses_its_planes_as_one_link_each_way():
    named, capacity, shares, latency = ways_of(PAPER, 3, 5)
    assert named == ["gpu3 -> d0.plane0-17", "d0.plane0-17 -> gpu5"]
    assert capacity == pytest.approx([640e9, 640e9])  # what an all-to-all reaches of the 900
    assert shares.tolist() == [1, 1]
    assert latency == pytest.approx(0.85e-6)


def test_a_pair_across_racks_goes_by_host_nic_leaf_and_spine():
    named, capacity, _, latency = ways_of(FORTY, 0, 2559)
    assert named == [
        "gpu0 -> host0",
        "host0 -> nic0",
        "nic0 -> r0.leaf0",
        "r0.leaf0 -> spine0-7",
        "spine0-7 -> r39.leaf3",
        "r39.leaf3 -> nic2559",
        "nic2559 -> host639",
        "host639 -> gpu2559",
    ]
    assert capacity.min() == pytest.approx(85e9)
    assert latency == pytest.approx(4e-6)


def test_a_pair_under_one_leaf_needs_no_spine_and_a_gpu_no_link_to_itself():
    assert len(ways_of(NVL8, 0, 8)[0]) == 6  # hosts of one rack, both NICs on leaf 0
    assert len(ways_of(NVL8, 0, 9)[0]) == 8
    assert ways_of(NVL8, 4, 4)[0] == []


def walk(topology, src, dst):
    """Find a shortest way over planes, or over the two GPUs' own NICs."""
    near = src // topology.domain_size == dst // topology.domain_size
    kinds = ("plane",) if near else ("host", "leaf", "spine")
    ends = {f"{what}{gpu}" for what in ("gpu", "nic") for gpu in (src, dst)}
    nodes = (n for n, data in topology.graph.nodes(data=True) if data["kind"] in kinds or n in ends)
    return nx.shortest_path(topology.graph.subgraph(nodes), f"gpu{src}", f"gpu{dst}")


@pytest.mark.parametrize("topology", [PAPER, NVL8, FORTY], ids=["paper", "nvl8", "forty"])
def test_routes_are_paths_of_the_graph(topology):
    """Capacity and latency of a way are those of the edges a walk along the graph meets."""
    rng = np.random.default_rng(0)
    src, dst = rng.integers(0, topology.num_gpus, (2, 30))
    arrays = flatten(topology)
    routes = arrays.routes(src, dst)
    for f in range(len(src)):
        if src[f] == dst[f]:
            continue
        path = walk(topology, int(src[f]), int(dst[f]))
        links = [topology.graph.edges[edge]["link"] for edge in nx.utils.pairwise(path)]
        assert routes.latency_s[f] == pytest.approx(sum(link.latency.si for link in links))
        found = arrays.capacity[routes.links[routes.ptr[f] : routes.ptr[f + 1]]]
        parallel = {"scale_up": topology.planes, "uplink": len(topology.nodes("spine"))}
        expected = [link.achieved.si * parallel.get(link.kind, 1) for link in links]
        assert found == pytest.approx(expected)


def test_nominal_rates_are_what_the_links_are_sold_as():
    arrays = flatten(PAPER, "nominal")
    assert arrays.capacity[arrays.to_planes[0, 0]] == pytest.approx(900e9)


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"dst: the fabric has the GPUs 0 to 63 \(got 64\)"):
        flatten(PAPER).routes(np.array([0]), np.array([64]))


# -- health ----------------------------------------------------------------------------------


def test_a_dead_plane_costs_its_domain_a_part_of_every_gpus_bandwidth():
    hurt = health(degrade(FORTY, "d1.plane3", 0.0))
    assert hurt.scale_up[64:128] == pytest.approx(np.full(64, 17 / 18))
    assert (np.delete(hurt.scale_up, np.s_[64:128]) == 1).all()
    assert (hurt.scale_out == 1).all()


@pytest.mark.parametrize(
    ("striping", "half", "dead"),
    [("equal", 0.5, 17 / 18), ("adaptive", 17.5 / 18, 17 / 18), ("fixed", 0.5, 0.0)],
)
def test_striping_decides_what_a_weak_plane_costs(striping, half, dead):
    topology = replace(PAPER, striping=striping)
    for factor, left in ((0.5, half), (0.0, dead)):
        hurt = degrade(topology, ("gpu5", "d0.plane2"), factor)
        assert health(hurt).scale_up[5] == pytest.approx(left)
        assert health(hurt).scale_up[4] == 1


def test_a_weak_plane_is_a_class_of_its_own_and_takes_its_share():
    named, capacity, shares, _ = ways_of(degrade(PAPER, "d0.plane3", 0.5), 0, 1)
    assert named[:2] == ["gpu0 -> d0.plane0-2,4-17", "d0.plane0-2,4-17 -> gpu1"]
    assert named[2:] == ["gpu0 -> d0.plane3", "d0.plane3 -> gpu1"]
    assert capacity == pytest.approx(np.repeat([640e9 * 17 / 18, 640e9 / 36], 2))
    assert shares == pytest.approx(np.repeat([17 / 18, 1 / 18], 2))
    named, _, shares, _ = ways_of(degrade(PAPER, "d0.plane3", 0.0), 0, 1)
    assert len(named) == 2
    assert shares.tolist() == [1, 1]


def test_the_way_out_suffers_from_nic_host_leaf_and_spine():
    assert health(degrade(FORTY, "nic7", 0.5)).scale_out[7] == pytest.approx(0.5)
    lost = health(degrade(FORTY, "host1", 0.0)).scale_out
    assert (lost[4:8] == 0).all()
    assert (lost[8:] == 1).all()
    # A spine of eight: what is left of the leaf's way up is shared by its NICs.
    assert health(degrade(FORTY, "spine0", 0.0)).scale_out == pytest.approx(np.full(2560, 7 / 8))
    assert health(degrade(FORTY, "gpu3", 0.0)).scale_up[3] == 0


def test_one_way_leaves_the_other_direction_alone():
    hurt = degrade(PAPER, ("gpu0", "d0.plane0"), 0.0, one_way=True)
    assert len(ways_of(hurt, 0, 1)[0]) == 2
    arrays = flatten(hurt)
    assert arrays.capacity[arrays.to_planes[0]].sum() == pytest.approx(640e9 * 17 / 18)
    assert arrays.capacity[arrays.from_planes[0]].sum() == pytest.approx(640e9)


def test_degrading_twice_multiplies_and_leaves_the_healthy_fabric_alone():
    hurt = degrade(degrade(PAPER, ["nic0", "nic1"], 0.5), ("nic0", "r0.leaf0"), 0.5)
    assert health(hurt).scale_out[:3] == pytest.approx([0.25, 0.5, 1.0])
    assert health(PAPER).scale_out[0] == 1


def test_states_of_one_fabric_number_links_alike():
    now, later = flatten_states([PAPER, degrade(PAPER, "d0.plane3", 0.0)])
    assert now.num_links == later.num_links
    assert now.capacity.sum() > later.capacity.sum()
    assert [now.name(link) for link in range(5)] == [later.name(link) for link in range(5)]


@pytest.mark.parametrize(
    ("what", "factor"),
    [("plane3", 0.5), (("gpu0", "gpu1"), 0.5), ("gpu0", 1.5), ("gpu0", float("nan"))],
)
def test_what_cannot_be_degraded_is_refused(what, factor):
    with pytest.raises(ProfileError):
        degrade(PAPER, what, factor)


# -- groups ----------------------------------------------------------------------------------


def test_ep64_in_a_rack_of_72_leaves_eight_spares():
    topology = spec("gb200-nvl72", groups=3)
    placement = place_groups(topology, 3, 64)
    assert placement[:, 0].tolist() == [0, 72, 144]
    assert spares(topology, placement).tolist() == [
        *range(64, 72), *range(136, 144), *range(208, 216)
    ]  # fmt: skip


@given(groups=st.integers(1, 6), ranks=st.integers(1, 40), size=st.sampled_from([8, 12, 32]))
def test_groups_share_no_gpu_and_lie_in_domains_as_their_layout_says(groups, ranks, size):
    domains = domains_needed(groups, ranks, size)
    topology = replace(PAPER, domains=domains, domain_size=size)
    placement = place_groups(topology, groups, ranks)
    assert placement.shape == (groups, ranks)
    assert placement.dtype == np.int64
    assert len(np.unique(placement)) == groups * ranks
    assert placement.max() < topology.num_gpus
    layout = EPLayout(ranks, ranks, 0, domain_size=min(size, ranks))
    for group in placement:
        found = group // size
        assert np.array_equal(found - found[0], layout.domain_of)
    if domains > 1:
        with pytest.raises(ProfileError, match=f"need {domains} domains"):
            place_groups(replace(topology, domains=domains - 1), groups, ranks)


def test_the_refusal_says_how_many_domains_would_do():
    with pytest.raises(ProfileError, match=r"topology.domains: 4 groups of 64 ranks need 4 domains "
                       r"of 64 GPUs; this fabric has 1 \(got 1\); give 4 or more"):  # fmt: skip
        place_groups(PAPER, 4, 64)


def test_a_hop_inside_a_domain_uses_planes_and_across_the_nics():
    near = place_groups(PAPER, 4, 16)
    assert group_link(PAPER, near[0], near[1]) == pytest.approx((0.85e-6, 640e9))
    far = place_groups(FORTY, 40, 64)
    assert group_link(FORTY, far[0], far[1]) == pytest.approx((4e-6, 85e9))


def test_an_oversubscribed_spine_divides_the_hop():
    topology = spec(domains=2, oversubscription=4.0)
    pair = place_groups(topology, 2, 64)
    assert group_link(topology, *pair).rate == pytest.approx(85e9 / 4)
    # Half of the ranks alone have twice the spine each.
    assert group_link(topology, pair[0][:32], pair[1][:32]).rate == pytest.approx(85e9 / 2)
    rest = (pair[0][32:], pair[1][32:])
    both = group_link(topology, pair[0][:32], pair[1][:32], others=rest)
    assert both.rate == pytest.approx(85e9 / 4)


def test_the_slowest_rank_and_the_farthest_set_the_hop():
    topology = spec("h100-nvl8", domains=8)
    hurt = degrade(topology, "nic3", 0.5)
    # Rank 0's peer is in its own domain, the others' are not; rank 3 has half a NIC.
    pair = np.array([0, 1, 2, 3]), np.array([7, 17, 18, 35])
    assert group_link(hurt, *pair) == pytest.approx((4e-6, 42.5e9 / 2))
    assert group_link(hurt, pair[0][:1], pair[1][:1]) == pytest.approx((0.85e-6, 380e9))


def test_a_hop_over_a_dead_nic_is_refused_by_name():
    topology = degrade(spec(domains=2), "nic5", 0.0)
    with pytest.raises(InputError, match="cut GPU 5 off from GPU 69"):
        group_link(topology, *place_groups(topology, 2, 64))


def test_importing_the_package_and_its_scenarios_imports_no_graph_library():
    code = "import sys, ultraep_sim, ultraep_sim.scenario.topology, ultraep_sim.fabric.topology; "
    code += "sys.exit('networkx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
