"""The structs that transfer kernels read, as arrays of int64, and the arrays they point to.

A struct lives in device memory, all fields 8 bytes, so that a captured launch keeps one pointer
while what it points to may change. The names and their order are those of ``kernels/tiles.cuh``,
``tasks.cu``, ``stream.cu`` and ``reduce.cu``; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.tiles import FEED, FORWARD, LEAF, TileList

from ..reduction import GradientList
from .base import Geometry

TASKS = (
    "counts", "task_expert", "task_source", "task_slot", "task_wait", "copy_offsets", "copy_rank",
    "copy_slot", "copy_instance", "list_task", "list_class", "ranks", "capacity", "tiles",
    "chunk_tiles",
)  # fmt: skip
PLAN = (
    "expert", "rank", "count", "home", "experts", "relay", "offsets", "out_rank", "out_slot",
    "scratch",
)  # fmt: skip
GRADIENTS = ("counts", "expert", "home", "row", "offsets", "rank", "slot", "main_row")
STREAM = (
    *TASKS, "list", "copy_bytes", "tile_bytes", "slot_stride", "mains", "slots", "ready", "pending",
    "state", "arrived", "limit_ns", "jitter",
)  # fmt: skip
REDUCE = (
    "counts", "expert", "home", "offsets", "rank", "slot", "mains", "slots", "slot_stride",
    "elements", "list", "ranks",
)  # fmt: skip

STAGES = 6
"""Tiles of a block in shared memory (kStages of stream.cu)."""
SHARED_HEAD = 512
SHARED_LIMIT = 227 * 1024
"""Most shared memory of a block on sm_90, sm_100 and sm_103, bytes."""
STATE_WORDS = 5
"""int64 words of StreamState: epoch, barriers, error, where, next and finished."""
EPOCH, BARRIERS, ERROR, WHERE = 0, 1, 2, 3
LIST_THREADS = 256
"""Threads of the one block of list_tasks."""
REDUCE_THREADS = 256
MAX_RANKS = 1024
"""Limit of the relay rule's packed keys (kIndexBits of tasks.cu)."""


def pack(names: tuple[str, ...], values: Mapping[str, int]) -> NDArray[np.int64]:
    """Write a struct; every field must be given."""
    return np.array([values[name] for name in names], np.int64)


