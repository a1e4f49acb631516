"""The quota planner where the loads are: a kernel on a GPU, `ultraep_sim.planning` on the CPU.

Both give the same arrays, bit for bit. On a GPU nothing waits: the plan stays on the device, and
what was wrong with the loads is in its status word, which `DevicePlan.check` reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from hw_runtime.errors import FabricError
from hw_runtime.fabrics.structs import SHARED_LIMIT
from hw_runtime.launch import Kernels, open_kernels
from hw_runtime.tensors import check_device_loads
from ultraep_sim.errors import InputError
from ultraep_sim.planning.assemble import plan_from_replicas
from ultraep_sim.planning.layout import EPLayout
from ultraep_sim.planning.loads import MAX_TOTAL
from ultraep_sim.planning.plan import Plan
from ultraep_sim.planning.quota import QuotaOptions, QuotaSolver, Solution

MAX_RANKS = 256
MAX_EXPERTS = 4096
THREADS = 512
_BUFFERS = 11  # ten probes at a time, and the best so far: PROBING + 1 of planner.cu
_STATIC = 4096  # the kernel's static shared memory, at most
_STATUS = {1: "a load is negative", 2: "the total load of a record reaches 2^31"}


@dataclass(frozen=True, eq=False)
class DevicePlan:
    """Plans of one or more records, as tensors on the planner's device.

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

    @classmethod
    def empty(cls, layout: EPLayout, records: int, device: torch.device) -> DevicePlan:
        """Allocate plans to be filled; reuse them from call to call, as a CUDA graph does."""
        room, experts = layout.num_ranks * layout.slots_per_rank, layout.num_experts

        def words(width: int) -> torch.Tensor:
            return torch.empty((records, width), dtype=torch.int32, device=device)

        header = torch.empty((records, 4), dtype=torch.int64, device=device)
        return cls(
            layout, header,
            words(room), words(room), words(room),
            words(experts + 1),
            words(experts + room), words(experts + room), words(experts + room),
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
        """Copy one record's plan to the host, as `QuotaSolver.solve` returns it; waits."""
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
            policy="ultraep", tau=found.tau,
        )  # fmt: skip


class QuotaPlanner:
    """The published planner bound to a layout and a device.

    Parameters
    ----------
    layout : EPLayout
    options : QuotaOptions, optional
    device : torch.device or str
        A CUDA device runs the kernel, the CPU the host backend.
    kernels : Kernels, optional
        Used instead of the device's; tests run the kernel on the host with it.

    Raises
    ------
    InputError
        If the layout is too large for one block of a GPU.
    MissingHardwareError
        If the device is not there.
    """

    def __init__(
        self,
        layout: EPLayout,
        options: QuotaOptions | None = None,
        *,
        device: torch.device | str = "cpu",
        kernels: Kernels | None = None,
    ) -> None:
        self.layout = layout
        self.options = options or QuotaOptions()
        self.device = torch.device(device)
        self._kernels = kernels or open_kernels("planner", self.device)
        self._solver = QuotaSolver(layout)
        if self._kernels is not None:
            self._shared = _shared_bytes(layout)
            start = np.concatenate(([0], np.cumsum(layout.mains_per_rank)))
            self._home = self._constant(layout.home)
            self._by_home = self._constant(np.argsort(layout.home, kind="stable"))
            self._start = self._constant(start)

    def _constant(self, array: np.ndarray) -> torch.Tensor:
        # A copy: a layout's arrays are read-only, which torch tensors cannot be.
        return torch.tensor(array.astype(np.int32), device=self.device)

    def empty(self, records: int = 1) -> DevicePlan:
        """Allocate plans for `plan` to fill."""
        return DevicePlan.empty(self.layout, records, self.device)

    def plan(self, loads: torch.Tensor, out: DevicePlan | None = None) -> DevicePlan:
        """Plan one layer and micro-batch, or several records at once.

        Parameters
        ----------
        loads : int32 tensor, [sources, experts] or [records, sources, experts]
            On the planner's device, contiguous; one source row, or one a rank.
        out : DevicePlan, optional
            Filled and returned instead of new tensors.

        Returns
        -------
        DevicePlan

        Raises
        ------
        InputError
            What can be seen of wrong loads without waiting; on a GPU the values are judged by
            the kernel, see `DevicePlan.check`.
        """
        layout = self.layout
        given = check_device_loads(loads, layout.num_ranks, layout.num_experts, self.device)
        records, sources, experts = given.shape
        out = out or self.empty(records)
        if out.layout != layout or out.header.shape[0] != records:
            raise InputError("made for other plans", place="out", value=tuple(out.header.shape))
        if self._kernels is None:
            _solve_on_host(self._solver, self.options, given, out)
            return out
        options = self.options
        self._kernels.launch(
            "quota_plan", records, THREADS, self._shared,
            given, sources, experts, self._home, self._by_home, self._start,
            layout.num_ranks, experts, layout.slots_per_rank, layout.domain,
            options.target_scaled, min(options.min_quota, MAX_TOTAL),
            out.header, out.expert, out.rank, out.quota,
            out.offsets, out.instance_rank, out.instance_slot, out.instance_quota,
        )  # fmt: skip
        return out


def _solve_on_host(
    solver: QuotaSolver, options: QuotaOptions, loads: torch.Tensor, out: DevicePlan
) -> None:
    for record, matrix in enumerate(loads.numpy().astype(np.int64)):
        total = matrix.sum(axis=0)
        found = solver.solve(total, options)
        made = plan_from_replicas(solver.layout, total[None], found.expert, found.rank, found.quota)
        header = [found.tau, len(found.expert), 0, int(total.sum())]
        out.header[record] = torch.tensor(header, dtype=torch.int64)
        for name in ("expert", "rank", "quota"):
            _fill(getattr(out, name)[record], getattr(found, name))
        _fill(out.offsets[record], made.offsets)
        for name in ("rank", "slot", "quota"):
            _fill(getattr(out, f"instance_{name}")[record], getattr(made, name))


def _fill(into: torch.Tensor, array: np.ndarray) -> None:
    into[: len(array)] = torch.from_numpy(array.astype(np.int32))


def _shared_bytes(layout: EPLayout) -> int:
    """Dynamic shared memory of the kernel: loads, orders, and the replicas of every probe."""
    ranks, experts = layout.num_ranks, layout.num_experts
    if ranks > MAX_RANKS or experts > MAX_EXPERTS:
        raise InputError(
            f"the device plans groups of up to {MAX_RANKS} ranks and {MAX_EXPERTS} experts",
            place="layout",
            value=f"{ranks} ranks, {experts} experts",
            remedy="plan on the CPU, or one scale-up domain at a time",
        )
    room = ranks * layout.slots_per_rank
    size = 4 * (experts + 2 * ranks + 1 + _BUFFERS * room) + 2 * (
        ranks + experts + 2 * _BUFFERS * room
    )
    if size > SHARED_LIMIT - _STATIC:
        raise InputError(
            "the plans of the probes do not fit a block's shared memory",
            place="layout.slots_per_rank",
            value=layout.slots_per_rank,
            remedy=f"give at most {_most_slots(ranks, experts)}, or plan on the CPU",
        )
    return size


def _most_slots(ranks: int, experts: int) -> int:
    rest = SHARED_LIMIT - _STATIC - 6 * experts - 10 * ranks - 4
    return rest // (8 * _BUFFERS * ranks)
