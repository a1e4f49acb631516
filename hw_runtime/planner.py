"""Planners where the loads are: a kernel on a GPU, `ultraep_sim.planning` on the CPU.

Both give the same arrays, bit for bit. On a GPU nothing waits: the plan stays on the device, and
what was wrong with the loads is in its status word, which `DevicePlan.check` reads.

Here are what planners share, and the published one; `hw_runtime.mosaic` has the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch

from hw_runtime.device_plan import DevicePlan, fill
from hw_runtime.fabrics.structs import SHARED_LIMIT
from hw_runtime.launch import Kernels, open_kernels
from hw_runtime.tensors import check_device_loads
from ultraep_sim.errors import InputError
from ultraep_sim.planning.layout import EPLayout
from ultraep_sim.planning.loads import MAX_TOTAL
from ultraep_sim.planning.quota import QuotaOptions, QuotaSolver, Solution

__all__ = ["DevicePlan", "DevicePlanner", "QuotaPlanner"]

MAX_RANKS = 256
MAX_EXPERTS = 4096
THREADS = 512
_BUFFERS = 11  # ten probes at a time, and the best so far: PROBING + 1 of planner.cu
_STATIC = 4096  # the kernel's static shared memory, at most


class DevicePlanner(ABC):
    """A planner bound to a layout and a device.

    Parameters
    ----------
    layout : EPLayout
    device : torch.device or str
        A CUDA device runs the kernel, the CPU the host backend.
    kernels : Kernels, optional
        Used instead of the device's; tests run the kernel on the host with it.

    Raises
    ------
    InputError
        If the layout is too large for one block of a GPU, or the kernel lacks an option.
    MissingHardwareError
        If the device is not there.
    """

    policy: ClassVar[str]
    family: ClassVar[str]
    """Kernels it is made of."""

    def __init__(
        self, layout: EPLayout, device: torch.device | str, kernels: Kernels | None
    ) -> None:
        self.layout = layout
        self.device = torch.device(device)
        self._kernels = kernels or open_kernels(self.family, self.device)
        if self._kernels is not None:
            if layout.num_ranks > MAX_RANKS or layout.num_experts > MAX_EXPERTS:
                raise InputError(
                    f"the device plans groups of up to {MAX_RANKS} ranks and {MAX_EXPERTS} experts",
                    place="layout",
                    value=f"{layout.num_ranks} ranks, {layout.num_experts} experts",
                    remedy="plan on the CPU, or one scale-up domain at a time",
                )
            start = np.concatenate(([0], np.cumsum(layout.mains_per_rank)))
            self._home = self._constant(layout.home)
            self._by_home = self._constant(np.argsort(layout.home, kind="stable"))
            self._start = self._constant(start)

    def _constant(self, array: np.ndarray) -> torch.Tensor:
        # A copy: a layout's arrays are read-only, which torch tensors cannot be.
        return torch.tensor(array.astype(np.int32), device=self.device)

    @abstractmethod
    def _solve(self, total: np.ndarray) -> Solution:
        """Plan one record on the CPU."""

    @abstractmethod
    def _launch(self, kernels: Kernels, records: int, loads: tuple[Any, ...], out: Any) -> None:
        """Launch the kernel; ``loads`` and ``out`` are its first and its last arguments."""

    def empty(self, records: int = 1) -> DevicePlan:
        """Allocate plans for `plan` to fill."""
        return DevicePlan.empty(self.layout, records, self.device, self.policy)

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
        fits = out.layout == layout and out.header.shape[0] == records
        if not fits or out.policy != self.policy:
            raise InputError("made for other plans", place="out", value=tuple(out.header.shape))
        if self._kernels is None:
            for record, matrix in enumerate(given.numpy().astype(np.int64)):
                total = matrix.sum(axis=0)
                fill(out, record, total, self._solve(total))
            return out
        first = (given, sources, experts, self._home, self._by_home, self._start)
        last = (
            out.header, out.expert, out.rank, out.quota,
            out.offsets, out.instance_rank, out.instance_slot, out.instance_quota,
        )  # fmt: skip
        self._launch(self._kernels, records, first, last)
        return out


class QuotaPlanner(DevicePlanner):
    """The published planner; see `DevicePlanner`.

    Parameters
    ----------
    layout : EPLayout
    options : QuotaOptions, optional
    device, kernels
    """

    policy = "ultraep"
    family = "planner"

    def __init__(
        self,
        layout: EPLayout,
        options: QuotaOptions | None = None,
        *,
        device: torch.device | str = "cpu",
        kernels: Kernels | None = None,
    ) -> None:
        super().__init__(layout, device, kernels)
        self.options = options or QuotaOptions()
        self._solver = QuotaSolver(layout)
        self._shared = _shared_bytes(layout) if self._kernels is not None else 0

    def _solve(self, total: np.ndarray) -> Solution:
        return self._solver.solve(total, self.options)

    def _launch(self, kernels: Kernels, records: int, loads: tuple[Any, ...], out: Any) -> None:
        layout, options = self.layout, self.options
        kernels.launch(
            "quota_plan", records, THREADS, self._shared, *loads,
            layout.num_ranks, layout.num_experts, layout.slots_per_rank, layout.domain,
            options.target_scaled, min(options.min_quota, MAX_TOTAL), *out,
        )  # fmt: skip


def _shared_bytes(layout: EPLayout) -> int:
    """Dynamic shared memory of the kernel: loads, orders, and the replicas of every probe."""
    ranks, experts = layout.num_ranks, layout.num_experts
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
