"""The fabric as arrays: capacities of links, and the links of any pair of GPUs.

Parallel planes (and spines) that are alike for every GPU form one class, and a GPU's links to a
class count as one link with their summed capacity: a transfer that spreads evenly over equal links
is fair on the sum exactly when it is on each. A healthy domain is one class, so a pair of GPUs in
it uses two links, not two a plane; a degraded plane is a class of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.health import Capacities, Rates, capacities
from ultraep_sim.fabric.topology import KINDS, Striping, Topology

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_CHAIN = ("host", "pcie", "nic")


@dataclass(frozen=True, eq=False)
class Routes:
    """Links of flows, in CSR form.

    Attributes
    ----------
    ptr : int64 [F + 1]
        Flow ``f`` has the entries ``ptr[f]:ptr[f + 1]``.
    links : int64 [entries]
    shares : float64 [entries]
        Part of the flow's bytes that crosses the link; below 1 where it stripes.
    latency_s : float64 [F]
    """

    ptr: Ints
    links: Ints
    shares: Floats
    latency_s: Floats


@dataclass(frozen=True, eq=False)
class FabricArrays:
    """Links of a fabric in one state of health.

    Attributes
    ----------
    capacity : float64 [L]
        Bytes/s.
    latency_s : float64 [L]
    kind : int8 [L]
        Index into `topology.KINDS`.
    domain_of, host_of, leaf_of : int64 [G]
    to_planes, from_planes : int64 [G, classes]
        Links of a GPU to and from each class of planes; -1 where its domain has fewer classes.
    outward, inward : int64 [G, 3]
        Links between GPU, host, NIC and leaf.
    to_spines, from_spines : int64 [leaves, classes]
    plane_class : int64 [domains, planes]
    spine_class : int64 [spines]
    leaves_per_rack : int
    striping : {"equal", "adaptive", "fixed"}
    """

    capacity: Floats
    latency_s: Floats
    kind: NDArray[np.int8]
    domain_of: Ints
    host_of: Ints
    leaf_of: Ints
    to_planes: Ints
    from_planes: Ints
    outward: Ints
    inward: Ints
    to_spines: Ints
    from_spines: Ints
    plane_class: Ints
    spine_class: Ints
    leaves_per_rack: int
    striping: Striping

    @property
    def num_links(self) -> int:
        """Links, with those of a class as one."""
        return len(self.capacity)

    @property
    def num_gpus(self) -> int:
        """Physical GPUs."""
        return len(self.domain_of)

    def routes(self, src: Ints, dst: Ints) -> Routes:
        """Return the links of each pair of GPUs.

        A pair in one domain uses its planes, others their NICs; a GPU and itself use no link.

        Parameters
        ----------
        src, dst : int64 [F]
            Physical GPUs.

        Raises
        ------
        InputError
            A GPU that the fabric does not have.
        """
        src, dst = np.asarray(src, np.int64), np.asarray(dst, np.int64)
        for place, gpus in (("src", src), ("dst", dst)):
            bad = (gpus < 0) | (gpus >= self.num_gpus)
            if bad.any():
                raise InputError(
                    f"the fabric has the GPUs 0 to {self.num_gpus - 1}",
                    place=place,
                    value=int(gpus[bad][0]),
                    remedy="name GPUs by their physical number",
                )
        near = (self.domain_of[src] == self.domain_of[dst]) & (src != dst)
        far = self.domain_of[src] != self.domain_of[dst]
        spine = far & (self.leaf_of[src] != self.leaf_of[dst])
        leaf_a, leaf_b = self.leaf_of[src], self.leaf_of[dst]
        planes, spines = self._plane_counts(src), self._spine_counts
        whole = np.ones(len(src))
        # One padded column for each link a flow may use; -1 where it does not.
        columns = [
            *self._striped(self.to_planes[src], self.from_planes[dst], near, planes),
            *((np.where(far, self.outward[src, i], -1), whole) for i in range(3)),
            *self._striped(self.to_spines[leaf_a], self.from_spines[leaf_b], spine, spines),
            *((np.where(far, self.inward[dst, i], -1), whole) for i in (2, 1, 0)),
        ]
        links = np.stack([link for link, _ in columns], axis=1)
        shares = np.stack([share for _, share in columns], axis=1)
        used = (links >= 0) & (shares > 0)
        ptr = np.zeros(len(src) + 1, np.int64)
        np.cumsum(used.sum(axis=1), out=ptr[1:])
        return Routes(ptr, links[used], shares[used], self._latency(near, far, spine))

    def _striped(
        self, out: Ints, into: Ints, used: NDArray[np.bool_], members: Ints
    ) -> list[tuple[Ints, Floats]]:
        """Return two columns a class: links out and in, each with the share of the class."""
        both = (out >= 0) & (into >= 0)
        capacity = np.minimum(self.capacity[out], self.capacity[into]) * both
        if self.striping == "adaptive":
            weight = capacity
        else:
            weight = (members * both).astype(np.float64)
            if self.striping == "equal":
                weight = weight * (capacity > 0)
        # With every way dead there is nothing to choose: the flow waits on all of them.
        dead = weight.sum(axis=1, keepdims=True) == 0
        weight = np.where(dead, members * both, weight)
        share = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
        columns = []
        for index in range(out.shape[1]):
            on = used & both[:, index]
            columns.append((np.where(on, out[:, index], -1), share[:, index]))
            columns.append((np.where(on, into[:, index], -1), share[:, index]))
        return columns

    @cached_property
    def _class_sizes(self) -> Ints:
        classes = self.to_planes.shape[1]
        return np.stack([(self.plane_class == c).sum(axis=1) for c in range(classes)], axis=1)

    def _plane_counts(self, gpus: Ints) -> Ints:
        return np.asarray(self._class_sizes[self.domain_of[gpus]])

    @cached_property
    def _spine_counts(self) -> Ints:
        return np.bincount(self.spine_class, minlength=self.to_spines.shape[1]).astype(np.int64)

    def _latency(
        self, near: NDArray[np.bool_], far: NDArray[np.bool_], spine: NDArray[np.bool_]
    ) -> Floats:
        """Sum the links of the way; all of a kind have the same latency."""
        first = self.to_spines[:1, 0] if self.to_spines.shape[1] else np.zeros(0, np.int64)
        up, out = self.latency_s[self.to_planes[0, 0]], self.latency_s[self.outward[0]].sum()
        over = self.latency_s[first].sum()
        return np.asarray(2.0 * (near * up + far * out + spine * over))

    def name(self, link: int) -> str:
        """Say which link that is, for example ``gpu3 -> d0.plane0-17``."""
        for table, ends in self._tables():
            where = np.argwhere(table == link)
            if len(where):
                return " -> ".join(ends(int(where[0, 0]), int(where[0, 1])))
        raise InputError(
            f"the fabric has the links 0 to {self.num_links - 1}", value=link, remedy="name one"
        )

    def _tables(self) -> tuple[tuple[Ints, Callable[[int, int], tuple[str, str]]], ...]:
        """Pair each table of links with what names the two ends of one."""

        def planes(gpu: int, c: int) -> str:
            domain = int(self.domain_of[gpu])
            return f"d{domain}.plane{_runs(np.flatnonzero(self.plane_class[domain] == c))}"

        def leaf(index: int) -> str:
            rack, local = divmod(index, self.leaves_per_rack)
            return f"r{rack}.leaf{local}"

        def spines(c: int) -> str:
            return f"spine{_runs(np.flatnonzero(self.spine_class == c))}"

        def way(gpu: int) -> tuple[str, ...]:
            return f"gpu{gpu}", f"host{self.host_of[gpu]}", f"nic{gpu}", leaf(self.leaf_of[gpu])

        return (
            (self.to_planes, lambda gpu, c: (f"gpu{gpu}", planes(gpu, c))),
            (self.from_planes, lambda gpu, c: (planes(gpu, c), f"gpu{gpu}")),
            (self.outward, lambda gpu, i: (way(gpu)[i], way(gpu)[i + 1])),
            (self.inward, lambda gpu, i: (way(gpu)[i + 1], way(gpu)[i])),
            (self.to_spines, lambda index, c: (leaf(index), spines(c))),
            (self.from_spines, lambda index, c: (spines(c), leaf(index))),
        )


def _runs(members: Ints) -> str:
    """Return ``0-2,4`` for the members 0, 1, 2 and 4."""
    splits = np.flatnonzero(np.diff(members) > 1) + 1
    parts = np.split(members, splits)
    return ",".join(f"{p[0]}" if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def flatten(topology: Topology, rates: Rates = "achieved") -> FabricArrays:
    """Flatten a fabric in its state of health, once; see `flatten_states`."""
    key = f"arrays {rates}"
    if key not in topology.kept:
        topology.kept[key] = flatten_states([topology], rates)[0]
    arrays: FabricArrays = topology.kept[key]
    return arrays


def flatten_states(states: Sequence[Topology], rates: Rates = "achieved") -> list[FabricArrays]:
    """Flatten several states of health of one fabric to arrays that number links alike.

    Parameters
    ----------
    states : sequence of Topology
        Of one fabric, as `degrade` returns them.
    rates : {"achieved", "nominal"}

    Returns
    -------
    list of FabricArrays
        They differ in ``capacity`` alone.

    Raises
    ------
    InputError
        States of different fabrics.
    """
    first = states[0]
    if any(state.graph is not first.graph for state in states):
        raise InputError("states of different fabrics", remedy="derive them with degrade()")
    caps = [capacities(state, rates) for state in states]
    size = first.domain_size
    domain_of = np.arange(first.num_gpus, dtype=np.int64) // size
    plane_class = _plane_classes(caps, first.domains, size)
    spine_class = _classes(np.concatenate([np.vstack([c.to_spine, c.from_spine]) for c in caps]))
    number = _Numbering()
    classes = plane_class.max(axis=1) + 1
    has = [classes[domain_of] > c for c in range(int(classes.max()))]
    gpus, leaves = first.num_gpus, len(caps[0].to_spine)
    spines = int(spine_class.max()) + 1 if len(spine_class) else 0
    to_planes = np.stack([number.take("scale_up", on) for on in has], axis=1)
    from_planes = np.stack([number.take("scale_up", on) for on in has], axis=1)
    outward = np.stack([number.take(kind, np.ones(gpus, bool)) for kind in _CHAIN], axis=1)
    inward = np.stack([number.take(kind, np.ones(gpus, bool)) for kind in _CHAIN], axis=1)
    every = np.ones((leaves, spines), bool)
    to_spines, from_spines = number.take("uplink", every), number.take("uplink", every)
    kind = np.concatenate(number.kinds)
    base = FabricArrays(
        capacity=np.zeros(number.count),
        latency_s=np.array([caps[0].latency.get(name, 0.0) for name in KINDS])[kind],
        kind=kind,
        domain_of=domain_of,
        host_of=_hosts(first),
        leaf_of=caps[0].leaf_of,
        to_planes=to_planes,
        from_planes=from_planes,
        outward=outward,
        inward=inward,
        to_spines=to_spines,
        from_spines=from_spines,
        plane_class=plane_class,
        spine_class=spine_class,
        leaves_per_rack=round(first.wiring.leaves_per_rack.value),
        striping=first.striping,
    )
    return [replace(base, capacity=_fill(base, c)) for c in caps]


def _hosts(topology: Topology) -> Ints:
    nodes = topology.graph.nodes
    return np.array([nodes[gpu]["host"] for gpu in topology.nodes("gpu")], np.int64)


class _Numbering:
    """Gives out link numbers, a block at a time."""

    def __init__(self) -> None:
        self.count = 0
        self.kinds: list[NDArray[np.int8]] = []

    def take(self, kind: str, on: NDArray[np.bool_]) -> Ints:
        """Give every place that is on a number; -1 elsewhere."""
        ids = np.full(on.shape, -1, np.int64)
        new = int(on.sum())
        ids[on] = np.arange(self.count, self.count + new)
        self.count += new
        self.kinds.append(np.full(new, KINDS.index(kind), np.int8))
        return ids


def _plane_classes(caps: Sequence[Capacities], domains: int, size: int) -> Ints:
    """Return the class of each plane of each domain, int64 [domains, planes]."""
    planes = caps[0].to_plane.shape[1]
    stacked = np.concatenate(
        [a.reshape(domains, size, planes) for c in caps for a in (c.to_plane, c.from_plane)],
        axis=1,
    )
    out = np.zeros((domains, planes), np.int64)
    mixed = (stacked != stacked[:, :, :1]).any(axis=(1, 2))
    for domain in np.flatnonzero(mixed):
        out[domain] = _classes(stacked[domain])
    return out


def _classes(columns: Floats) -> Ints:
    """Give equal columns one number, in the order in which they first come."""
    if columns.shape[1] == 0:
        return np.zeros(0, np.int64)
    _, first, inverse = np.unique(columns, axis=1, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return order[inverse.ravel()].astype(np.int64)


def _fill(arrays: FabricArrays, caps: Capacities) -> Floats:
    """Sum the capacities of the physical links behind every link."""
    capacity = np.zeros(arrays.num_links)
    plane_class = arrays.plane_class[arrays.domain_of]
    for c in range(arrays.to_planes.shape[1]):
        member = plane_class == c
        for links, physical in (
            (arrays.to_planes[:, c], caps.to_plane),
            (arrays.from_planes[:, c], caps.from_plane),
        ):
            on = links >= 0
            capacity[links[on]] = (physical * member).sum(axis=1)[on]
    capacity[arrays.outward], capacity[arrays.inward] = caps.outward, caps.inward
    for c in range(arrays.to_spines.shape[1]):
        member = arrays.spine_class == c
        capacity[arrays.to_spines[:, c]] = (caps.to_spine * member).sum(axis=1)
        capacity[arrays.from_spines[:, c]] = (caps.from_spine * member).sum(axis=1)
    return capacity
