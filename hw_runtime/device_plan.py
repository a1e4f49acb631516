"""Plans of one or more records as tensors on the planner's device, and their way to the host."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from hw_runtime.errors import FabricError
from ultraep_sim.errors import InputError
from ultraep_sim.planning.assemble import plan_from_replicas
from ultraep_sim.planning.layout import EPLayout
from ultraep_sim.planning.plan import Plan
from ultraep_sim.planning.quota import Solution

_STATUS = {1: "a load is negative", 2: "the total load of a record reaches 2^31"}


@dataclass(frozen=True, eq=False)
class DevicePlan:
    """See the module.

    Attributes
    ----------
    layout : EPLayout
    header : int64 [records, 4]
        Threshold tau, number of replicas, status (0: fine), total load.
    expert, rank, quota : int32 [records, ranks x slots]
        The replicas in the order they were opened; only the first ``header[:, 1]`` mean anything.
    offsets : int32 [records, experts + 1]
        Instances of expert ``e`` are ``offsets[e]:offsets[e + 1]``, the main first.
    instance_rank, instance_slot, instance_quota : int32 [records, experts + ranks x slots]
        Grouped by expert: host, redundant slot (-1 for a main), tokens. Only the first
        ``offsets[:, -1]`` mean anything.
    policy : str
        Of the planner that fills them.
    """

    layout: EPLayout
    header: torch.Tensor = field(repr=False)
    expert: torch.Tensor = field(repr=False)
    rank: torch.Tensor = field(repr=False)
    quota: torch.Tensor = field(repr=False)
    offsets: torch.Tensor = field(repr=False)
    instance_rank: torch.Tensor = field(repr=False)
    instance_slot: torch.Tensor = field(repr=False)
    instance_quota: torch.Tensor = field(repr=False)
    policy: str = "ultraep"

    @classmethod
    def empty(
        cls, layout: EPLayout, records: int, device: torch.device, policy: str = "ultraep"
    ) -> DevicePlan:
        """Allocate plans to be filled; reuse them from call to call, as a CUDA graph does."""
        room, experts = layout.num_ranks * layout.slots_per_rank, layout.num_experts

        def words(width: int) -> torch.Tensor:
            return torch.empty((records, width), dtype=torch.int32, device=device)

        header = torch.empty((records, 4), dtype=torch.int64, device=device)
        return cls(
            layout, header,
            words(room), words(room), words(room),
            words(experts + 1),
            words(experts + room), words(experts + room), words(experts + room), policy,
        )  # fmt: skip

    def check(self) -> None:
        """Wait for the device and raise what it found wrong with the loads.

        Raises
        ------
        InputError
            Naming the record.
        """
        for record, status in enumerate(self.header[:, 2].tolist()):
            if status:
                raise InputError(
                    _STATUS.get(status, "the planner failed"), place=f"loads[{record}]"
                )

    def solution(self, record: int = 0) -> Solution:
        """Copy one record's plan to the host, as a solver on the CPU returns it; waits."""
        self.check()
        tau, n = (int(word) for word in self.header[record, :2].tolist())
        if not 0 <= n <= self.expert.shape[1]:
            raise FabricError(
                f"the planner wrote {n} replicas into room for {self.expert.shape[1]}"
            )
        lists = [part[record, :n].cpu().numpy() for part in (self.expert, self.rank, self.quota)]
        return Solution(tau, lists[0], lists[1], lists[2].astype(np.int64))

    def plan(self, loads: torch.Tensor, record: int = 0) -> Plan:
        """Build the simulator's plan of one record; ``loads`` are its [sources, experts]; waits."""
        found = self.solution(record)
        matrix = loads.cpu().numpy().astype(np.int64)
        return plan_from_replicas(
            self.layout, matrix, found.expert, found.rank, found.quota,
            policy=self.policy, tau=found.tau,
        )  # fmt: skip


def fill(plan: DevicePlan, record: int, total: np.ndarray, found: Solution) -> None:
    """Write what a solver on the CPU found for loads ``total`` [experts] as a kernel would."""
    made = plan_from_replicas(plan.layout, total[None], found.expert, found.rank, found.quota)
    header = [found.tau, len(found.expert), 0, int(total.sum())]
    plan.header[record] = torch.tensor(header, dtype=torch.int64)
    for name in ("expert", "rank", "quota"):
        _copy(getattr(plan, name)[record], getattr(found, name))
    _copy(plan.offsets[record], made.offsets)
    for name in ("rank", "slot", "quota"):
        _copy(getattr(plan, f"instance_{name}")[record], getattr(made, name))


def _copy(into: torch.Tensor, array: np.ndarray) -> None:
    into[: len(array)] = torch.from_numpy(array.astype(np.int32))
