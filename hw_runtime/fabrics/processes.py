"""One process a rank: who the processes are, and that they agree, before any memory is shared.

Processes are started with torchrun; torch.distributed over gloo carries handles and host barriers.
Every exchange has a time limit, so a process that is missing is an error here, not a dead lock.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from ..errors import FabricError, MissingHardwareError
from .base import Geometry
from .device import DeviceFabric

PATIENCE = timedelta(seconds=60)


def join(torch: Any, geometry: Geometry, fabric: str, patience: timedelta = PATIENCE) -> int:
    """Join the process group and return this process's rank.

    Raises
    ------
    MissingHardwareError
        The process was not started as one of a group.
    FabricError
        The group has another size, or its processes want other buffers.
    """
    dist = torch.distributed
    ranks = geometry.layout.num_ranks
    if not dist.is_available():
        raise MissingHardwareError(f"the {fabric} fabric needs torch with torch.distributed")
    if not dist.is_initialized():
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            raise MissingHardwareError(
                f"the {fabric} fabric has one process a rank: start with torchrun "
                "--nproc-per-node N -m hw_runtime ... on a machine with a CUDA device"
            )
        try:
            dist.init_process_group("gloo", timeout=patience)
        except RuntimeError as error:  # the store's timeout and refused connections
            raise FabricError(_absent(error)) from error
    if dist.get_world_size() != ranks:
        raise FabricError(
            f"{dist.get_world_size()} processes for {ranks} ranks; start one process a rank"
        )
    agree(torch, geometry)
    return int(dist.get_rank())


def agree(torch: Any, geometry: Geometry) -> None:
    """Compare what every process is about to allocate.

    Raises
    ------
    FabricError
        Naming the first process that differs, or that a process did not come.
    """
    layout = geometry.layout
    mine = (
        layout.num_ranks, layout.num_experts, layout.slots_per_rank, layout.home.tolist(),
        geometry.copy_bytes, geometry.gradient_elements, geometry.gradient_dtype, geometry.sets,
        geometry.tile_bytes, geometry.chunk_tiles,
    )  # fmt: skip
    for rank, other in enumerate(gather(torch, mine)):
        if other != mine:
            raise FabricError(f"rank {rank} opens a fabric of another geometry than this process")


def gather(torch: Any, value: Any) -> list[Any]:
    """Return every process's value.

    Raises
    ------
    FabricError
        A process did not come in time.
    """
    dist = torch.distributed
    out: list[Any] = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(out, value)
    except RuntimeError as error:  # gloo's timeout and lost connections
        raise FabricError(_absent(error)) from error
    return out


def _absent(error: RuntimeError) -> str:
    return f"a process of the group did not come: {(str(error).splitlines() or [''])[0]}"


class ProcessFabric(DeviceFabric):
    """A `DeviceFabric` of one rank, its arena shared with other processes."""

    _mine: Any

    def _local_arena(self, rank: int) -> Any:
        return self._mine

    def _host_barrier(self) -> None:
        gather(self._torch, None)
