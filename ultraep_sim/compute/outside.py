"""What a step, of training or of a prefill server, computes outside its MoE layers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.compute.attention import Rows, attention_time, dense_time
from ultraep_sim.model.profiles import Direction, GpuProfile
from ultraep_sim.model.provenance import assumed
from ultraep_sim.model.shapes import ModelShape

_BF16, _FP32 = 2.0, 4.0

#: Times the logits of a micro-batch pass HBM in a forward with its loss, and again in a backward.
LOGIT_PASSES = assumed(4, "1", "fp32 logits written, read by the softmax twice, once by loss", 2, 8)

#: Bytes a parameter costs an Adam step in mixed precision.
ADAM_BYTES = assumed(
    30, "1", "fp32 gradient, master and two moments read; master, moments, bf16 written", 26, 44
)


def dense_layer_time(
    shape: ModelShape,
    gpu: GpuProfile,
    tokens: int,
    sequence_length: int,
    direction: Direction = "forward",
) -> float:
    """Time of one layer with a dense feed-forward network, on one rank.

    Parameters
    ----------
    shape, gpu : ModelShape, GpuProfile
        What runs on what.
    tokens, sequence_length : int
        Tokens of the rank in one micro-batch; of one sequence.
    direction : {"forward", "backward"}

    Returns
    -------
    float
        Seconds.
    """
    network = _network_time(shape, gpu, tokens, direction)
    return attention_time(shape, gpu, tokens, sequence_length, direction) + network


def _network_time(shape: ModelShape, gpu: GpuProfile, tokens: Rows, direction: Direction) -> Rows:
    return dense_time(3.0 * shape.hidden * shape.dense_ffn, gpu, tokens, direction)


def embedding_time(shape: ModelShape, gpu: GpuProfile, tokens: Rows) -> Rows:
    """Time of looking up (or adding to the gradient of) one row a token, in seconds."""
    passed = 2 * shape.hidden * _BF16 if shape.vocabulary else 0.0
    return tokens * passed / gpu.memory_rate


def head_time(
    shape: ModelShape, gpu: GpuProfile, tokens: int, direction: Direction = "forward"
) -> float:
    """Time of logits and loss of a rank's tokens, in seconds; no vocabulary, no time.

    The backward passes over logits and their gradient as often as the forward over logits.
    """
    params = float(shape.vocabulary) * shape.hidden
    logits = LOGIT_PASSES.si * tokens * shape.vocabulary * _FP32 / gpu.memory_rate
    return dense_time(params, gpu, tokens, direction) + logits


def outside_time(
    shape: ModelShape,
    gpu: GpuProfile,
    tokens: NDArray[np.int64],
    finishing: NDArray[np.int64],
    attention: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Time of everything outside the MoE layers of a prefill step, on every rank.

    Parameters
    ----------
    shape, gpu : ModelShape, GpuProfile
        What runs on what.
    tokens : int64 [R]
        Tokens of each rank in this step.
    finishing : int64 [R]
        Requests of each rank whose prompt ends in this step: only their last token goes through
        the head. There is no loss, so the logits are written and not passed again.
    attention : float64 [R]
        Attention of one layer (`ultraep_sim.compute.prefill_attention`), for the dense layers.

    Returns
    -------
    float64 [R]
        Seconds of the whole step: dense layers, embedding and head.
    """
    seconds = shape.dense_layers * (attention + _network_time(shape, gpu, tokens, "forward"))
    seconds += embedding_time(shape, gpu, tokens)
    seconds += dense_time(float(shape.vocabulary) * shape.hidden, gpu, finishing, "forward")
    seconds += finishing * (shape.vocabulary * _FP32 / gpu.memory_rate)
    return np.asarray(seconds, np.float64)


def optimizer_time(gpu: GpuProfile, params: float) -> float:
    """Time of an Adam step over the parameters a rank holds the state of, in seconds."""
    return ADAM_BYTES.si * params / gpu.memory_rate
