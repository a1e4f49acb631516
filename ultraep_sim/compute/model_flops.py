"""Model FLOPs of a training step: what TFLOPS per GPU are counted in.

The standard count (Narayanan et al., SC 2021; PaLM's appendix): matrix products of forward and
backward, the backward twice the forward, recomputation not counted. Attention is causal and counts
only what the mask leaves, once; a count that takes the full square is higher.
"""

from __future__ import annotations

from ultraep_sim.compute.attention import core_flops
from ultraep_sim.model.shapes import ModelShape


def forward_flops(shape: ModelShape, tokens: int, sequence_length: int) -> float:
    """Floating-point operations of one forward over `tokens` tokens.

    Parameters
    ----------
    shape : ModelShape
    tokens : int
    sequence_length : int
        Tokens of a sequence; sets the context of attention.

    Returns
    -------
    float
        Multiply and add count as two.
    """
    h = shape.hidden
    experts = (shape.top_k + shape.shared_experts) * shape.expert_params + h * shape.num_experts
    params = shape.layers * shape.attention.projection_params(h)
    params += shape.moe_layers * experts + shape.dense_layers * 3 * h * shape.dense_ffn
    params += shape.vocabulary * h
    return 2.0 * params * tokens + shape.layers * core_flops(shape, tokens, sequence_length)


def step_flops(shape: ModelShape, tokens: int, sequence_length: int) -> float:
    """Floating-point operations of forward and backward over `tokens` tokens."""
    return 3.0 * forward_flops(shape, tokens, sequence_length)
