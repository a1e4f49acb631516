"""Degraded links and switches, and what they leave each GPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import ProfileError
from ultraep_sim.fabric.topology import Edge, Link, Striping, Topology

Rates = Literal["achieved", "nominal"]
Seconds = NDArray[np.float64]
BytesPerSecond = NDArray[np.float64]

#: What can be degraded: a node with all its links, or both directions of one link.
Part = str | Edge


@dataclass(frozen=True, eq=False)
class Capacities:
    """Bandwidth of every link of a fabric, bytes/s, by where it stands.

    Attributes
    ----------
    to_plane, from_plane : float64 [G, planes]
        Links of each GPU to and from the planes of its domain.
    outward, inward : float64 [G, 3]
        GPU to host, host to NIC, NIC to leaf; and the same links the other way.
    to_spine, from_spine : float64 [leaves, spines]
        No columns where there is one leaf.
    leaf_of : int64 [G]
        Leaf that a GPU's NIC is on.
    latency : dict of str to float
        Seconds of one link by kind.
    """

    to_plane: BytesPerSecond
    from_plane: BytesPerSecond
    outward: BytesPerSecond
    inward: BytesPerSecond
    to_spine: BytesPerSecond
    from_spine: BytesPerSecond
    leaf_of: NDArray[np.int64]
    latency: dict[str, float]

    @property
    def arrays(self) -> tuple[BytesPerSecond, ...]:
        """The bandwidths, in the order of `_ARRAYS`."""
        return tuple(getattr(self, name) for name in _ARRAYS)


_ARRAYS = ("to_plane", "from_plane", "outward", "inward", "to_spine", "from_spine")


def degrade(
    topology: Topology, what: Part | Iterable[Part], factor: float, *, one_way: bool = False
) -> Topology:
    """Return the fabric with parts of it at ``factor`` of the bandwidth they have now.

    Parameters
    ----------
    topology : Topology
        Stays as it is.
    what : str, (str, str), or iterable of them
        A node, with every link it has (``d0.plane3``, ``gpu5``, ``nic7``, ``host2``,
        ``r0.leaf1``, ``spine0``), or the link between two nodes.
    factor : float
        0 for dead, up to 1.
    one_way : bool
        For a link: only the direction from the first node to the second.

    Raises
    ------
    ProfileError
        No such node or link, or a factor outside 0 to 1.
    """
    if not 0.0 <= factor <= 1.0:
        raise ProfileError(
            "a part keeps 0 to 1 of its bandwidth", place="factor", value=factor, remedy="mend it"
        )
    parts = [what] if isinstance(what, str) or _is_edge(what) else list(what)
    health = dict(topology.health)
    edges = {edge for part in parts for edge in _edges(topology, part, one_way)}  # type: ignore[arg-type]  # _is_edge has split off the single link
    for edge in sorted(edges):
        health[edge] = health.get(edge, 1.0) * factor
    return replace(topology, health=health)


def _is_edge(what: object) -> bool:
    """Tell a link from an iterable of parts: two names that no comma of a list would give."""
    return isinstance(what, tuple) and len(what) == 2 and all(isinstance(w, str) for w in what)


def _edges(topology: Topology, part: Part, one_way: bool) -> list[Edge]:
    graph = topology.graph
    if isinstance(part, str):
        if part not in graph:
            raise ProfileError(
                "no such part of this fabric",
                value=part,
                remedy="name a node, for example gpu0, nic0, host0, d0.plane0, r0.leaf0 or spine0",
            )
        return [*graph.in_edges(part), *graph.out_edges(part)]
    if not graph.has_edge(*part):
        raise ProfileError(
            "no link between these two",
            value=part,
            remedy="name two neighbours, for example ('gpu0', 'd0.plane0')",
        )
    return [part] if one_way else [part, (part[1], part[0])]


def capacities(topology: Topology, rates: Rates = "achieved") -> Capacities:
    """Read the bandwidth of every link off the graph, in its state of health.

    Parameters
    ----------
    topology : Topology
    rates : {"achieved", "nominal"}
        What transfers reach, or what the links are sold as.
    """
    # The graph never changes, so what is read off it is kept with it.
    kept = topology.graph.graph
    key = f"capacities {rates}"
    if key not in kept:
        kept[key] = _read(topology, rates)
    healthy: Capacities = kept[key]
    if not topology.health:
        return healthy
    arrays = [array.copy() for array in healthy.arrays]
    for edge, factor in topology.health.items():
        which, at = _slot(topology, edge)
        arrays[which][at] *= factor
    return replace(healthy, **dict(zip(_ARRAYS, arrays, strict=True)))  # type: ignore[arg-type]  # the named fields are arrays


def _slot(topology: Topology, edge: Edge) -> tuple[int, tuple[int, int]]:
    """Find the array (of `_ARRAYS`) and the place in it that hold an edge."""
    nodes = topology.graph.nodes
    one, other = nodes[edge[0]], nodes[edge[1]]
    kind = topology.graph.edges[edge]["link"].kind
    outward = _RANK[one["kind"]] < _RANK[other["kind"]]
    near, far = (one, other) if outward else (other, one)
    if kind == "scale_up":
        return (0 if outward else 1), (near["index"], far["index"])
    if kind == "uplink":
        return (4 if outward else 5), (near["index"], far["index"])
    gpu = far["index"] if kind == "pcie" else near["index"]
    return (2 if outward else 3), (gpu, ("host", "pcie", "nic").index(kind))


_RANK = {"gpu": 0, "plane": 1, "host": 1, "nic": 2, "leaf": 3, "spine": 4}


def _read(topology: Topology, rates: Rates) -> Capacities:
    gpus = topology.num_gpus
    leaves = max(topology.graph.nodes[leaf]["index"] for leaf in topology.nodes("leaf")) + 1
    spines = len(topology.nodes("spine"))
    shapes = [(gpus, topology.planes), (gpus, 3), (leaves, spines)]
    arrays: list[BytesPerSecond] = [np.zeros(shape) for shape in shapes for _ in range(2)]
    leaf_of = np.zeros(gpus, np.int64)
    latency: dict[str, float] = {}
    rate: dict[Link, float] = {}
    edges: Any = topology.graph.edges(data="link")  # the stubs know no attribute's type
    for one, other, link in edges:
        if link not in rate:
            rate[link] = (link.achieved if rates == "achieved" else link.bandwidth).si
            latency[link.kind] = link.latency.si
        which, at = _slot(topology, (one, other))
        arrays[which][at] = rate[link]
        if which == 2 and link.kind == "nic":
            leaf_of[at[0]] = topology.graph.nodes[other]["index"]
    for array in (*arrays, leaf_of):
        array.setflags(write=False)
    named = dict(zip(_ARRAYS, arrays, strict=True))
    return Capacities(**named, leaf_of=leaf_of, latency=latency)


@dataclass(frozen=True, eq=False)
class Health:
    """What is left of each GPU's bandwidth.

    Attributes
    ----------
    scale_up, scale_out : float64 [G]
        Multipliers from 0 (cut off) to 1 (healthy) on the bandwidth over switch planes and over
        the NIC: the worse of the two directions.
    """

    scale_up: NDArray[np.float64]
    scale_out: NDArray[np.float64]


def health(topology: Topology) -> Health:
    """Return what the degraded parts leave every GPU.

    A GPU counts its own links, a plane or a leaf's spines through them. What a peer has lost on
    top (another plane than this GPU) is for a flow simulation to find.
    """
    now, new = capacities(topology), capacities(replace(topology, health={}))
    up = [
        together(a, topology.striping) / together(b, topology.striping)
        for a, b in ((now.to_plane, new.to_plane), (now.from_plane, new.from_plane))
    ]
    out = [
        _way_out(now, topology.striping, to) / _way_out(new, topology.striping, to)
        for to in (True, False)
    ]
    return Health(np.minimum(*up), np.minimum(*out))


def together(parallel: BytesPerSecond, striping: Striping) -> BytesPerSecond:
    """Return what parallel links carry together for one transfer that stripes over them.

    Parameters
    ----------
    parallel : float64 [..., links]
    striping : {"equal", "adaptive", "fixed"}

    Returns
    -------
    float64 [...]
    """
    if striping == "adaptive":
        return np.asarray(parallel.sum(axis=-1))
    if striping == "fixed":
        return np.asarray(parallel.min(axis=-1) * parallel.shape[-1])
    alive = parallel > 0
    slowest = parallel.min(axis=-1, initial=np.inf, where=alive)
    carried: BytesPerSecond = np.where(np.isfinite(slowest), slowest, 0.0) * alive.sum(axis=-1)
    return carried


def _way_out(at: Capacities, striping: Striping, outward: bool) -> BytesPerSecond:
    """Bandwidth of each GPU to the spines, an equal part of its leaf's uplinks counted in."""
    chain: BytesPerSecond = (at.outward if outward else at.inward).min(axis=1)
    uplinks = at.to_spine if outward else at.from_spine
    if uplinks.shape[1] == 0:
        return chain
    nics = np.bincount(at.leaf_of, minlength=len(uplinks))
    part = (together(uplinks, striping) / np.maximum(nics, 1))[at.leaf_of]
    return np.minimum(chain, part)
