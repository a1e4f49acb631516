"""What a pipeline stage keeps in the memory of each of its ranks, by token and by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.model.dtypes import GRADIENT_BYTES, activation_bytes
from ultraep_sim.model.shapes import ModelShape

from .geometry import divide, even
from .options import LayerOptions

if TYPE_CHECKING:
    from ultraep_sim.policies.base import Transport

Bytes = NDArray[np.float64]

_BF16 = 2.0
_FP32 = 4.0
# Adam in mixed precision: fp32 master weight and two moments.
_OPTIMIZER_BYTES = 12.0


@dataclass(frozen=True)
class StageLayers:
    """What a pipeline stage holds.

    Attributes
    ----------
    moe, dense : int
        Layers of each kind, all its virtual stages together.
    first, last : bool
        Whether it has the embedding and the head.
    by_chunk : tuple of (int, int)
        MoE and dense layers of each of its virtual stages; empty: it is one virtual stage.
    """

    moe: int
    dense: int
    first: bool
    last: bool
    by_chunk: tuple[tuple[int, int], ...] = ()

    @property
    def chunks(self) -> tuple[tuple[int, int], ...]:
        """MoE and dense layers of each virtual stage of it, [V]."""
        return self.by_chunk or ((self.moe, self.dense),)

    def other_params(self, shape: ModelShape) -> int:
        """Parameters outside the routed experts."""
        h = shape.hidden
        per_layer = shape.attention.projection_params(h) + 2 * h
        gate_and_shared = h * shape.num_experts + shape.shared_experts * shape.expert_params
        tables = (self.first + self.last) * shape.vocabulary * h
        own = self.moe * gate_and_shared + self.dense * 3 * h * shape.dense_ffn
        return (self.moe + self.dense) * per_layer + own + tables


def stages_of(
    moe: Sequence[tuple[int, int]], dense: Sequence[int], stages: int
) -> tuple[StageLayers, ...]:
    """Gather virtual stages into what each stage holds.

    Parameters
    ----------
    moe : sequence of (int, int)
        Half-open range of MoE layers of each virtual stage, [VS]; ``v * stages + s`` is on ``s``.
    dense : sequence of int
        Dense layers of each virtual stage, [VS].
    stages : int
    """
    counts = [stop - first for first, stop in moe]
    return tuple(
        StageLayers(
            sum(counts[s::stages]),
            sum(dense[s::stages]),
            first=s == 0,
            last=s == stages - 1,
            by_chunk=tuple(zip(counts[s::stages], dense[s::stages], strict=True)),
        )
        for s in range(stages)
    )


def divided(shape: ModelShape, stages: int) -> tuple[StageLayers, ...]:
    """Divide a model evenly over stages; the first ones take one layer more."""
    return stages_of(*divide(shape, even(shape.layers, stages)), stages)


def parameter_parts(
    shape: ModelShape,
    options: LayerOptions,
    stage: StageLayers,
    mains_per_layer: int,
    slots_per_rank: int,
    *,
    transport: Transport,
    prefetched: bool,
    data_parallel: int,
    sharded_over: int,
) -> dict[str, float]:
    """Bytes that stay on a rank the whole time, by purpose.

    Parameters
    ----------
    shape, options, stage : ModelShape, LayerOptions, StageLayers
        What runs how, and which part of it here.
    mains_per_layer, slots_per_rank : int
        Main experts of this rank in each MoE layer, and its redundant slots.
    transport, prefetched
        As in `ultraep_sim.engine.memory.memory_use`.
    data_parallel, sharded_over : int
        Ranks that share an expert's optimizer state, and that of everything else.

    Returns
    -------
    dict of str to float
    """
    mains, other = mains_per_layer * stage.moe, stage.other_params(shape)
    shared, lasting = transport in ("stream", "broadcast"), transport in ("migrate", "free")
    sets = 1.0 if shared else stage.moe if lasting else 0.0
    slot_weights, slot_gradients = slot_bytes(shape, slots_per_rank, options, sets)
    parts = {
        "expert weights": mains * shape.expert_bytes(options.weight_dtype),
        "other weights": other * _BF16,
        "slot weights": slot_weights * (2 if prefetched else 1),
    }
    if options.phase == "training":
        state = mains * shape.expert_params / data_parallel + other / sharded_over
        parts |= {
            "expert gradients": mains * shape.expert_params * GRADIENT_BYTES,
            "other gradients": other * GRADIENT_BYTES,
            "slot gradients": slot_gradients,
            "optimizer state": _OPTIMIZER_BYTES * state,
        }
    return parts


def slot_bytes(
    shape: ModelShape, slots_per_rank: int, options: LayerOptions, layers: float = 1
) -> tuple[float, float]:
    """Bytes of weight and gradient buffers of the redundant slots of a rank.

    Parameters
    ----------
    shape : ModelShape
        The model.
    slots_per_rank : int
        Redundant slots of each rank.
    options : LayerOptions
        Phase (prefill has no gradients) and weight dtype.
    layers : float
        Layers with buffers of their own; 1 where all layers share them.

    Returns
    -------
    weights, gradients : float
        Gradients are fp32.
    """
    experts = slots_per_rank * layers
    gradient = shape.expert_params * GRADIENT_BYTES if options.phase == "training" else 0.0
    return experts * shape.expert_bytes(options.weight_dtype), experts * gradient


def kept_bytes(
    shape: ModelShape, options: LayerOptions, moe: int, dense: int, pairs: Bytes | float
) -> Bytes | float:
    """Bytes a micro-batch leaves on a virtual stage until its backward there has ended.

    Parameters
    ----------
    shape, options : ModelShape, LayerOptions
        What runs how.
    moe, dense : int
        Layers of each kind.
    pairs : float or float64 [R]
        Pairs a rank computes in all these layers together.

    Returns
    -------
    float or float64 [R]
    """
    tokens = options.tokens_per_rank
    if options.recompute == "full":
        inputs = (moe + dense) * tokens * checkpoint_bytes_per_token(shape)
        return inputs + 0.0 * pairs
    network = dense * dense_bytes_per_token(shape)
    fixed = tokens * ((moe + dense) * bytes_per_token(shape) + network)
    return fixed + pairs * bytes_per_pair(shape, options)


def running_bytes(
    shape: ModelShape, options: LayerOptions, hottest: Bytes | float
) -> Bytes | float:
    """Bytes a micro-batch needs only while it runs: buffers, and a layer that is recomputed.

    Parameters
    ----------
    shape, options : ModelShape, LayerOptions
        What runs how.
    hottest : float or float64 [R]
        Pairs a rank computes in its hottest layer.

    Returns
    -------
    float or float64 [R]
    """
    needed = hottest * buffer_bytes_per_pair(shape, options)
    if options.recompute == "full":
        layer = options.tokens_per_rank * bytes_per_token(shape)
        return needed + (hottest * bytes_per_pair(shape, options) + layer)
    return needed


def logit_bytes(shape: ModelShape, options: LayerOptions) -> float:
    """Bytes of the fp32 logits of a micro-batch, on the last virtual stage.

    They live from the start of its forward there to the end of its backward, and while that runs
    their gradient is as large. Prefill needs those of each sequence's last token only: nothing
    beside a layer's activations, so they are left out.
    """
    if options.phase == "prefill":
        return 0.0
    return _FP32 * options.tokens_per_rank * shape.vocabulary


def bytes_per_token(shape: ModelShape) -> float:
    """Bytes a token leaves in one layer: norms, q, k, v, attention output, residual, gate."""
    a = shape.attention
    heads = a.heads * (a.qk_dim + a.value_dim) + a.kv_heads * (a.qk_dim + a.value_dim)
    shared = 3 * shape.shared_experts * shape.expert_ffn
    return _BF16 * (4 * shape.hidden + heads + shared) + _FP32 * shape.num_experts


def dense_bytes_per_token(shape: ModelShape) -> float:
    """Bytes a token leaves in a dense network, beyond `bytes_per_token`."""
    return 3 * shape.dense_ffn * _BF16


def checkpoint_bytes_per_token(shape: ModelShape) -> float:
    """Bytes a token leaves in one layer under full recompute: the layer's input."""
    return shape.hidden * _BF16


def bytes_per_pair(shape: ModelShape, options: LayerOptions) -> float:
    """Bytes a pair leaves at its host: the dispatched row, gate and up, their product."""
    row = shape.hidden * activation_bytes(options.dispatch_dtype)
    return row + 3 * shape.expert_ffn * _BF16


def buffer_bytes_per_pair(shape: ModelShape, options: LayerOptions) -> float:
    """Bytes of the receive buffer of dispatch and the send buffer of combine."""
    wire = activation_bytes(options.dispatch_dtype) + activation_bytes(options.combine_dtype)
    return shape.hidden * wire
