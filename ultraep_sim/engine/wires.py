"""Which ways the groups of a training job have to each other, on the fabric of its scenario."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..fabric.collectives import Wire, between, inside, inside_ring
from .geometry import Geometry

if TYPE_CHECKING:
    from ..fabric.groups import Gpus
    from ..fabric.topology import Topology
    from ..scenario import Scenario


@dataclass(frozen=True)
class Wires:
    """Ways between GPUs.

    Attributes
    ----------
    hop : Wire
        From a pipeline stage to the next.
    group : Wire
        Collectives inside an expert-parallel group.
    replicas : Wire
        Collectives between replicas of a group.
    """

    hop: Wire
    group: Wire
    replicas: Wire


def wires(scenario: Scenario, place: Geometry) -> Wires:
    """Find the ways of a training job.

    Groups fill scale-up domains one after the other, replica by replica; neighbours count as near
    only if all of them are. Without a topology section the fabric between domains is not
    oversubscribed; with one, the slowest pair's fair share counts, all groups sending at once.

    Parameters
    ----------
    scenario : Scenario
    place : Geometry

    Raises
    ------
    ProfileError
        The fabric is too small for the job.
    """
    rack = scenario.rack
    together = scenario.gpus_per_domain // place.ranks  # whole groups a domain holds
    near_hop = together >= 1 and together % place.stages == 0
    near_replicas = together >= place.stages * place.replicas
    far = far_hop = far_ring = between(rack)
    if scenario.topology is not None:
        far_hop, far_ring = _on_fabric(scenario, place, far)
    return Wires(
        inside(rack) if near_hop else far_hop,
        inside_ring(rack) if together >= 1 else far,
        inside_ring(rack) if near_replicas else far_ring,
    )


def _on_fabric(scenario: Scenario, place: Geometry, far: Wire) -> tuple[Wire, Wire]:
    """Return the ways between stages and between replicas, across domains."""
    from ..fabric.groups import place_groups
    from ..scenario.topology import topology_of

    topology = topology_of(scenario)
    gpus = place_groups(topology, place.replicas * place.stages, place.ranks)
    groups = gpus.reshape(place.replicas, place.stages, place.ranks)
    hop = _slowest(topology, groups[:, :-1], groups[:, 1:], far)
    ring = _slowest(topology, groups, np.roll(groups, -1, axis=0), far)
    return hop, ring


def _slowest(topology: Topology, src: Gpus, dst: Gpus, far: Wire) -> Wire:
    """Return the way of the slowest pair while all pairs send at once."""
    from ..fabric.hops import group_link

    if not src.size or np.array_equal(src, dst):
        return far
    link = group_link(topology, src.ravel(), dst.ravel())
    # The rack's floor is of a usual path: only a longer one adds to it.
    return Wire(min(far.rate, link.rate), max(far.floor_s, link.latency_s))
