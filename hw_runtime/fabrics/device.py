"""What the GPU fabrics share: arenas, structs, launches. They differ in who owns which rank.

Each rank has one *arena*: weight slots and gradient slots of all sets, ready flags, a word for
every rank that comes to its barrier, and a load matrix with a row for every rank that counts. A
kernel reaches the arena of any rank through a table of base addresses, and filling that table is
all that `virtual`, `ipc` and `symm` do differently.

Launches go to torch's current stream. With `DeviceFabric.distribute` the host hands in the task
list, which is uploaded for each call. `DeviceFabric.distribute_plan` builds it on the device from a
plan that is there already, and keeps every struct it makes, so that it can be captured in a CUDA
graph after one call outside of it. `DeviceFabric.synchronize` waits, and raises what a kernel's
hang guard found.

This module has not run on a GPU yet. Tests run it on the CPU with the kernels' sources compiled
for the host.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.tiles import TileList

from ..errors import FabricError
from ..reduction import GradientList
from .arena import CHANNELS, Arena, sm_budget
from .base import Fabric, Geometry
from .rows import check_bytes, check_count, check_rows, gradient_dtype
from .structs import (
    BARRIERS,
    EPOCH,
    ERROR,
    GRADIENTS,
    LIST_THREADS,
    PLAN,
    REDUCE,
    REDUCE_THREADS,
    STATE_WORDS,
    STREAM,
    TASKS,
    WHERE,
    capacity,
    check_tile,
    gradient_arrays,
    gradient_shapes,
    plan_shapes,
    stream_shared_bytes,
    struct_of,
    task_numbers,
    task_shapes,
    tile_arrays,
    zeros_of,
)

LIMIT_NS = 20_000_000_000
"""A wait inside a kernel gives up after this long: the hang guard."""
TRANSFERS, REDUCTIONS = 0, 1
"""Channels: each has its own barrier words and its own state."""
BLOCKS = 64
"""One-warp blocks of the streaming kernel; to be tuned on hardware."""


class DeviceFabric(Fabric):
    """See the module; a backend says which ranks are local and maps the arenas.

    Parameters
    ----------
    geometry : Geometry
    device : torch.device or str
    rank : int or None
        The rank of this process; None if it owns all of them.
    limit_ns : int
        Of a wait in a kernel.
    jitter : int
        Seed of random delays in the streaming kernel, to hunt races; 0 for none.
    load : callable, optional
        Opens a family of kernels; tests give the host's.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        device: Any,
        rank: int | None,
        limit_ns: int = LIMIT_NS,
        jitter: int = 0,
        load: Callable[[str], Any] | None = None,
    ) -> None:
        check_tile(geometry.tile_bytes)
        self._torch = torch = importlib.import_module("torch")
        self.geometry = geometry
        self.device = torch.device(device)
        ranks = geometry.layout.num_ranks
        self._list = ranks if rank is None else rank
        self.local_ranks = tuple(range(ranks)) if rank is None else (rank,)
        self._limit_ns, self._jitter = limit_ns, jitter
        self._arena = Arena.of(geometry)
        self._load = load or self._open
        self._loaded: dict[str, Any] = {}
        n, chunks = capacity(geometry), geometry.chunks_per_copy
        self._pending = self._zeros(n * chunks, torch.int32)
        self._states = self._zeros(CHANNELS * STATE_WORDS, torch.int64).view(CHANNELS, STATE_WORDS)
        self._epoch = 0
        self._keep: dict[Any, Any] = {}
        self._bases = self._map_arenas()
        self._tables = self._make_tables()

    @abstractmethod
    def _map_arenas(self) -> list[int]:
        """Allocate the arenas of local ranks, zeroed; return every rank's base address here."""

    @abstractmethod
    def _local_arena(self, rank: int) -> Any:
        """Return the arena of a local rank, uint8 [bytes]."""

    @abstractmethod
    def _host_barrier(self) -> None:
        """Return when every process has come here."""

    def _open(self, family: str) -> Any:
        from ..launch import open_kernels

        return open_kernels(family, self.device)

    def kernels(self, family: str) -> Any:
        """Return a family of kernels on this fabric's device, compiled and loaded once."""
        if family not in self._loaded:
            self._loaded[family] = self._load(family)
        return self._loaded[family]

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

    def distribute(self, tiles: TileList, mains: Sequence[Any], which: int = 0) -> int:
        """Write every replica of a host-made task list; see `Fabric.distribute`."""
        self.geometry.check_tiles(tiles)
        self.geometry.check_set(which)
        check_bytes(mains, self.local_ranks)
        arrays = self._upload_all(tile_arrays(tiles, self.geometry))
        # Freed when this returns: the allocator hands it out again behind the launch only.
        return self._stream(arrays, self._main_table(mains, self.geometry.copy_bytes), which)

    def distribute_plan(
        self, expert: Any, rank: Any, count: Any, mains: Sequence[Any], which: int = 0, *,
        relay: bool = True,
    ) -> int:  # fmt: skip
        """Write every replica of a plan that lies on the device, without the host knowing it.

        Parameters
        ----------
        expert, rank : int32 tensor [at least count]
            Replicas in the order the planner opened them (`hw_runtime.planner.DevicePlan`).
        count : int32 or int64 tensor [1]
            How many.
        mains, which
            See `Fabric.distribute`.
        relay : bool
            Send through relays where the rule finds a gain.
        """
        self.geometry.check_set(which)
        check_bytes(mains, self.local_ranks)
        made = self._plan_arrays(which, relay, expert, rank, count)
        kernels = self.kernels("tasks")
        kernels.launch("list_tasks", 1, LIST_THREADS, 0, made["plan"], made["tasks_struct"])
        if self.geometry.gradient_elements:
            kernels.launch(
                "list_gradients", 1, LIST_THREADS, 0,
                made["plan"], made["tasks_struct"], made["gradients_struct"],
            )  # fmt: skip
        table = self._kept_table(mains, self.geometry.copy_bytes)
        key = ("stream", table.data_ptr(), which)
        return self._stream(made["tasks"], table, which, key)

    def _plan_arrays(
        self, which: int, relay: bool, expert: Any, rank: Any, count: Any
    ) -> dict[str, Any]:
        """Return the set's arrays of a device-made list and the structs of list_tasks."""
        key = ("plan", which, relay, *(t.data_ptr() for t in (expert, rank, count)))
        if key in self._keep:
            return dict(self._keep[key])
        g = self.geometry
        own = ("made", which)
        if own not in self._keep:  # once a set: later structs point to the same arrays
            shapes = (plan_shapes(g), task_shapes(g), gradient_shapes(g))
            arrays = [self._upload_all(zeros_of(shape)) for shape in shapes]
            arrays[0]["home"] = self._upload(g.layout.home.astype(np.int32))
            arrays[2]["main_row"] = self._upload(g.main_row)
            self._keep[own] = arrays
        plan, tasks, gradients = self._keep[own]
        given = {**plan, "expert": expert, "rank": rank, "count": count}
        numbers = {"experts": g.layout.num_experts, "relay": int(relay)}
        made = {
            "plan": self._struct(PLAN, given, numbers),
            "tasks_struct": self._struct(TASKS, tasks, task_numbers(self.geometry)),
            "gradients_struct": self._struct(GRADIENTS, gradients, {}),
            "tasks": tasks,
            "gradients": gradients,
        }
        self._keep[key] = made
        return made

    def _stream(
        self, tasks: Mapping[str, Any], table: Any, which: int, key: tuple[Any, ...] | None = None
    ) -> int:
        """Launch the streaming kernel; its struct is kept under ``key``, if there is one."""
        made = self._keep.get(key)
        if made is None:
            made = self._stream_struct(tasks, table, which)
            if key is not None:
                self._keep[key] = made
        shared = stream_shared_bytes(self.geometry.tile_bytes)
        self.kernels("stream").launch("stream_tiles", BLOCKS, 32, shared, made)
        self._epoch += 1
        return self._epoch

    def _stream_struct(
        self, tasks: Mapping[str, Any], table: Any, which: int, channel: int = TRANSFERS
    ) -> Any:
        arrays = {
            **tasks,
            "mains": table,
            "slots": self._tables["slots", which],
            "ready": self._tables["ready", which],
            "arrived": self._tables["arrived", channel],
            "pending": self._pending,
            "state": self._states[channel],
        }
        return self._struct(STREAM, arrays, self._stream_numbers())

    def acquire(self, tiles: TileList, epoch: int, rank: int, which: int = 0) -> Any:
        """Return a rank's slots: whatever follows on this stream finds them whole.

        The streaming kernel itself ends only when the flags of its rank's replicas have come.
        """
        return self.slots(rank, which)

    def release(self, rank: int, which: int = 0) -> None:
        """Nothing to record: `barrier`, on the stream that read, is what writers wait for."""
        self.geometry.check_set(which)

    def reduce(
        self, work: GradientList, mains: Sequence[Any], which: int = 0, *, sms: int | None = None
    ) -> None:
        """Add replica gradients to their mains and zero them; see `Fabric.reduce`."""
        self.geometry.check_set(which)
        lists = self._upload_all(gradient_arrays(work, self.geometry))
        table = self._main_table(mains, self.geometry.gradient_elements)
        self._reduce(lists, mains, table, which, sms)

    def reduce_plan(self, mains: Sequence[Any], which: int = 0, *, sms: int | None = None) -> None:
        """Reduce the gradients of what `distribute_plan` last listed for this set."""
        self.geometry.check_set(which)
        if ("made", which) not in self._keep:
            raise FabricError(f"no plan was distributed on the device for set {which}")
        table = self._kept_table(mains, self.geometry.gradient_elements)
        key = ("reduce", table.data_ptr(), which)
        self._reduce(self._keep["made", which][2], mains, table, which, sms, key)

    def _reduce(
        self, lists: Mapping[str, Any], mains: Sequence[Any], table: Any, which: int,
        sms: int | None, key: tuple[Any, ...] | None = None,
    ) -> None:  # fmt: skip
        dtype = gradient_dtype(mains[self.local_ranks[0]])
        made = self._keep.get(key)
        if made is None:
            arrays = {**lists, "mains": table, "slots": self._tables["gradients", which]}
            numbers = {
                "slot_stride": self._arena.gradient_stride,
                "elements": self.geometry.gradient_elements,
                "list": self._list,
                "ranks": self.geometry.layout.num_ranks,
            }
            made = self._struct(REDUCE, arrays, numbers)
            if key is not None:
                self._keep[key] = made
        kernel = f"reduce_{dtype}_{self.geometry.gradient_dtype}"
        self._barrier(REDUCTIONS)
        self.kernels("reduce").launch(
            kernel, sm_budget(self._torch, self.device, sms), REDUCE_THREADS, 0, made
        )
        self._barrier(REDUCTIONS)

    def barrier(self) -> None:
        """Launch a barrier of all ranks; within one process the stream is one already."""
        self._barrier(TRANSFERS)

    def _barrier(self, channel: int) -> None:
        # A reduction runs on a stream of its own while the next layer's barrier may be under way:
        # with one counter for both, one arrival would let two barriers pass.
        if self._list == self.geometry.layout.num_ranks:
            return
        key = ("barrier", channel)
        if key not in self._keep:
            unused = self._upload_all(zeros_of(task_shapes(self.geometry)))
            self._keep["unused", channel] = unused
            self._keep[key] = self._stream_struct(unused, self._tables["slots", 0], 0, channel)
        self.kernels("stream").launch("rank_barrier", 1, 32, 0, self._keep[key])

    def synchronize(self) -> None:
        """Wait for the device.

        Raises
        ------
        FabricError
            A kernel waited longer than its limit: a rank is missing, or runs something else.
        """
        if self.device.type == "cuda":
            self._torch.cuda.synchronize(self.device)
        for channel, state in enumerate(self._states.cpu().tolist()):
            if not state[ERROR]:
                continue
            what = f"in epoch {state[EPOCH] + 1} for flag {state[WHERE]} that nobody raised"
            if channel == REDUCTIONS:
                what = f"at barrier {state[BARRIERS]} of the reductions for rank {state[WHERE]}"
            raise FabricError(
                f"rank {self.local_ranks[0]} waited {self._limit_ns / 1e9:g} s {what}; every "
                "process must make the same calls in the same order; reset() before going on"
            )

    def reset(self) -> None:
        """Forget epochs and flags after an aborted replay; collective."""
        if self.device.type == "cuda":
            self._torch.cuda.synchronize(self.device)
        self._host_barrier()
        self._states.zero_()
        self._pending.zero_()
        for rank in self.local_ranks:
            self._part(rank, self._arena.ready, self._arena.total - self._arena.ready).zero_()
        self._epoch = 0
        if self.device.type == "cuda":
            self._torch.cuda.synchronize(self.device)
        self._host_barrier()

    def close(self) -> None:
        """Wait for the device and drop every buffer; collective."""
        if self.device.type == "cuda":
            self._torch.cuda.synchronize(self.device)
        self._host_barrier()
        self._keep.clear()

    def _upload_all(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return {name: self._upload(array) for name, array in arrays.items()}

    def _struct(self, names: tuple[str, ...], arrays: Mapping[str, Any], numbers: Any) -> Any:
        """Write a struct of addresses and numbers; whoever keeps it keeps the arrays too."""
        return self._upload(struct_of(names, lambda name: arrays[name].data_ptr(), numbers))

    def _stream_numbers(self) -> dict[str, int]:
        return {
            **task_numbers(self.geometry),
            "list": self._list,
            "copy_bytes": self.geometry.copy_bytes,
            "tile_bytes": self.geometry.tile_bytes,
            "slot_stride": self._arena.slot_stride,
            "limit_ns": self._limit_ns,
            "jitter": self._jitter,
        }

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