def stream_shared_bytes(tile_bytes: int) -> int:
    """Dynamic shared memory of a block of stream_tiles."""
    return SHARED_HEAD + STAGES * (-(-tile_bytes // 128) * 128)


def check_tile(tile_bytes: int) -> None:
    """Refuse tiles of which a block's shared memory does not hold `STAGES`."""
    if stream_shared_bytes(tile_bytes) > SHARED_LIMIT:
        most = (SHARED_LIMIT - SHARED_HEAD) // STAGES // 128 * 128
        raise InputError(
            "tiles do not fit the shared memory of a block", place="tile_bytes", value=tile_bytes,
            remedy=f"give {most} at most",
        )  # fmt: skip


def capacity(geometry: Geometry) -> int:
    """Return the most replicas, and so the most tasks, of a plan; at least 1.

    Raises
    ------
    InputError
        More ranks than the kernels' packed keys hold.
    """
    ranks = geometry.layout.num_ranks
    if ranks > MAX_RANKS:
        raise InputError(
            "too many ranks for the device lists", place="layout.num_ranks", value=ranks,
            remedy=f"a scale-up domain of the kernels has {MAX_RANKS} at most",
        )  # fmt: skip
    return max(1, ranks * geometry.layout.slots_per_rank)


def task_numbers(geometry: Geometry) -> dict[str, int]:
    """Return the fields of TaskArrays that are numbers."""
    return {
        "ranks": geometry.layout.num_ranks,
        "capacity": capacity(geometry),
        "tiles": geometry.tiles_per_copy,
        "chunk_tiles": geometry.chunk_tiles,
    }


def task_shapes(geometry: Geometry) -> dict[str, tuple[type[np.generic], int]]:
    """Return dtype and length of every array of TaskArrays."""
    n, lists = capacity(geometry), geometry.layout.num_ranks + 1
    small = dict.fromkeys(
        ("task_expert", "task_source", "task_slot", "copy_rank", "copy_slot"),
        (np.int32, n),
    )
    return {
        **small,
        "counts": (np.int32, 2),
        "task_wait": (np.int64, n),
        "copy_offsets": (np.int64, n + 1),
        "copy_instance": (np.int64, n),
        "list_task": (np.int32, 2 * n),
        "list_class": (np.int32, 4 * lists),
    }


def plan_shapes(geometry: Geometry) -> dict[str, tuple[type[np.generic], int]]:
    """Return dtype and length of the arrays that list_tasks fills besides the tasks."""
    ranks, experts = geometry.layout.num_ranks, geometry.layout.num_experts
    n = capacity(geometry)
    scratch = 5 * (experts + n) + 2 * ranks + LIST_THREADS + 2 * n
    return {
        "offsets": (np.int64, experts + 1),
        "out_rank": (np.int32, experts + n),
        "out_slot": (np.int32, experts + n),
        "scratch": (np.int32, scratch),
    }


def gradient_shapes(geometry: Geometry) -> dict[str, tuple[type[np.generic], int]]:
    """Return dtype and length of every array of GradientArrays that list_gradients fills."""
    n = capacity(geometry)
    names = ("expert", "home", "row", "rank", "slot")
    return {
        **dict.fromkeys(names, (np.int32, n)),
        "counts": (np.int32, 2),
        "offsets": (np.int64, n + 1),
    }


def zeros_of(
    shapes: Mapping[str, tuple[type[np.generic], int]],
) -> dict[str, NDArray[np.generic]]:
    """Return arrays of the given dtypes and lengths, all zero."""
    return {name: np.zeros(length, dtype) for name, (dtype, length) in shapes.items()}


def tile_arrays(tiles: TileList, geometry: Geometry) -> dict[str, NDArray[np.generic]]:
    """Return a host-made task list as list_tasks would have left it, padded with zeros."""
    kinds = _kinds(tiles)
    tasks, copies = len(tiles.task_source), len(tiles.copy_rank)
    given: dict[str, NDArray[np.generic]] = {
        "counts": np.array([tasks, copies], np.int32),
        "copy_offsets": tiles.copy_offsets,
    }
    for name in ("task_expert", "task_source", "task_slot", "task_wait"):
        given[name] = getattr(tiles, name)
    for name in ("copy_rank", "copy_slot", "copy_instance"):
        given[name] = getattr(tiles, name)
    ranks, n = geometry.layout.num_ranks, capacity(geometry)
    order: list[int] = []
    begins = np.zeros((ranks + 1, 4), np.int32)
    for one in range(ranks + 1):
        mine = np.arange(tasks) if one == ranks else np.flatnonzero(tiles.task_source == one)
        order += [0] * (n - len(order) if one == ranks else 0)
        for which in (FEED, LEAF, FORWARD):
            begins[one, which] = len(order)
            order += mine[kinds[mine] == which].tolist()
        begins[one, 3] = len(order)
    given["list_task"] = np.array(order, np.int32)
    given["list_class"] = begins.reshape(-1)
    return _pad(task_shapes(geometry), given)


def gradient_arrays(work: GradientList, geometry: Geometry) -> dict[str, NDArray[np.generic]]:
    """Return a host-made reduction as list_gradients would have left it, padded with zeros."""
    counts = np.array([len(work.expert), len(work.rank)], np.int32)
    names = ("expert", "home", "row", "offsets", "rank", "slot")
    given: dict[str, NDArray[np.generic]] = {name: getattr(work, name) for name in names}
    return _pad(gradient_shapes(geometry), {**given, "counts": counts})


def _kinds(tiles: TileList) -> NDArray[np.int64]:
    """Return the class of each task: a main whose expert has a relay feeds it."""
    forward = tiles.task_wait >= 0
    fed = np.isin(tiles.task_expert, tiles.task_expert[forward])
    return np.where(forward, FORWARD, np.where(fed, FEED, LEAF))


def _pad(
    shapes: Mapping[str, tuple[type[np.generic], int]], given: Mapping[str, NDArray[np.generic]]
) -> dict[str, NDArray[np.generic]]:
    out = zeros_of(shapes)
    for name, array in out.items():
        array[: len(given[name])] = given[name]
    return out


def struct_of(
    names: tuple[str, ...], address: Callable[[str], int], numbers: Mapping[str, int]
) -> NDArray[np.int64]:
    """Write a struct whose fields are numbers where given, else addresses of arrays."""
    return pack(names, {n: numbers[n] if n in numbers else address(n) for n in names})
