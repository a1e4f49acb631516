"""A fabric in plain values: what a table, a picture or a JSON file tells of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ultraep_sim.fabric.topology import KINDS, Link, Topology

#: Between what a kind of link is.
ENDS = {
    "scale_up": ("GPU", "switch plane"),
    "host": ("GPU", "host"),
    "pcie": ("host", "NIC"),
    "nic": ("NIC", "leaf"),
    "uplink": ("leaf", "spine"),
}


def summarise(topology: Topology) -> dict[str, Any]:
    """Return counts, links by kind and bisection; bandwidths are of one direction.

    Returns
    -------
    dict
        JSON-safe. ``links`` has one entry for all links that are alike; ``bisection_GBps`` is
        nominal, between two halves of one domain (``domain``) and of the domains (``fabric``; None
        where there is one).
    """
    wiring = topology.wiring
    kinds = Counter(data["kind"] for _, data in topology.graph.nodes(data=True))
    return {
        "rack": topology.rack.name,
        "wiring": wiring.name,
        "gpus": kinds["gpu"],
        "domains": topology.domains,
        "domain_size": topology.domain_size,
        "racks": topology.racks,
        "domains_per_rack": min(round(wiring.domains_per_rack.value), topology.domains),
        "planes_per_domain": topology.planes,
        "hosts": kinds["host"],
        "gpus_per_host": min(round(wiring.gpus_per_host.value), topology.domain_size),
        "nics": kinds["nic"],
        "leaves": kinds["leaf"],
        "leaves_per_rack": round(wiring.leaves_per_rack.value),
        "spines": kinds["spine"],
        "oversubscription": wiring.oversubscription.value,
        "striping": topology.striping,
        "links": _links(topology),
        "bisection_GBps": _bisection(topology),
    }


def _links(topology: Topology) -> list[dict[str, Any]]:
    edges: Any = topology.graph.edges(data="link")  # the stubs know no attribute's type
    counts: Counter[Link] = Counter(link for *_, link in edges)
    ordered = sorted(counts, key=lambda link: (KINDS.index(link.kind), -link.bandwidth.si))
    return [
        {
            "kind": link.kind,
            "ends": list(ENDS[link.kind]),
            "count": counts[link] // 2,
            "bandwidth_GBps": link.bandwidth.si / 1e9,
            "achieved_GBps": link.achieved.si / 1e9,
            "latency_us": link.latency.si * 1e6,
            "bandwidth": link.bandwidth.to_dict(),
            "achieved": link.achieved.to_dict(),
            "latency": link.latency.to_dict(),
        }
        for link in ordered
    ]


def _bisection(topology: Topology) -> dict[str, float | None]:
    """Count what leaves one half: GPUs through planes; NICs, or as much as their leaves let up."""
    rack = topology.rack
    inside = topology.domain_size // 2 * rack.scale_up_GBps.si / 1e9
    if topology.domains == 1:
        return {"domain": inside, "fabric": None}
    half = topology.domains // 2 * topology.domain_size
    each = rack.scale_out_Gbps.si / topology.wiring.oversubscription.value / 1e9
    return {"domain": inside, "fabric": half * each}
