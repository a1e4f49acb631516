"""The fabric as a graph: GPUs, switch planes, hosts, NICs, leaf and spine switches.

A GPU has a link to every switch plane of its scale-up domain, and one through its host and its
NIC to a leaf; every leaf has a link to every spine. Links are directed, one edge a direction.

Nodes are named ``gpu7``, ``host1``, ``nic7``, ``d0.plane3`` (of domain 0), ``r0.leaf1`` (of rack 0)
and ``spine2``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ultraep_sim.errors import ProfileError
from ultraep_sim.fabric.wiring import WIRINGS, Wiring, wiring_of
from ultraep_sim.model.hardware import get_rack
from ultraep_sim.model.profiles import RackProfile
from ultraep_sim.model.provenance import Quantity

if TYPE_CHECKING:
    import networkx as nx

    Graph: TypeAlias = nx.DiGraph[str]

Striping = Literal["equal", "adaptive", "fixed"]
Edge = tuple[str, str]

#: Kinds of links, from the GPU outwards.
KINDS = ("scale_up", "host", "pcie", "nic", "uplink")

# The rack each wiring preset is of where a person names no other.
_RACK_OF = {
    "nvl8-hosts": "h100-nvl8",
    "nvl72": "gb200-nvl72",
    "paper-rack": "paper-rack64",
    "paper-40-racks": "paper-rack64",
}


@dataclass(frozen=True)
class Link:
    """One direction of a link of the fabric; all links of a kind that are alike share one.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    bandwidth, achieved : Quantity
        Nominal bandwidth, and what an all-to-all reaches of it.
    latency : Quantity
        One way.
    """

    kind: str
    bandwidth: Quantity
    achieved: Quantity
    latency: Quantity


@dataclass(frozen=True, eq=False)
class Topology:
    """A fabric and its state of health.

    Parameters
    ----------
    rack : RackProfile
    wiring : Wiring
    domains, domain_size : int
        Scale-up domains, and GPUs of each. Physical GPU ``g`` is in domain ``g // domain_size``.
    striping : {"equal", "adaptive", "fixed"}
        How a transfer spreads over parallel planes and spines (`TopologySpec`).
    graph : networkx.DiGraph
        Nodes have ``kind`` and ``index`` (and ``domain``, ``host``, ``rack`` where they lie in
        one); edges have ``link``, a `Link`. Shared by all states of health.
    health : mapping of (str, str) to float
        What is left, 0 to 1, of the bandwidth of directed edges that are degraded.
    """

    rack: RackProfile = field(repr=False)
    wiring: Wiring = field(repr=False)
    domains: int
    domain_size: int
    striping: Striping
    graph: Graph = field(repr=False)
    health: Mapping[Edge, float] = field(default_factory=dict)
    # Arrays of this state of health, kept by what they are.
    kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def num_gpus(self) -> int:
        """GPUs of the whole fabric."""
        return self.domains * self.domain_size

    @property
    def planes(self) -> int:
        """Switch planes of a domain."""
        return round(self.wiring.planes.value)

    @property
    def racks(self) -> int:
        """Racks, the last one perhaps not full."""
        return -(-self.domains // round(self.wiring.domains_per_rack.value))

    def nodes(self, kind: str) -> list[str]:
        """Nodes of a kind (gpu, plane, host, nic, leaf, spine), by index."""
        return [node for node, data in self.graph.nodes(data=True) if data["kind"] == kind]


def preset_topology(name: str) -> Topology:
    """Build a preset on the rack it is usually of; one domain where it does not say how many.

    Raises
    ------
    ProfileError
        An unknown preset.
    """
    if name not in _RACK_OF:
        raise ProfileError("unknown wiring", value=name, remedy=f"one of {', '.join(WIRINGS)}")
    rack = get_rack(_RACK_OF[name])
    wiring = wiring_of(rack, name)
    return build_topology(rack, wiring, wiring.domains or 1)


def build_topology(
    rack: RackProfile,
    wiring: Wiring,
    domains: int,
    *,
    domain_size: int | None = None,
    striping: Striping = "equal",
) -> Topology:
    """Build the graph of a fabric.

    Parameters
    ----------
    rack : RackProfile
        Bandwidth of scale-up links and NICs, nominal and achieved.
    wiring : Wiring
        All else.
    domains : int
        Scale-up domains.
    domain_size : int, optional
        GPUs of a domain; the rack's by default.
    striping : {"equal", "adaptive", "fixed"}

    Raises
    ------
    ProfileError
        Counts that are no positive whole numbers, or more leaves than NICs in a rack.
    """
    import networkx as nx

    size = rack.domain_size if domain_size is None else domain_size
    counts = _counts(wiring)
    if domains < 1 or size < 1:
        raise ProfileError(
            "a fabric needs a domain with a GPU",
            place="topology.domains",
            value=(domains, size),
            remedy="give 1 or more of each",
        )
    per_rack = min(counts["domains_per_rack"], domains) * size
    if counts["leaves_per_rack"] > per_rack:
        raise ProfileError(
            f"more leaf switches than the {per_rack} NICs of a rack",
            place="topology.leaves_per_rack",
            value=counts["leaves_per_rack"],
            remedy=f"give 1 to {per_rack}",
        )
    graph: Graph = nx.DiGraph()
    links = _links(rack, wiring, counts["planes"])
    _add_domains(graph, domains, size, counts, links)
    _add_switches(graph, domains, size, counts, links, wiring.oversubscription)
    return Topology(rack, wiring, domains, size, striping, graph)


def _counts(wiring: Wiring) -> dict[str, int]:
    out = {}
    for name in ("gpus_per_host", "planes", "domains_per_rack", "leaves_per_rack", "spines"):
        value = getattr(wiring, name).value
        if value < 1 or value != round(value):
            raise ProfileError(
                "not a whole number from 1",
                place=f"topology.{name}",
                value=value,
                remedy="give an integer",
            )
        out[name] = round(value)
    if wiring.oversubscription.value < 1:
        raise ProfileError(
            "an oversubscription below 1",
            place="topology.oversubscription",
            value=wiring.oversubscription.value,
            remedy="give 1 (full bisection) or more",
        )
    return out


def _links(rack: RackProfile, wiring: Wiring, planes: int) -> dict[str, Link]:
    """Return the links of a GPU by kind; those of leaves depend on how many NICs they have."""
    up, out = rack.alltoall_forward_GBps, rack.scale_out_achieved_GBps
    if up.si > rack.scale_up_GBps.si:
        up = rack.scale_up_GBps
    if out.si > rack.scale_out_Gbps.si:
        out = rack.scale_out_Gbps
    hop = part(wiring.scale_out_latency_us, 6, "links of the way")
    half = part(wiring.scale_up_latency_us, 2, "links of the way")
    each = f"planes, one link each ({wiring.planes.source})"
    to_plane = part(rack.scale_up_GBps, planes, each), part(up, planes, each)
    to_spine = part(wiring.spine_latency_us, 2, "links of the way")
    return {
        "scale_up": Link("scale_up", *to_plane, half),
        "host": Link("host", wiring.host_GBps, wiring.host_GBps, hop),
        "pcie": Link("pcie", wiring.pcie_GBps, wiring.pcie_GBps, hop),
        "nic": Link("nic", rack.scale_out_Gbps, out, hop),
        "uplink": Link("uplink", rack.scale_out_Gbps, out, to_spine),
    }


def part(quantity: Quantity, count: float, what: str) -> Quantity:
    """Return one of `count` equal parts of a quantity, as well known as the whole."""
    if count == 1:
        return quantity
    low, high = quantity.low, quantity.high
    return replace(
        quantity,
        value=quantity.value / count,
        source=f"{quantity.source}; over {count:g} {what}",
        low=None if low is None else low / count,
        high=None if high is None else high / count,
    )


def _both(graph: Graph, pairs: Iterable[Edge], link: Link) -> None:
    for one, other in pairs:
        graph.add_edge(one, other, link=link)
        graph.add_edge(other, one, link=link)


def _add_domains(
    graph: Graph, domains: int, size: int, counts: dict[str, int], links: dict[str, Link]
) -> None:
    """Add GPUs with their planes, hosts and NICs."""
    per_host, planes = counts["gpus_per_host"], counts["planes"]
    hosts_of_domain = -(-size // per_host)
    for domain in range(domains):
        rack = domain // counts["domains_per_rack"]
        place: dict[str, Any] = {"domain": domain, "rack": rack}
        plane_names = [f"d{domain}.plane{index}" for index in range(planes)]
        for index, name in enumerate(plane_names):
            graph.add_node(name, kind="plane", index=index, **place)
        for local in range(size):
            gpu, host = domain * size + local, domain * hosts_of_domain + local // per_host
            graph.add_node(f"host{host}", kind="host", index=host, **place)
            graph.add_node(f"gpu{gpu}", kind="gpu", index=gpu, host=host, **place)
            graph.add_node(f"nic{gpu}", kind="nic", index=gpu, host=host, **place)
            _both(graph, ((f"gpu{gpu}", name) for name in plane_names), links["scale_up"])
            _both(graph, [(f"gpu{gpu}", f"host{host}")], links["host"])
            _both(graph, [(f"host{host}", f"nic{gpu}")], links["pcie"])


def _add_switches(
    graph: Graph,
    domains: int,
    size: int,
    counts: dict[str, int],
    links: dict[str, Link],
    oversubscription: Quantity,
) -> None:
    """Add leaves, and spines where there is more than one leaf."""
    under: dict[str, int] = {}
    gpus_of_rack = counts["domains_per_rack"] * size
    leaves = counts["leaves_per_rack"]
    for gpu in range(domains * size):
        rack, local = divmod(gpu, gpus_of_rack)
        name = f"r{rack}.leaf{local % leaves}"
        if name not in under:
            graph.add_node(name, kind="leaf", index=rack * leaves + local % leaves, rack=rack)
        under[name] = under.get(name, 0) + 1
        _both(graph, [(f"nic{gpu}", name)], links["nic"])
    if len(under) == 1:
        return
    spines = counts["spines"]
    for index in range(spines):
        graph.add_node(f"spine{index}", kind="spine", index=index)
    alike = {
        nics: _uplink(links["uplink"], nics, spines, oversubscription)
        for nics in set(under.values())
    }
    for name, nics in under.items():
        _both(graph, ((name, f"spine{index}") for index in range(spines)), alike[nics])


def _uplink(link: Link, nics: int, spines: int, oversubscription: Quantity) -> Link:
    """Scale a NIC to the link from its leaf to one spine: an assumption, as the ratio is."""
    factor = nics / (spines * oversubscription.value)
    source = f"{nics} NICs over {spines} spines, oversubscribed {oversubscription.value:g}:1"

    def scaled(q: Quantity) -> Quantity:
        low, high = q.low or q.value, q.high or q.value
        return Quantity(
            q.value * factor, q.unit, "assumed", f"{source}; {oversubscription.source}",
            low * factor, high * factor,
        )  # fmt: skip

    return Link("uplink", scaled(link.bandwidth), scaled(link.achieved), link.latency)
