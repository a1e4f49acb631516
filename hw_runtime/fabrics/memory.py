"""The memory of a GPU fabric: arenas, the tables that reach them, and structs of addresses.

Each rank has one *arena*: weight slots and gradient slots of all sets, ready flags, a word for
every rank that comes to its barrier, and a load matrix with a row for every rank that counts. A
kernel reaches the arena of any rank through a table of base addresses, and filling that table is
all that `virtual`, `ipc` and `symm` do differently.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError

from .arena import CHANNELS, Arena
from .base import Fabric, Geometry
from .rows import check_count, check_rows
from .structs import struct_of


class DeviceMemory(Fabric):
    """See the module.

    Parameters
    ----------
    geometry : Geometry
    device : torch.device or str
    rank : int or None
        The rank of this process; None if it owns all of them.
    """

    def __init__(self, geometry: Geometry, device: Any, rank: int | None) -> None:
        self._torch = torch = importlib.import_module("torch")
        self.geometry = geometry
        self.device = torch.device(device)
        ranks = geometry.layout.num_ranks
        self._list = ranks if rank is None else rank
        self.local_ranks = tuple(range(ranks)) if rank is None else (rank,)
        self._arena = Arena.of(geometry)
        self._keep: dict[Any, Any] = {}
        self._bases = self._map_arenas()
        self._tables = self._make_tables()

    @abstractmethod
    def _map_arenas(self) -> list[int]:
        """Allocate the arenas of local ranks, zeroed; return every rank's base address here."""

    @abstractmethod
    def _local_arena(self, rank: int) -> Any:
        """Return the arena of a local rank, uint8 [bytes]."""

    def _zeros(self, length: int, dtype: Any) -> Any:
        return self._torch.zeros(length, dtype=dtype, device=self.device)

    def _upload(self, array: NDArray[Any]) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _make_tables(self) -> dict[tuple[str, int], Any]:
        """Upload the base addresses of every part, by part and set."""
        a, bases = self._arena, np.array(self._bases, np.int64)
        out = {
            ("arrived", one): self._upload(bases + a.arrived + one * a.arrived_set)
            for one in range(CHANNELS)
        }
        for which in range(self.geometry.sets):
            out["slots", which] = self._upload(bases + a.slots + which * a.slot_set)
            out["gradients", which] = self._upload(bases + a.gradients + which * a.gradient_set)
            out["ready", which] = self._upload(bases + a.ready + which * a.ready_set)
        return out

    def _part(self, rank: int, begin: int, size: int) -> Any:
        if rank not in self.local_ranks:
            raise InputError(
                "the memory of that rank is another process's", place="rank", value=rank,
                remedy=f"give one of {self.local_ranks}",
            )  # fmt: skip
        return self._local_arena(rank)[begin : begin + size]

    def slots(self, rank: int, which: int = 0) -> Any:
        """Replica weights of a local rank, uint8 [slots, copy_bytes], rows aligned."""
        self.geometry.check_set(which)
        a, held = self._arena, self.geometry.layout.slots_per_rank
        part = self._part(rank, a.slots + which * a.slot_set, a.slot_set)
        return part.view(held, a.slot_stride)[:, : self.geometry.copy_bytes]

    def gradients(self, rank: int, which: int = 0) -> Any:
        """Replica gradients of a local rank, [slots, gradient_elements], rows aligned."""
        self.geometry.check_set(which)
        a, g, torch = self._arena, self.geometry, self._torch
        part = self._part(rank, a.gradients + which * a.gradient_set, a.gradient_set)
        dtype = torch.float32 if g.gradient_dtype == "fp32" else torch.bfloat16
        rows = part.view(g.layout.slots_per_rank, a.gradient_stride).view(dtype)
        return rows[:, : g.gradient_elements]

    def loads(self, rank: int) -> Any:
        """Load matrix of a local rank, int32 [ranks, experts]: row r is what rank r counted."""
        layout = self.geometry.layout
        size = layout.num_ranks * layout.num_experts * 4
        part = self._part(rank, self._arena.loads, size)
        return part.view(self._torch.int32).view(layout.num_ranks, layout.num_experts)

    def count_rows(self, rank: int) -> Any:
        """Addresses of a rank's row in the load matrix of every rank, int64 [ranks]."""
        row = self._arena.loads + rank * self.geometry.layout.num_experts * 4
        return self._upload(np.array(self._bases, np.int64) + row)

    def _upload_all(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return {name: self._upload(array) for name, array in arrays.items()}

    def _struct(self, names: tuple[str, ...], arrays: Mapping[str, Any], numbers: Any) -> Any:
        """Write a struct of addresses and numbers; whoever keeps it keeps the arrays too."""
        return self._upload(struct_of(names, lambda name: arrays[name].data_ptr(), numbers))

    def _kept_table(self, mains: Sequence[Any], length: int) -> Any:
        """Make `_main_table` once for the same tensors."""
        local = [mains[r] for r in self.local_ranks]
        key = ("mains", *((m.data_ptr(), m.stride(0), m.dtype) for m in local))
        if key not in self._keep:
            self._keep[key] = self._main_table(mains, length)
        return self._keep[key]

    def _main_table(self, mains: Sequence[Any], length: int) -> Any:
        """Upload the address of every local expert's row."""
        g = self.geometry
        check_count(mains, g.layout.num_ranks)
        for r in self.local_ranks:
            check_rows(mains[r], r, (int(g.layout.mains_per_rank[r]), length), self.device)
        table = np.zeros(g.layout.num_experts, np.int64)
        for e, (home, row) in enumerate(zip(g.layout.home, g.main_row, strict=True)):
            if home in self.local_ranks:
                rows = mains[home]
                table[e] = rows.data_ptr() + int(row) * rows.stride(0) * rows.element_size()
        return self._upload(table)
