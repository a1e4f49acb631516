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
from ultraep_sim.planning.quota import QuotaOptions

from .counting import Counts, LoadCounter, Receivers
from .fabrics.device import DeviceFabric
from .planner import DevicePlan, QuotaPlanner
from .rerouter import Rerouter


@dataclass(frozen=True, eq=False)
class Routed:
    """What one call leaves on the device.

    Attributes
    ----------
    plan : DevicePlan
        Overwritten by the next call for the same set of slots.
    counts : list of Counts, one a local rank
    physical : list of tensors like the ids, one a local rank
        Physical expert of every pair, -1 for padding.
    """

    plan: DevicePlan = field(repr=False)
    counts: list[Counts] = field(repr=False)
    physical: list[torch.Tensor] = field(repr=False)

    def check(self) -> None:
        """Wait for the device, and raise what it found wrong with ids or loads."""
        for one in self.counts:
            one.check()
        self.plan.check()


class DevicePath:
    """The path bound to a fabric.

    Parameters
    ----------
    fabric : DeviceFabric
    options : QuotaOptions, optional
    relay : bool
        Send through relays where the rule finds a gain.

    Raises
    ------
    InputError
        A layout without redundant slots, or too large for the planner's kernel.
    """

    def __init__(
        self, fabric: DeviceFabric, options: QuotaOptions | None = None, *, relay: bool = True
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
        self._planner = QuotaPlanner(
            layout, options, device=device, kernels=fabric.kernels("planner")
        )
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
        fabric = self._fabric
        fabric.geometry.check_set(which)
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
        plan = self._planner.plan(loads, self._plans[which])
        fabric.distribute_plan(
            plan.expert[0], plan.rank[0], plan.header[0, 1:2], mains, which, relay=self._relay
        )
        split = self._rerouter.split(loads, plan)
        physical = [
            self._rerouter.topk(ids, one, plan, split[rank])[1]
            for rank, ids, one in zip(fabric.local_ranks, topk_ids, counts, strict=True)
        ]
        return Routed(plan, counts, physical)
