from __future__ import annotations

import json

import pytest

from ultraep_sim.scenario import load_scenario
from ultraep_sim.scenario.topology import topology_of

from .command import assert_one_line_error

SMALL = """\
name: small
model: qwen3-30b
rack: h100-nvl8
ep: {ranks: 16, slots_per_rank: 2, data_parallel: 2}
workload:
  synthetic: {imbalance: 1.8, layers: 2, steps: 8}
  tokens_per_rank: 8192
policies: [none]
topology: {domains: 5, domains_per_rack: 2, oversubscription: 2.0}
"""


@pytest.fixture
def small(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return file


def test_json_tells_counts_links_and_groups(small, invoke):
    answer = invoke("topology", small, "--json")
    assert answer.code == 0, answer.err
    assert answer.err == ""
    data = json.loads(answer.out)
    assert (data["gpus"], data["domains"], data["racks"], data["hosts"]) == (40, 5, 3, 5)
    assert data["groups"] == {
        "count": 2,
        "ranks": 16,
        "first_gpus": [0, 16],
        "spares": list(range(32, 40)),
    }
    links = {(link["kind"], link["count"]): link for link in data["links"]}
    # 4 planes a host; racks of 16 NICs on 2 leaves, 8 spines, 2:1. The last rack is half full.
    assert links["scale_up", 160]["bandwidth_GBps"] == 112.5
    assert links["nic", 40]["achieved_GBps"] == 42.5
    assert links["uplink", 32]["bandwidth_GBps"] == pytest.approx(8 * 50 / 8 / 2)
    assert links["uplink", 16]["bandwidth_GBps"] == pytest.approx(4 * 50 / 8 / 2)
    assert links["nic", 40]["bandwidth"]["provenance"] == "datasheet"
    # Four GPUs of a host send to the other four; two of five domains to others, halved.
    assert data["bisection_GBps"] == {"domain": 4 * 450, "fabric": 16 * 50 / 2}


def test_the_table_names_every_kind_of_link_and_its_sources(small, invoke):
    out = invoke("topology", small).out
    assert "40 GPUs of h100-nvl8 in 3 racks; 2 groups of 16 ranks, 8 GPUs spare" in out
    for text in ("scale-up", "host", "PCIe", "scale-out", "uplink", "112.5", "0.317", "datasheet"):
        assert text in out
    assert "uplink bandwidth, uplink achieved: 8 NICs over 8 spines, oversubscribed 2:1" in out


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture_is_drawn_the_same_each_time(small, tmp_path, invoke, suffix):
    one, two = tmp_path / f"one{suffix}", tmp_path / "new" / f"two{suffix}"
    answer = invoke("topology", small, "--plot", one)
    assert answer.code == 0, answer.err
    assert f"wrote {one}" in answer.err
    assert invoke("topology", small, "--plot", two).code == 0
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size > 10_000


@pytest.mark.parametrize(
    "changes",
    [
        ["rack=paper-rack64", "topology={preset: paper-40-racks}"],
        ["topology={domains: 50, domains_per_rack: 1}"],
        ["ep.data_parallel=1", "ep.ranks=8", "topology=null"],
        ["ep.data_parallel=1", "ep.ranks=1", "topology={planes: 1, leaves_per_rack: 1}"],
    ],
    ids=["40 racks", "more racks than are drawn", "one host", "one leaf, no spine"],
)
def test_pictures_of_large_and_small_fabrics(changes, small, tmp_path, invoke):
    sets = [word for change in changes for word in ("--set", change)]
    answer = invoke("topology", small, "--plot", tmp_path / "x.png", *sets)
    assert answer.code == 0, answer.err


def test_without_a_topology_the_fabric_is_as_large_as_the_groups_need(small):
    assert topology_of(load_scenario(small, ["topology=null"])).num_gpus == 32
    rack = ["rack=gb200-nvl72", "topology=null", "ep.ranks=64"]
    assert topology_of(load_scenario(small, rack)).num_gpus == 144
    # A domain_size that is given holds, whatever the rack has.
    cut = topology_of(load_scenario(small, [*rack, "ep.domain_size=8"]))
    assert (cut.domain_size, cut.num_gpus, cut.racks) == (8, 128, 2)
    assert topology_of(load_scenario(small, [*rack, "ep.domain_size=64"])).domain_size == 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "topology.domains=3"], ["topology.domains", "need 4 domains", "give 4"]),
        (["--set", "topology.domains=0"], ["topology.domains", "got 0"]),
        (["--set", "topology.plains=3"], ["plains", "did you mean 'planes'"]),
        (["--set", "topology.planes=2.5"], ["topology.planes", "whole number"]),
        (["--set", "topology.oversubscription=0.5"], ["oversubscription", "0.5"]),
        (["--set", "topology.preset=paper-rack"], ["topology.preset", "64", "h100-nvl8"]),
        (["--set", "topology.leaves_per_rack=40"], ["topology.leaves_per_rack", "1 to 16"]),
        (["--plot", "fabric.pdf"], ["--plot", "fabric.pdf", ".svg"]),
        (["--plot", ""], ["--plot", "empty path"]),
    ],
)
def test_wrong_values_are_one_line(arguments, words, small, invoke):
    assert_one_line_error(invoke("topology", small, *arguments), *words)


def test_a_file_that_is_not_there_is_one_line(tmp_path, invoke):
    assert_one_line_error(invoke("topology", tmp_path / "no.yaml"), "no.yaml", "no such scenario")


def test_a_topology_survives_the_resolved_scenario(small, tmp_path):
    resolved = tmp_path / "again.yaml"
    resolved.write_text(load_scenario(small).to_yaml(tmp_path))
    again = load_scenario(resolved)
    assert again.topology == load_scenario(small).topology
