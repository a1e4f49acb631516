"""Named effects of flows that share links: what a closed form does not know."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.fabric.fairshare import FairShare
from ultraep_sim.fabric.fluid import Segment
from ultraep_sim.fabric.topology import KINDS
from ultraep_sim.fabric.topology_arrays import FabricArrays

_FULL = 1 - 1e-9
_ROOM = 1 - 1e-6

#: What each name means.
EFFECTS = {
    "incast": "a link into a GPU is full while every sender on it could send more",
    "stall": "flows wait on a dead link",
    "restripe": "flows under way move to the planes or spines that live",
    "spine-bound": "links from a leaf to the spines are full, or back",
    "fair-sharing": "more bandwidth, and yet a flow ends later: it shares a link with flows that "
    "now come sooner or take more",
}


@dataclass(frozen=True)
class Effect:
    """One named effect.

    Attributes
    ----------
    name : str
        A key of `EFFECTS`.
    start_s, seconds : float
        When it first was, and how long in all.
    where : str
        The link, or the flow.
    flows : int
        The most flows it held at once.
    """

    name: str
    start_s: float
    seconds: float
    where: str
    flows: int


class EffectLog:
    """Watches segments and joins what it sees on one link.

    Parameters
    ----------
    arrays : FabricArrays
        What kind each link is, and how it is called.
    """

    def __init__(self, arrays: FabricArrays) -> None:
        self._arrays = arrays
        # Links that lead to one GPU alone.
        self._into = np.zeros(arrays.num_links, bool)
        self._into[arrays.from_planes[arrays.from_planes >= 0]] = True
        self._into[arrays.inward] = True
        self._uplink = arrays.kind == KINDS.index("uplink")
        self._found: dict[tuple[str, int], Effect] = {}

    def see(self, segment: Segment, solver: FairShare, capacity: NDArray[np.float64]) -> None:
        """Look at one segment."""
        full = (capacity > 0) & (segment.link_rate >= _FULL * capacity)
        flows = solver.by_link(segment.active[solver.owner])
        self._add("spine-bound", full & self._uplink, segment, flows)
        into = full & self._into & (flows >= 2)
        if into.any():
            used = segment.link_rate / np.where(capacity > 0, capacity, 1.0)
            self._add("incast", into & ~self._held_back(segment, solver, used), segment, flows)
        waiting = segment.active & (segment.rates == 0)
        if waiting.any():
            held = solver.by_link(waiting[solver.owner])
            self._add("stall", (held > 0) & (capacity == 0), segment, held)

    def _held_back(
        self, segment: Segment, solver: FairShare, used: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Tell the links with a flow that also crosses a full link before its receiver's."""
        full = (used[solver.flow_links] >= _ROOM) & ~self._into[solver.flow_links]
        bound = np.bincount(solver.owner, weights=full, minlength=len(segment.active)) > 0
        return solver.by_link((bound & segment.active)[solver.owner]) > 0

    def restriped(self, at_s: float, flows: int, where: str) -> None:
        """Note flows under way whose links changed."""
        self._found["restripe", len(self._found)] = Effect("restripe", at_s, 0.0, where, flows)

    def _add(
        self, name: str, on: NDArray[np.bool_], segment: Segment, flows: NDArray[np.float64]
    ) -> None:
        seconds = segment.end_s - segment.start_s
        for link in np.flatnonzero(on).tolist():
            old = self._found.get((name, link))
            if old is None:
                where = self._arrays.name(link)
                old = Effect(name, segment.start_s, 0.0, where, 0)
            self._found[name, link] = replace(
                old, seconds=old.seconds + seconds, flows=max(old.flows, int(flows[link]))
            )

    def effects(self) -> tuple[Effect, ...]:
        """Return what was seen, in order of time."""
        return tuple(sorted(self._found.values(), key=lambda e: (e.start_s, e.name, e.where)))
