"""Attention block of one layer: projections, core, and the bytes of everything elementwise.

Tokens stay on the rank they came from (data-parallel attention). Here every rank has as many, of
sequences of one length; ranks that prefill chunks of different prompts are in
`ultraep_sim.compute.prefill_attention`, by the same laws. Attention runs in bf16 whatever the
experts' format is.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.model.attention import AttentionShape
from ultraep_sim.model.dtypes import weight_bytes
from ultraep_sim.model.profiles import Direction, GpuProfile
from ultraep_sim.model.provenance import assumed
from ultraep_sim.model.shapes import ModelShape

_BF16 = 2.0

#: Rows of one rank, or of each of several: the result is a float, or as many.
Rows = TypeVar("Rows", float, NDArray[Any])

#: Reads and writes of a [tokens, hidden] array: two norms (2 each) and two residual sums (3 each).
ELEMENTWISE_PASSES = assumed(10, "1", "two norms and two residual sums, unfused", 6, 16)

#: Attention backward recomputes the scores: five matrix products against two.
_CORE_BACKWARD = 2.5


def attention_time(
    shape: ModelShape,
    gpu: GpuProfile,
    tokens: int,
    sequence_length: int,
    direction: Direction = "forward",
) -> float:
    """Time of projections, attention core, norms and residuals of one layer on one rank.

    Parameters
    ----------
    shape, gpu : ModelShape, GpuProfile
        What runs on what.
    tokens : int
        Tokens of the rank in this micro-batch.
    sequence_length : int
        Tokens of a sequence; causal context is averaged over its positions (and over layers where
        only some have a sliding window), also where the micro-batch is a chunk of it.
    direction : {"forward", "backward"}
        Backward does twice the projections' arithmetic and 2.5 times the core's.

    Returns
    -------
    float
        Seconds.
    """
    core = core_flops(shape, tokens, sequence_length) / gpu.rate("attention", direction)
    return (
        projections_time(shape, gpu, tokens, direction)
        + (core if direction == "forward" else _CORE_BACKWARD * core)
        + elementwise_time(shape, gpu, tokens, direction)
    )


def dense_time(
    params: float, gpu: GpuProfile, tokens: Rows, direction: Direction, dtype: str = "bf16"
) -> Rows:
    """Time of plain GEMMs with `params` weights over `tokens` rows: arithmetic or weight bytes.

    A float for one number of rows, float64 [R] for one of each of R ranks; no rows take no time.
    """
    if params == 0:
        return 0.0 * tokens
    halves = 1 if direction == "forward" else 2
    flops = 2.0 * params * tokens
    bound = params * weight_bytes(dtype) / gpu.memory_rate
    busy = halves * np.maximum(flops / gpu.rate("dense", direction, dtype), bound)
    busy = np.where(np.asarray(tokens) > 0, busy, 0.0)
    return busy if isinstance(tokens, np.ndarray) else float(busy)


def projections_time(
    shape: ModelShape, gpu: GpuProfile, tokens: Rows, direction: Direction = "forward"
) -> Rows:
    """Time in seconds of the projections of one layer, that of the output included."""
    params = shape.attention.projection_params(shape.hidden)
    return dense_time(params, gpu, tokens, direction)


def core_flops(shape: ModelShape, tokens: int, sequence_length: int) -> float:
    """Floating-point operations of scores and weighted sum, forward, unmasked part only."""
    a = shape.attention
    return score_flops(a, tokens * a.mean_context(sequence_length))


def score_flops(attention: AttentionShape, keys: Rows) -> Rows:
    """Operations of scores and weighted sum of all heads, for `keys` summed over the queries."""
    return 2.0 * keys * attention.heads * (attention.qk_dim + attention.value_dim)


def elementwise_time(
    shape: ModelShape, gpu: GpuProfile, tokens: Rows, direction: Direction = "forward"
) -> Rows:
    """Time in seconds of norms, residuals and rotary embedding of one layer."""
    a = shape.attention
    rotary = 2 * (a.heads + a.kv_heads) * (a.rope_dim or a.head_dim)
    elements = ELEMENTWISE_PASSES.si * shape.hidden + rotary
    factor = 1.0 if direction == "forward" else 2.0
    return factor * tokens * elements * _BF16 / gpu.memory_rate
