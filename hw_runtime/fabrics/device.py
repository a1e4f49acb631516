"""What the GPU fabrics share: arenas, structs, launches. They differ in who owns which rank.

Launches go to torch's current stream. With `DeviceFabric.distribute` the host hands in the task
list, which is uploaded for each call. `DeviceFabric.distribute_plan` builds it on the device from a
plan that is there already, and keeps every struct it makes, so that it can be captured in a CUDA
graph after one call outside of it. `DeviceFabric.synchronize` waits, and raises what a kernel's
hang guard found.

This module has not run on a GPU yet. Tests run it on the CPU with the kernels' sources compiled
for the host.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ultraep_sim.fabric.tiles import TileList

from ..errors import FabricError
from ..reduction import GradientList
from .arena import CHANNELS, sm_budget
from .base import Geometry
from .memory import DeviceMemory
from .rows import check_bytes, gradient_dtype
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


class DeviceFabric(DeviceMemory):
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
        super().__init__(geometry, device, rank)
        torch = self._torch
        self._limit_ns, self._jitter = limit_ns, jitter
        self._load = load or self._open
        self._loaded: dict[str, Any] = {}
        n, chunks = capacity(geometry), geometry.chunks_per_copy
        self._pending = self._zeros(n * chunks, torch.int32)
        self._states = self._zeros(CHANNELS * STATE_WORDS, torch.int64).view(CHANNELS, STATE_WORDS)
        self._epoch = 0

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
