"""What every token passes besides attention: the gate and the shared experts."""

from __future__ import annotations

from ultraep_sim.compute.attention import Rows, dense_time
from ultraep_sim.model.profiles import Direction, GpuProfile
from ultraep_sim.model.shapes import ModelShape

# fp32 logits are written, read by softmax or sigmoid, read again by top-k.
_GATE_PASSES = 3
_FP32 = 4.0


def gate_time(
    shape: ModelShape, gpu: GpuProfile, tokens: Rows, direction: Direction = "forward"
) -> Rows:
    """Time in seconds of scoring all experts and choosing top-k, on one rank or on each."""
    logits = _GATE_PASSES * tokens * shape.num_experts * _FP32 / gpu.memory_rate
    return dense_time(shape.hidden * shape.num_experts, gpu, tokens, direction) + logits


def shared_expert_time(
    shape: ModelShape,
    gpu: GpuProfile,
    tokens: Rows,
    direction: Direction = "forward",
    dtype: str = "bf16",
) -> Rows:
    """Time in seconds of the shared experts, which every token visits; 0 where there are none."""
    return dense_time(shape.shared_experts * shape.expert_params, gpu, tokens, direction, dtype)
