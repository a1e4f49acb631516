"""Run transfer kernels on the host: all ranks' launches at once, copies that land late.

The sources are those that the GPU runs; shim/grid.h stands in for the PTX.
"""

from __future__ import annotations

import ctypes
import re
from functools import lru_cache

import numpy as np
from host_kernels import SHIM, _build

from hw_runtime.compile import inline
from hw_runtime.fabrics.base import Geometry
from hw_runtime.fabrics.structs import (
    GRADIENTS,
    LIST_THREADS,
    PLAN,
    REDUCE,
    STATE_WORDS,
    STREAM,
    TASKS,
    capacity,
    gradient_arrays,
    gradient_shapes,
    plan_shapes,
    struct_of,
    task_numbers,
    task_shapes,
    tile_arrays,
)

_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)'
)
POISON = 0xA5
FAULTS = {
    "published before stored": (
        "hw::bulk_wait<kStoring - 1>();",
        "if (shim::broken != 1) hw::bulk_wait<kStoring - 1>();",
    ),
    "drained before stored": (
        "hw::bulk_wait<0>();",
        "if (shim::broken != 2) hw::bulk_wait<0>();",
    ),
    "flag with the first tile": (
        "hw::add_gpu(counter, 1) + 1 == all",
        "hw::add_gpu(counter, 1) + 1 == all || shim::broken == 3",
    ),
    "old flags count": (">= least;", "+ (shim::broken == 4) >= least;"),
    "waits while holding tiles": (
        "worker.drain();  // nobody",
        "if (shim::broken != 5) worker.drain();  // nobody",
    ),
    "no tail": ("tile.bytes - tile.bulk);", "shim::broken == 6 ? 0 : tile.bytes - tile.bulk);"),
    "stage reused": (
        "> kStages - kStoring) worker",
        "> (shim::broken == 7 ? kStages + 1 : kStages - kStoring)) worker",
    ),
}
"""Bugs that can be switched on in the streaming kernel, by text: to prove that tests notice."""
PROBLEMS = {1: "threads wait where nobody comes", 2: "too many steps: the kernels hang"}


class GridKernels:
    """``run(name, args_of_each_grid, blocks=, threads=, order=)``; an argument is an array."""

    def __init__(self, family: str) -> None:
        replace = {"ptx.cuh": (SHIM / "grid.h").read_text(), "ptx_copy.cuh": ""}
        source = inline(family, replace=replace)
        if '"grid.h"' not in source and "namespace shim" not in source:  # only ptx_copy included
            source = replace["ptx.cuh"] + source
        for old, new in FAULTS.values() if family == "stream" else ():
            assert source.count(old) == 1, old
            source = source.replace(old, new)
        glue = [source]
        for name, declared in _KERNEL.findall(source):
            types = [re.sub(r"\s*\w+$", "", " ".join(one.split())) for one in declared.split(",")]
            cast = ", ".join(
                f"({kind})(intptr_t)args[grid * {len(types)} + {i}]" for i, kind in enumerate(types)
            )
            glue.append(
                f'extern "C" int grid_{name}(u32 grids, u32 count, u32 threads, u32 order, '
                "u64 most, const i64* args) {\n  "
                "return shim::launch(grids, count, threads, order, most, "
                f"[=](u32 grid) {{ {name}({cast}); }});\n}}"
            )
        source = "#include <cstdint>\n" + "\n".join(glue)
        self._library = ctypes.CDLL(str(_build(f"grid-{family}", source)))

    def break_with(self, fault: str | None) -> None:
        self._library.grid_break(1 + list(FAULTS).index(fault) if fault else 0)

    def run(self, name, grids, *, blocks=1, threads=32, order=0, most=5_000_000):
        flat = np.array(
            [a.ctypes.data if isinstance(a, np.ndarray) else a for args in grids for a in args],
            np.int64,
        )
        result = getattr(self._library, f"grid_{name}")(
            len(grids),
            blocks,
            threads,
            order,
            ctypes.c_uint64(most),
            ctypes.c_void_p(flat.ctypes.data),
        )
        assert result == 0, f"{name}: {PROBLEMS[result]}"


@lru_cache
def grid_kernels(family: str) -> GridKernels:
    return GridKernels(family)


def zeros(shapes):
    return {name: np.zeros(length, dtype) for name, (dtype, length) in shapes.items()}


def struct(names, arrays, **numbers):
    """Write a struct that points to numpy arrays; whoever calls keeps both alive."""
    return struct_of(names, lambda name: arrays[name].ctypes.data, numbers)


