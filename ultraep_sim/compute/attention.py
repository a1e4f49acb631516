"""Attention block of one layer: projections, core, and the bytes of everything elementwise.

Tokens stay on the rank they came from (data-parallel attention), so every rank takes the same
time. Attention runs in bf16 whatever the experts' format is.
"""

from __future__ import annotations

from ultraep_sim.model.dtypes import weight_bytes
from ultraep_sim.model.profiles import Direction, GpuProfile
from ultraep_sim.model.provenance import assumed
from ultraep_sim.model.shapes import ModelShape

_BF16 = 2.0

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
    return (
        _projections(shape, gpu, tokens, direction)
        + _core(shape, gpu, tokens, sequence_length, direction)
        + _elementwise(shape, gpu, tokens, direction)
    )


def dense_time(
    params: float, gpu: GpuProfile, tokens: int, direction: Direction, dtype: str = "bf16"
) -> float:
    """Time of plain GEMMs with `params` weights over `tokens` rows: arithmetic or weight bytes."""
    if tokens == 0 or params == 0:
        return 0.0
    halves = 1 if direction == "forward" else 2
    flops = 2.0 * params * tokens
    bound = params * weight_bytes(dtype) / gpu.memory_rate
    return halves * max(flops / gpu.rate("dense", direction, dtype), bound)


def _projections(shape: ModelShape, gpu: GpuProfile, tokens: int, direction: Direction) -> float:
    params = shape.attention.projection_params(shape.hidden)
    return dense_time(params, gpu, tokens, direction)


def core_flops(shape: ModelShape, tokens: int, sequence_length: int) -> float:
    """Floating-point operations of scores and weighted sum, forward, unmasked part only."""
    a = shape.attention
    return 2.0 * tokens * a.mean_context(sequence_length) * a.heads * (a.qk_dim + a.value_dim)


def _core(
    shape: ModelShape, gpu: GpuProfile, tokens: int, sequence_length: int, direction: Direction
) -> float:
    factor = 1.0 if direction == "forward" else _CORE_BACKWARD
    flops = factor * core_flops(shape, tokens, sequence_length)
    return flops / gpu.rate("attention", direction)


def _elementwise(shape: ModelShape, gpu: GpuProfile, tokens: int, direction: Direction) -> float:
    a = shape.attention
    rotary = 2 * (a.heads + a.kv_heads) * (a.rope_dim or a.head_dim)
    elements = ELEMENTWISE_PASSES.si * shape.hidden + rotary
    factor = 1.0 if direction == "forward" else 2.0
    return factor * tokens * elements * _BF16 / gpu.memory_rate
