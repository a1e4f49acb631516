"""Grouped GEMM of the experts: one law, forward and backward.

The law (fitted to public kernel tables, see `model.hardware`)::

    t = t0 + max(weight bytes touched / HBM bandwidth, tiles x tile rows x 6 H I / P) + c x pairs

with tiles counted per instance. A rank without pairs launches nothing and takes no time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
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
    instances: Counts,
    *,
    dtype: str = "bf16",
    tile_rows: int = 128,
) -> Seconds:
    """Time of the experts' forward on each rank.

    Parameters
    ----------
    shape, gpu : ModelShape, GpuProfile
        What runs on what.
    pairs, tiles, instances : integer ndarray, any shape
        Pairs of a rank; sum over its instances of ceil(quota / tile_rows); instances with a quota.
    dtype : {"bf16", "fp8", "fp4"}
        Format of weights and arithmetic.
    tile_rows : int
        Rows of a GEMM tile.

    Returns
    -------
    ndarray of float64, same shape
        Seconds.

    Raises
    ------
    ProfileError
        The GPU lacks the format.
    """
    flops = tiles * (float(tile_rows) * shape.flops_per_pair)
    weights = instances * shape.expert_bytes(dtype)
    busy = np.maximum(weights / gpu.memory_rate, flops / gpu.rate("expert", "forward", dtype))
    return _with_floor(shape, gpu, pairs, busy, launches=1)


def expert_backward(
    shape: ModelShape,
    gpu: GpuProfile,
    pairs: Counts,
    tiles: Counts,
    instances: Counts,
    *,
    dtype: str = "bf16",
    tile_rows: int = 128,
) -> Seconds:
    """Time of the experts' backward (dgrad, then wgrad) on each rank.

    Each half does the forward's arithmetic. Dgrad reads the weights; wgrad reads and writes the
    fp32 gradient of every expert it touches. Parameters as in `expert_forward`.
    """
    math = tiles * (float(tile_rows) * shape.flops_per_pair)
    math = math / gpu.rate("expert", "backward", dtype)
    weights = instances * shape.expert_bytes(dtype)
    gradients = instances * (2 * GRADIENT_BYTES * shape.expert_params)
    dgrad = np.maximum(weights / gpu.memory_rate, math)
    wgrad = np.maximum(gradients / gpu.memory_rate, math)
    return _with_floor(shape, gpu, pairs, dgrad + wgrad, launches=2)


def _with_floor(
    shape: ModelShape, gpu: GpuProfile, pairs: Counts, busy: Seconds, launches: int
) -> Seconds:
    per_pair = gpu.expert_pair_ns.si * shape.hidden / _PAIR_HIDDEN
    total = launches * (gpu.expert_launch_us.si + per_pair * pairs) + busy
    return np.where(np.asarray(pairs) > 0, total, 0.0)