def listed(geometry: Geometry, solution, home, relay: bool, order: int = 0):
    """Run list_tasks and list_gradients; return their arrays by struct."""
    plan = zeros(plan_shapes(geometry))
    n = len(solution.expert)
    plan |= {
        "expert": np.append(solution.expert, np.int32(0)).astype(np.int32),  # never empty
        "rank": np.append(solution.rank, np.int32(0)).astype(np.int32),
        "count": np.array([n], np.int32),
        "home": np.ascontiguousarray(home, np.int32),
    }
    plan["scratch"][:] = -7
    tasks, gradients = zeros(task_shapes(geometry)), zeros(gradient_shapes(geometry))
    gradients["main_row"] = geometry.main_row
    structs = [
        struct(PLAN, plan, experts=geometry.layout.num_experts, relay=int(relay)),
        struct(TASKS, tasks, **task_numbers(geometry)),
        struct(GRADIENTS, gradients),
    ]
    kernels = grid_kernels("tasks")
    kernels.run("list_tasks", [structs[:2]], threads=64, order=order)
    kernels.run("list_gradients", [structs], threads=64, order=order)
    assert LIST_THREADS >= 64
    return plan, tasks, gradients


class Ranks:
    """Buffers of all ranks, and the structs of one launch a rank."""

    def __init__(self, geometry: Geometry, mains, tasks=None, *, misalign: int = 0) -> None:
        self.g = geometry
        ranks, slots = geometry.layout.num_ranks, geometry.layout.slots_per_rank
        chunks, n = geometry.chunks_per_copy, capacity(geometry)
        self.slots = aligned((ranks, slots, geometry.slot_stride), np.uint8, POISON)
        self.ready = np.zeros((ranks, slots * chunks), np.uint64)
        self.arrived = np.zeros((ranks, ranks), np.uint64)
        self.pending = np.zeros((ranks, n * chunks), np.uint32)
        self.state = np.zeros((ranks, STATE_WORDS), np.uint64)
        self.tasks = tasks
        self.mains = [_shifted(rows, misalign) for rows in mains]
        home, row = geometry.layout.home, geometry.main_row
        self.main_table = np.array(
            [self.mains[home[e]][row[e]].ctypes.data for e in range(len(home))], np.int64
        )
        self.slot_table = np.array([one.ctypes.data for one in self.slots], np.int64)
        self.ready_table = np.array([one.ctypes.data for one in self.ready], np.int64)
        self.arrived_table = np.array([one.ctypes.data for one in self.arrived], np.int64)

    def use(self, tiles) -> None:
        self.tasks = tile_arrays(tiles, self.g)

    def structs(self, *, together: bool = False, limit: int = 10**12):
        """One struct a rank, or a single one for all ranks in one launch."""
        ranks = self.g.layout.num_ranks
        out = []
        for r in [ranks] if together else range(ranks):
            arrays = {
                **self.tasks,
                "mains": self.main_table,
                "slots": self.slot_table,
                "ready": self.ready_table,
                "arrived": self.arrived_table,
                "pending": self.pending[0 if together else r],
                "state": self.state[0 if together else r],
            }
            numbers = {
                **task_numbers(self.g),
                "list": r,
                "copy_bytes": self.g.copy_bytes,
                "tile_bytes": self.g.tile_bytes,
                "slot_stride": self.g.slot_stride,
                "limit_ns": limit,
                "jitter": 0,
            }
            out.append([struct(STREAM, arrays, **numbers)])
        return out

    def stream(self, order: int, *, blocks=2, together=False, limit=10**12) -> None:
        grid_kernels("stream").run(
            "stream_tiles",
            self.structs(together=together, limit=limit),
            blocks=blocks,
            order=order,
        )

    def weights(self, rank: int, slot: int) -> np.ndarray:
        return self.slots[rank, slot, : self.g.copy_bytes]


def aligned(shape, dtype, fill):
    """Return an array whose data begins at a multiple of 128 bytes."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 128, np.uint8)
    begin = -raw.ctypes.data % 128
    out = raw[begin : begin + size].view(dtype).reshape(shape)
    out[...] = fill
    return out


def _shifted(rows, by: int):
    """Copy rows to 16-byte aligned places, or ``by`` bytes beside them."""
    stride = -(-rows.shape[1] // 16) * 16 + 16
    out = aligned((max(1, rows.shape[0]), stride), np.uint8, 0x5A)[: rows.shape[0]]
    view = out[:, by : by + rows.shape[1]]
    view[...] = rows
    return view


def reduce_struct(geometry: Geometry, work, mains_table, slots_table, stride: int, which: int):
    arrays = {**gradient_arrays(work, geometry), "mains": mains_table, "slots": slots_table}
    made = struct(
        REDUCE, arrays, slot_stride=stride, elements=geometry.gradient_elements, list=which,
        ranks=geometry.layout.num_ranks,
    )  # fmt: skip
    return made, arrays
