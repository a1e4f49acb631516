"""torch symmetric memory over an NVLink domain: one GPU a rank, started with torchrun.

It differs from `ipc` only in how the table of arena addresses is made, and so reaches GPUs of
other hosts in the same NVLink domain.

This module has not run on a GPU yet.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from .arena import require_cuda
from .base import Geometry
from .device import LIMIT_NS
from .processes import ProcessFabric, join


class SymmFabric(ProcessFabric):
    """See the module.

    Parameters
    ----------
    geometry : Geometry
        As many ranks as there are processes.
    limit_ns, jitter
        See `DeviceFabric`.

    Raises
    ------
    MissingHardwareError
        No CUDA device, or not one of a group of processes.
    FabricError
        Processes that do not fit together.
    """

    def __init__(self, geometry: Geometry, *, limit_ns: int = LIMIT_NS, jitter: int = 0) -> None:
        torch = require_cuda()
        rank = join(torch, geometry, "symm")
        local = int(os.environ.get("LOCAL_RANK", rank))
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
        super().__init__(geometry, device=device, rank=rank, limit_ns=limit_ns, jitter=jitter)

    def _map_arenas(self) -> list[int]:
        """Allocate symmetrically and exchange addresses."""
        torch = self._torch
        symmetric: Any = importlib.import_module("torch.distributed._symmetric_memory")
        self._mine = symmetric.empty(self._arena.total, dtype=torch.uint8, device=self.device)
        self._handle = symmetric.rendezvous(self._mine, torch.distributed.group.WORLD)
        self._mine.zero_()
        torch.cuda.synchronize(self.device)
        self._host_barrier()
        return [int(address) for address in self._handle.buffer_ptrs]
