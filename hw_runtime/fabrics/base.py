"""The interface of a fabric, the shape of its buffers, and how one is opened by name.

Every rank owns, once for all MoE layers, ``sets`` sets of redundant slots for replica weights, as
many for replica gradients, and a ready flag for every chunk of every slot. Weights are bytes: what
they mean (bf16, fp16, fp8 with scales) is the caller's. Main weights and main gradients stay where
the caller has them, one row for each main expert of a rank, in ascending expert order.

Protocol of one set of slots, the same on every backend:

1. `Fabric.barrier`: nobody reads the set any more. Forward, the next count exchange is one.
2. `Fabric.distribute` writes replicas. The *epoch* is the number of distributions so far; it only
   grows, and every rank counts it for itself, so that a CUDA graph can be replayed. A writer
   completes a tile's stores, then releases the flag of the chunk with the epoch in it.
3. `Fabric.acquire` waits for the flags of the replicas that a rank holds, then hands out the slots;
   `Fabric.release` gives them back.

In the backward pass replica gradients are written into the gradient slots, `Fabric.reduce` begins
with a barrier (all replicas are written) and ends with one (all are zero again).
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.tiles import CHUNK_TILES, TILE_BYTES, TileList
from ultraep_sim.planning.layout import EPLayout

from ..reduction import GradientList

FABRICS = {
    "host": ("hw_runtime.fabrics.host", "HostFabric"),
    "virtual": ("hw_runtime.fabrics.virtual", "VirtualFabric"),
    "ipc": ("hw_runtime.fabrics.ipc", "IpcFabric"),
    "symm": ("hw_runtime.fabrics.symm", "SymmFabric"),
}
GRADIENT_BYTES = {"fp32": 4, "bf16": 2}
ALIGN = 128
"""Rows of a slot arena begin at multiples of this: a bulk copy needs 16, a cache line has 128."""


@dataclass(frozen=True)
class Geometry:
    """What every rank allocates.

    Parameters
    ----------
    layout : EPLayout
        One scale-up domain.
    copy_bytes : int
        Bytes of one expert's weights; any number.
    gradient_elements : int
        Elements of one expert's gradient; 0 for inference.
    gradient_dtype : "fp32" or "bf16"
        Of the replica gradients in the slots.
    sets : int
        Micro-batches in flight: each has its own set of slots.
    tile_bytes, chunk_tiles : int
        As the task lists have them.

    Raises
    ------
    InputError
        A size out of range, or a layout of several domains.
    """

    layout: EPLayout
    copy_bytes: int
    gradient_elements: int = 0
    gradient_dtype: Literal["fp32", "bf16"] = "fp32"
    sets: int = 1
    tile_bytes: int = TILE_BYTES
    chunk_tiles: int = CHUNK_TILES
    main_row: NDArray[np.int32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("copy_bytes", "sets", "tile_bytes", "chunk_tiles"):
            _positive(name, getattr(self, name))
        if self.gradient_elements:
            _positive("gradient_elements", self.gradient_elements)
        if self.gradient_dtype not in GRADIENT_BYTES:
            raise InputError(
                "unknown gradient dtype",
                place="gradient_dtype",
                value=self.gradient_dtype,
                remedy="give fp32 or bf16",
            )
        if self.layout.num_domains != 1:
            raise InputError(
                "more ranks than the scale-up domain has",
                place="layout.num_ranks",
                value=self.layout.num_ranks,
                remedy=f"make one fabric for each domain of {self.layout.domain} ranks",
            )
        home = self.layout.home
        row = np.empty(len(home), np.int32)
        for r in range(self.layout.num_ranks):
            mine = np.flatnonzero(home == r)
            row[mine] = np.arange(len(mine))
        object.__setattr__(self, "main_row", row)

    @property
    def tiles_per_copy(self) -> int:
        """Tiles of one expert's weights."""
        return -(-self.copy_bytes // self.tile_bytes)

    @property
    def chunks_per_copy(self) -> int:
        """Ready flags of one slot."""
        return -(-self.tiles_per_copy // self.chunk_tiles)

    @cached_property
    def slot_stride(self) -> int:
        """Bytes from one slot to the next."""
        return -(-self.copy_bytes // ALIGN) * ALIGN

    def check_tiles(self, tiles: TileList) -> None:
        """Refuse a task list that was made for other buffers."""
        for name in ("copy_bytes", "tile_bytes", "chunk_tiles"):
            if getattr(tiles, name) != getattr(self, name):
                raise InputError(
                    "the task list was made for other buffers",
                    place=f"tiles.{name}",
                    value=getattr(tiles, name),
                    remedy=f"make it with {name}={getattr(self, name)}",
                )
        if tiles.num_ranks != self.layout.num_ranks:
            raise InputError(
                "the task list was made for another group",
                place="tiles.num_ranks",
                value=tiles.num_ranks,
                remedy=f"make it for {self.layout.num_ranks} ranks",
            )
        slots = np.concatenate((tiles.copy_slot, tiles.task_slot))
        if slots.size and (slots.max() >= self.layout.slots_per_rank or tiles.copy_slot.min() < 0):
            raise InputError(
                "a copy goes to a slot that does not exist",
                place="tiles.copy_slot",
                value=int(slots.max()),
                remedy=f"plan with {self.layout.slots_per_rank} slots per rank",
            )

    def check_set(self, which: int) -> None:
        """Refuse a set of slots that does not exist."""
        if not 0 <= which < self.sets:
            raise InputError(
                "no such set of slots",
                place="which",
                value=which,
                remedy=f"give 0..{self.sets - 1}",
            )


def _positive(name: str, value: object) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or int(value) < 1:  # type: ignore[call-overload]  # an integer: checked before
        raise InputError("not a positive integer", place=name, value=value, remedy="give 1 or more")


class Fabric(ABC):
    """Buffers of an EP group, and the transfers between them.

    Arrays are numpy on the host and torch tensors on a GPU. A method that is called *collective*
    is called by every process of the group, in the same order.

    Attributes
    ----------
    geometry : Geometry
    local_ranks : tuple of int
        Ranks whose memory this process owns.
    """

    geometry: Geometry
    local_ranks: tuple[int, ...]

    @abstractmethod
    def slots(self, rank: int, which: int = 0) -> Any:
        """Replica weights of a local rank, uint8 [slots, copy_bytes]."""

    @abstractmethod
    def gradients(self, rank: int, which: int = 0) -> Any:
        """Replica gradients of a local rank, [slots, gradient_elements].

        float32; bf16 as torch.bfloat16 on a GPU and as its uint16 bits on the host.
        """

    @abstractmethod
    def distribute(self, tiles: TileList, mains: Sequence[Any], which: int = 0) -> int:
        """Write every replica of a task list; collective.

        Parameters
        ----------
        tiles : TileList
        mains : sequence, one entry a rank
            uint8 [mains of the rank, copy_bytes] for local ranks; anything for the others.
        which : int
            Set of slots.

        Returns
        -------
        int
            The epoch, to be handed to `acquire`.
        """

    @abstractmethod
    def acquire(self, tiles: TileList, epoch: int, rank: int, which: int = 0) -> Any:
        """Wait until the replicas that a local rank holds are whole; return its `slots`."""

    @abstractmethod
    def release(self, rank: int, which: int = 0) -> None:
        """Say that a local rank reads its slots no more."""

    @abstractmethod
    def reduce(
        self, work: GradientList, mains: Sequence[Any], which: int = 0, *, sms: int | None = None
    ) -> None:
        """Add replica gradients to their mains in fixed order and zero them; collective.

        Parameters
        ----------
        work : GradientList
        mains : sequence, one entry a rank
            float32 or bf16 [mains of the rank, gradient_elements] of local ranks, added in fp32.
        which : int
        sms : int, optional
            Thread blocks of a home; default every SM. The host has none to limit.
        """

    @abstractmethod
    def barrier(self) -> None:
        """Return when every rank has come here; collective."""

    def synchronize(self) -> None:  # noqa: B027  # the host has nothing to wait for
        """Wait until everything asked for is done; raise what went wrong on the way.

        Raises
        ------
        FabricError
            A rank waited too long for another.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget epochs and flags after an aborted replay; collective."""

    @abstractmethod
    def close(self) -> None:
        """Free buffers and handles; collective."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_fabric(name: str, geometry: Geometry, **options: Any) -> Fabric:
    """Open a backend by name.

    Raises
    ------
    InputError
        An unknown name.
    MissingHardwareError
        In one sentence, what this machine lacks.
    """
    if name not in FABRICS:
        raise InputError(
            "unknown fabric", place="fabric", value=name, remedy=f"give one of {', '.join(FABRICS)}"
        )
    module, cls = FABRICS[name]
    fabric = getattr(importlib.import_module(module), cls)(geometry, **options)
    if not isinstance(fabric, Fabric):
        raise TypeError(f"{cls} is no Fabric")
    return fabric
