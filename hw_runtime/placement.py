"""What was decided for one layer and micro-batch, on the host or on a device.

A placement made on a device holds tensors there. What the host wants to know of it is copied and
computed when it asks first, which waits for the device.
"""

from __future__ import annotations

from functools import cached_property

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.tiles import TileList, plan_tiles
from ultraep_sim.planning import Plan
from ultraep_sim.planning.assemble import plan_from_replicas

from .fabrics import Geometry
from .path import Planned
from .reduction import GradientList, gradient_list
from .reroute import Instances, instances


class Placement:
    """See the module.

    Parameters
    ----------
    geometry : Geometry
    relay : bool
        Whether hot fan-outs go through relays.
    which : int
        Set of slots.
    plan : Plan, optional
        What the host planned; else give ``made``.
    made : Planned, optional
        What was planned on the device.
    releases_seen : int
        How often the set had been released when the counts were exchanged; -1 if they were not.
    """

    def __init__(
        self,
        geometry: Geometry,
        relay: bool,
        which: int,
        plan: Plan | None,
        made: Planned | None,
        releases_seen: int,
    ) -> None:
        self.which, self.made = which, made
        self._geometry, self._relay = geometry, relay
        self._releases_seen = releases_seen
        if plan is not None:
            self.plan = plan

    def check(self) -> None:
        """Wait for the device, and raise what it found wrong with ids or loads."""
        if self.made is not None:
            self.made.check()

    @cached_property
    def plan(self) -> Plan:
        """The plan; one made on a device is copied, after `check`.

        Raises
        ------
        InputError
            An id out of range, loads that cannot be planned, no token at all.
        """
        if self.made is None:
            raise InputError("neither a plan nor what a device made", place="placement")
        self.check()
        made = self.made.plan
        found, loads = made.solution(), self.made.loads.cpu().numpy().astype("int64")
        if not loads.any():
            raise InputError(
                "no rank has a token", place="topk_ids", value=0,
                remedy="skip the layer for an empty micro-batch",
            )  # fmt: skip
        return plan_from_replicas(
            made.layout, loads, found.expert, found.rank, found.quota,
            tau=found.tau, policy=made.policy,
        )  # fmt: skip

    @cached_property
    def table(self) -> Instances:
        """Physical numbers of the instances."""
        return instances(self.plan, self._geometry.main_row)

    @cached_property
    def tiles(self) -> TileList:
        """The weight distribution."""
        g = self._geometry
        return plan_tiles(
            self.plan, g.copy_bytes, relay=self._relay,
            tile_bytes=g.tile_bytes, chunk_tiles=g.chunk_tiles,
        )  # fmt: skip

    @cached_property
    def gradients(self) -> GradientList:
        """The gradient reduction."""
        return gradient_list(self.plan, self._geometry.main_row)
