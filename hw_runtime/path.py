"""From top-k ids to ready weights and physical experts on the device: the host decides nothing.

Counts go into every rank's load matrix, every rank plans the same from it, lists the transfers and
streams, and chooses an instance for each of its tokens. Nothing is read back, so after one call
outside of it the whole path can be captured in a CUDA graph, and replayed with other ids in the
same tensors.

Two barriers hold the ranks together. Behind the first nobody plans from the last counts or reads
the slots of the last placement any more, so both may be overwritten; behind the second all counts
are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ultraep_sim.errors import InputError

from .counting import Counts, LoadCounter, Receivers
from .device_plan import DevicePlan
from .fabrics.device import DeviceFabric
from .planners import Options, open_planner, planner_of
from .rerouter import Rerouter


@dataclass(frozen=True, eq=False)
class Planned:
    """What was decided, on the device.

    Attributes
    ----------
    plan : DevicePlan
    counts : list of Counts, one a local rank
    loads : int32 tensor [ranks, experts]
        Of the group, in the arena: overwritten by the next exchange.
    split : int32 tensor [ranks, experts + ranks x slots]
        Tokens of every source for every instance.
    """

    plan: DevicePlan = field(repr=False)
    counts: list[Counts] = field(repr=False)
    loads: torch.Tensor = field(repr=False)
    split: torch.Tensor = field(repr=False)

    def check(self) -> None:
        """Wait for the device, and raise what it found wrong with ids or loads."""
        for one in self.counts:
            one.check()
        self.plan.check()


@dataclass(frozen=True, eq=False)
class Routed(Planned):
    """What one call leaves on the device; its plan is overwritten by the next for the same slots.

    Attributes
    ----------
    physical : list of tensors like the ids, one a local rank
        Physical expert of every pair, -1 for padding.
    """

    physical: list[torch.Tensor] = field(repr=False)


class DevicePath:
    """The path bound to a fabric.

    Parameters
    ----------
    fabric : DeviceFabric
    options : QuotaOptions or MosaicOptions, optional
        They choose the planner; default the published one.
    relay : bool
        Send through relays where the rule finds a gain.

    Raises
    ------
    InputError
        A layout without redundant slots, or too large for the planner's kernel, or an option
        that it does not have.
    """

    def __init__(
        self, fabric: DeviceFabric, options: Options | None = None, *, relay: bool = True
    ) -> None:
        layout, device = fabric.geometry.layout, fabric.device
        if layout.slots_per_rank == 0:
            raise InputError(
                "nowhere to put a replica", place="layout.slots_per_rank", value=0,
                remedy="give 1 or more, or leave balancing off",
            )  # fmt: skip
        self._fabric, self._relay = fabric, relay
        self._counter = LoadCounter(
            layout.num_experts, device=device, kernels=fabric.kernels("histogram")
        )
        kernels = fabric.kernels(planner_of(options).family)
        self._planner = open_planner(layout, options, device=device, kernels=kernels)
        self._rerouter = Rerouter(layout, device=device, kernels=fabric.kernels("reroute"))
        self._receivers = [Receivers.at(fabric.count_rows(r)) for r in fabric.local_ranks]
        self._plans = [self._planner.empty() for _ in range(fabric.geometry.sets)]

    def __call__(
        self,
        topk_ids: Sequence[torch.Tensor],
        mains: Sequence[torch.Tensor | None],
        which: int = 0,
    ) -> Routed:
        """Plan, start the transfers and reroute; collective.

        Parameters
        ----------
        topk_ids : sequence of int tensors, each [tokens, k], one a local rank
        mains : sequence, one entry a rank
            As `Fabric.distribute` takes them; the same tensors at every call of a graph.
        which : int
            Set of slots.

        Returns
        -------
        Routed
        """
        made = self.plan(topk_ids, self._plans[self._check(which)])
        self.distribute(made.plan, mains, which)
        physical = self.reroute(made, topk_ids)
        return Routed(made.plan, made.counts, made.loads, made.split, physical)

    def empty(self) -> DevicePlan:
        """Allocate a plan that outlives the next call."""
        return self._planner.empty()

    def plan(self, topk_ids: Sequence[torch.Tensor], out: DevicePlan) -> Planned:
        """Exchange the counts, plan, and split every source's tokens; collective."""
        fabric = self._fabric
        if len(topk_ids) != len(fabric.local_ranks):
            raise InputError(
                "no ids for every local rank", place="topk_ids", value=len(topk_ids),
                remedy=f"give a list of {len(fabric.local_ranks)} tensors [tokens, k]",
            )  # fmt: skip
        fabric.barrier()
        counts = [
            self._counter.topk(ids, row)
            for ids, row in zip(topk_ids, self._receivers, strict=True)
        ]  # fmt: skip
        fabric.barrier()
        loads = fabric.loads(fabric.local_ranks[0])
        plan = self._planner.plan(loads, out)
        return Planned(plan, counts, loads, self._rerouter.split(loads, plan))

    def distribute(
        self, plan: DevicePlan, mains: Sequence[torch.Tensor | None], which: int = 0
    ) -> int:
        """Start the transfers of a plan into a set of slots; collective.

        Its lists are made from the set's own plan, which a kept one is copied to: what a fabric
        keeps for a graph does not grow with the plans.
        """
        own = self._plans[self._check(which)]
        if plan is not own:
            for name in ("expert", "rank", "header"):
                given = getattr(plan, name)
                getattr(own, name).copy_(given)
                if given.is_cuda:  # this stream may still read when the plan is dropped
                    given.record_stream(torch.cuda.current_stream(given.device))
        return self._fabric.distribute_plan(
            own.expert[0], own.rank[0], own.header[0, 1:2], mains, which, relay=self._relay
        )

    def reroute(self, made: Planned, topk_ids: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Choose the physical expert of every pair of the local ranks."""
        return [
            self._rerouter.topk(ids, one, made.plan, made.split[rank])[1]
            for rank, ids, one in zip(
                self._fabric.local_ranks, topk_ids, made.counts, strict=True
            )
        ]  # fmt: skip

    def _check(self, which: int) -> int:
        self._fabric.geometry.check_set(which)
        return which
