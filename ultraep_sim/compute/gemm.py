"""Grouped GEMM of the experts: one law, forward and backward.

The law (fitted to public kernel tables, see `model.hardware`)::

    t = t0 + sum over instances of max(weight bytes / HBM bandwidth,
                                       tiles x tile rows x 6 H I / P) + c x pairs

The maximum belongs to the instance: a hot expert is bound by arithmetic while a cold one of the
same rank waits for its weights (docs/silicon.md, "Skewed loads"). Where all instances of a rank
are alike it is the maximum of the rank's sums, and never less. A rank without pairs launches
nothing and takes no time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ultraep_sim.model.dtypes import GRADIENT_BYTES
from ultraep_sim.model.profiles import GpuProfile
from ultraep_sim.model.shapes import ModelShape

Counts = NDArray[np.integer[Any]]
Seconds = NDArray[np.float64]

# The hidden size at which `GpuProfile.expert_pair_ns` is stated; permutation traffic grows with it.
_PAIR_HIDDEN = 4096


def expert_forward(
    shape: ModelShape,
    gpu: GpuProfile,
    pairs: Counts,
    tiles: Counts,
    *,
    dtype: str = "bf16",
    tile_rows: int = 128,
) -> Seconds:
    """Time of the experts' forward on each rank.

    Parameters
    ----------
    shape, gpu : ModelShape, GpuProfile
        What runs on what.
    pairs : integer ndarray, any shape
        Pairs of a rank.
    tiles : integer ndarray, the shape of ``pairs`` and one axis more
        Tiles of each of its instances, ceil(quota / tile_rows); zero where there is none.
    dtype : {"bf16", "fp8", "fp4"}
        Format of weights and arithmetic.
    tile_rows : int
        Rows of a GEMM tile.

    Returns
    -------
    ndarray of float64, the shape of ``pairs``
        Seconds.

    Raises
    ------
    ProfileError
        The GPU lacks the format.
    """
    tile_s = _tile_flops(shape, tile_rows) / gpu.rate("expert", "forward", dtype)
    busy = _rooflines(tiles, shape.expert_bytes(dtype) / gpu.memory_rate, tile_s)
    return _with_floor(shape, gpu, pairs, busy, launches=1)


def expert_backward(
    shape: ModelShape,
    gpu: GpuProfile,
    pairs: Counts,
    tiles: Counts,
    *,
    dtype: str = "bf16",
    tile_rows: int = 128,
) -> Seconds:
    """Time of the experts' backward (dgrad, then wgrad) on each rank.

    Each half does the forward's arithmetic. Dgrad reads the weights; wgrad reads and writes the
    fp32 gradient of every expert it touches. Parameters as in `expert_forward`.
    """
    tile_s = _tile_flops(shape, tile_rows) / gpu.rate("expert", "backward", dtype)
    dgrad = _rooflines(tiles, shape.expert_bytes(dtype) / gpu.memory_rate, tile_s)
    gradient = 2 * GRADIENT_BYTES * shape.expert_params
    wgrad = _rooflines(tiles, gradient / gpu.memory_rate, tile_s)
    return _with_floor(shape, gpu, pairs, dgrad + wgrad, launches=2)


def _tile_flops(shape: ModelShape, tile_rows: int) -> float:
    return float(tile_rows) * shape.flops_per_pair


def _rooflines(tiles: Counts, memory_s: float, tile_s: float) -> Seconds:
    """Sum max(memory, tiles x tile) over the instances of every rank."""
    *ranks, instances = tiles.shape
    found: Seconds = _sum_rooflines(tiles.reshape(-1, instances), memory_s, tile_s)
    return found.reshape(ranks)


@njit(cache=True)
def _sum_rooflines(tiles, memory_s, tile_s):  # type: ignore[no-untyped-def]  # numba kernel
    out = np.zeros(tiles.shape[0])
    for rank in range(tiles.shape[0]):
        for i in range(tiles.shape[1]):
            if tiles[rank, i] > 0:
                out[rank] += max(memory_s, tiles[rank, i] * tile_s)
    return out


def _with_floor(
    shape: ModelShape, gpu: GpuProfile, pairs: Counts, busy: Seconds, launches: int
) -> Seconds:
    per_pair = gpu.expert_pair_ns.si * shape.hidden / _PAIR_HIDDEN
    total = launches * (gpu.expert_launch_us.si + per_pair * pairs) + busy
    return np.where(np.asarray(pairs) > 0, total, 0.0)
