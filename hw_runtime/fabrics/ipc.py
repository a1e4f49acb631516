"""One process a rank on one host: arenas are shared through CUDA IPC handles.

Start with ``torchrun --nproc-per-node N``. Several ranks may share a GPU, for correctness only:
processes on one GPU are time-sliced, a waiting kernel keeps the others off it for its slice, and
nothing measured so means anything (`IpcFabric.shares_gpu`).

This module has not run on a GPU yet.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import MissingHardwareError
from .arena import require_cuda
from .base import Geometry
from .device import LIMIT_NS
from .processes import ProcessFabric, gather, join


class IpcFabric(ProcessFabric):
    """See the module.

    Parameters
    ----------
    geometry : Geometry
        As many ranks as there are processes.
    limit_ns, jitter
        See `DeviceFabric`.

    Attributes
    ----------
    shares_gpu : bool
        Whether any two ranks share a GPU.

    Raises
    ------
    MissingHardwareError
        No CUDA device, or not one of a group of processes.
    FabricError
        Processes that do not fit together.
    """

    def __init__(self, geometry: Geometry, *, limit_ns: int = LIMIT_NS, jitter: int = 0) -> None:
        torch = require_cuda()
        rank = join(torch, geometry, "ipc")
        device = torch.device("cuda", rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        self.shares_gpu = geometry.layout.num_ranks > torch.cuda.device_count()
        super().__init__(geometry, device=device, rank=rank, limit_ns=limit_ns, jitter=jitter)

    def _map_arenas(self) -> list[int]:
        """Send a handle of the own arena to every process, and open theirs."""
        reductions: Any = importlib.import_module("torch.multiprocessing.reductions")
        torch = self._torch
        self._mine = self._zeros(self._arena.total, torch.uint8)
        torch.cuda.synchronize(self.device)  # zero before anybody can write
        handles = gather(torch, reductions.reduce_tensor(self._mine))
        self._peers: list[Any] = []  # opened arenas stay mapped as long as these live
        for rank, (rebuild, arguments) in enumerate(handles):
            self._peers.append(self._mine if rank == self._list else rebuild(*arguments))
        for peer in self._peers:
            reach(torch, self.device, peer.device)
        self._host_barrier()
        return [peer.data_ptr() for peer in self._peers]

    def close(self) -> None:
        """Unmap the others' arenas before any process frees its own; collective."""
        super().close()
        self._peers = [self._mine]
        self._host_barrier()


def reach(torch: Any, device: Any, other: Any) -> None:
    """Let kernels of one GPU reach memory of another in this process.

    torch opens a handle on the GPU it came from, and lets a GPU into another's memory only when it
    first copies there itself.

    Raises
    ------
    MissingHardwareError
        They have no path to each other.
    """
    if device == other:
        return
    if not torch.cuda.can_device_access_peer(device, other):
        raise MissingHardwareError(
            f"{device} cannot reach the memory of {other}, which the ipc fabric needs; "
            "choose GPUs with peer access by CUDA_VISIBLE_DEVICES"
        )
    torch.zeros(1, device=device).to(other)
    torch.cuda.synchronize(device)
