"""All ranks as buffers on one GPU: one launch works off the whole task list.

Bytes move in the memory of that GPU, so what is measured here is HBM, never a link. The kernels,
relays and flags are those of the other GPU fabrics.

This module has not run on a GPU yet; tests run it on the CPU with the kernels' sources compiled for
the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .arena import require_cuda
from .base import Geometry
from .device import LIMIT_NS, DeviceFabric


class VirtualFabric(DeviceFabric):
    """See the module.

    Parameters
    ----------
    geometry : Geometry
    device : torch.device or str, optional
        Default the current CUDA device.
    limit_ns, jitter, load
        See `DeviceFabric`.

    Raises
    ------
    MissingHardwareError
        No CUDA device.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        device: Any = None,
        limit_ns: int = LIMIT_NS,
        jitter: int = 0,
        load: Callable[[str], Any] | None = None,
    ) -> None:
        if load is None:
            torch = require_cuda()
            device = device or torch.device("cuda", torch.cuda.current_device())
        super().__init__(
            geometry, device=device or "cpu", rank=None, limit_ns=limit_ns, jitter=jitter, load=load
        )

    def _map_arenas(self) -> list[int]:
        ranks, size = self.geometry.layout.num_ranks, self._arena.total
        # torch aligns CUDA memory well enough; one row more lets any memory be.
        raw = self._zeros(ranks * size + 256, self._torch.uint8)
        begin = -raw.data_ptr() % 256
        self._arenas = raw[begin : begin + ranks * size].view(ranks, size)
        return [self._arenas[r].data_ptr() for r in range(ranks)]

    def _local_arena(self, rank: int) -> Any:
        return self._arenas[rank]

    def _host_barrier(self) -> None:
        """One process."""
