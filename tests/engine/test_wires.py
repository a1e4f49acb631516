"""Which groups are near each other, and what an oversubscribed fabric costs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.test_training import BASE
from ultraep_sim.engine.geometry import geometry
from ultraep_sim.engine.wires import Wires, wires
from ultraep_sim.errors import ProfileError
from ultraep_sim.fabric.collectives import between, inside, inside_ring
from ultraep_sim.scenario import scenario_from_dict


def ways(*sets: str, **changes: Any) -> Wires:
    scenario = scenario_from_dict({**BASE, **changes}, sets)
    return wires(scenario, geometry(scenario))


def rack(*sets: str) -> Any:
    return scenario_from_dict(BASE, sets).rack


def test_groups_of_eight_share_a_domain_of_64() -> None:
    """Four groups of eight: all in one rack."""
    found = ways()
    assert found == Wires(inside(rack()), inside_ring(rack()), inside_ring(rack()))


def test_groups_of_64_have_a_rack_each() -> None:
    found = ways("ep.ranks=64", "model.num_experts=64")
    assert found == Wires(between(rack()), inside_ring(rack()), between(rack()))


def test_a_group_over_several_domains_is_far_from_itself() -> None:
    found = ways("ep.domain_size=4")
    assert found.group == found.hop == found.replicas == between(rack())


def test_a_healthy_fabric_changes_rates_little() -> None:
    far = ways("ep.ranks=64", "model.num_experts=64", "topology={}")
    plain = between(rack())
    assert far.hop.rate == pytest.approx(plain.rate, rel=1e-6)
    assert far.hop.floor_s == plain.floor_s  # which holds for a usual path


def test_oversubscription_divides_the_rate_between_racks() -> None:
    sets = ("ep.ranks=64", "model.num_experts=64")
    found = ways(*sets, "topology={oversubscription: 4.0}")
    assert found.replicas.rate < 0.5 * ways(*sets, "topology={}").replicas.rate


def test_a_fabric_that_is_too_small_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"topology.domains"):
        ways("ep.ranks=64", "model.num_experts=64", "topology={domains: 2}")
