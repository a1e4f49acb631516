"""The mosaic planner where the loads are: kernels/mosaic.cu on a GPU, `MosaicSolver` on the CPU.

The kernel has the effort "fast" with every other option: target, whole tiles, crossing, speeds.
The effort "thorough" searches for milliseconds and is planned on the host only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from hw_runtime.fabrics.structs import SHARED_LIMIT
from hw_runtime.launch import Kernels
from hw_runtime.planner import DevicePlanner
from ultraep_sim.errors import InputError
from ultraep_sim.planning import EPLayout, MosaicOptions, MosaicSolver, QuotaOptions
from ultraep_sim.planning.quota import Solution

MAX_TILE = 2**30
MAX_WARPS = 16
MIN_WARPS = 8  # the methods of one probe run side by side: MAX_METHODS of mosaic_probe.cuh
_STATIC = 8192  # the kernel's static shared memory, at most


class MosaicPlanner(DevicePlanner):
    """The planner with fewest replicas; see `DevicePlanner`.

    Parameters
    ----------
    layout : EPLayout
    options : MosaicOptions, optional
    speeds : array_like of float, shape [ranks], optional
        Relative speed of each rank.
    device, kernels

    Raises
    ------
    InputError
        On a GPU: an option that the kernel does not have.
    PolicyError
        Speeds that are not positive numbers, one a rank.
    """

    policy = "mosaic"
    family = "mosaic"

    def __init__(
        self,
        layout: EPLayout,
        options: MosaicOptions | None = None,
        *,
        speeds: ArrayLike | None = None,
        device: torch.device | str = "cpu",
        kernels: Kernels | None = None,
    ) -> None:
        super().__init__(layout, device, kernels)
        self.options = options or MosaicOptions()
        self._solver = MosaicSolver(layout, speeds)
        if self._kernels is not None:
            _check_options(self.options)
            self._warps, self._shared = _launch_shape(layout)
            self._speeds = self._constant(self._solver.speeds)

    def _solve(self, total: np.ndarray) -> Solution:
        return self._solver.solve(total, self.options)

    def _launch(self, kernels: Kernels, records: int, loads: tuple[Any, ...], out: Any) -> None:
        layout, options = self.layout, self.options
        kernels.launch(
            "mosaic_plan", records, 32 * self._warps, self._shared, *loads, self._speeds,
            layout.num_ranks, layout.num_experts, layout.slots_per_rank, layout.domain,
            QuotaOptions(options.target).target_scaled, options.tile_rows, int(options.cross), *out,
        )  # fmt: skip


def _check_options(options: MosaicOptions) -> None:
    if options.effort != "fast":
        raise InputError(
            "the kernel has no such effort", place="options.effort", value=options.effort,
            remedy="give fast, or plan on the CPU",
        )  # fmt: skip
    if options.tile_rows > MAX_TILE:
        raise InputError(
            "the kernel has no tiles as large", place="options.tile_rows", value=options.tile_rows,
            remedy=f"give at most {MAX_TILE}",
        )  # fmt: skip


def _launch_shape(layout: EPLayout) -> tuple[int, int]:
    """Warps of a block, and its dynamic shared memory: as many as there is room for."""
    ranks, experts = layout.num_ranks, layout.num_experts
    room, domains = ranks * layout.slots_per_rank, layout.num_domains
    block = 4 * (experts + 3 * ranks + 1 + room) + 4 * (experts + room)
    one = 4 * (experts + ranks + room) + 2 * (3 * room + ranks + 3 * domains)
    warp = -(-one // 4) * 4
    warps = min(MAX_WARPS, (SHARED_LIMIT - _STATIC - block) // warp)
    if warps < MIN_WARPS:
        raise InputError(
            "the methods of a probe do not fit a block's shared memory",
            place="layout.slots_per_rank", value=layout.slots_per_rank,
            remedy="give fewer slots, or plan on the CPU",
        )  # fmt: skip
    return warps, block + warps * warp
