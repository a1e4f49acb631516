"""GPU memory of the fullest rank: weights, slots, buffers, and the activation peak of a policy.

Parameters live where expert parallelism puts them: a rank holds its main experts and a full copy
of everything else, divided over pipeline stages. The activation peak is that of the hottest rank
over the replayed records, because a rank that runs out of memory once has run out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.engine.layer import LayerOptions
from ultraep_sim.errors import InputError, ProfileError
from ultraep_sim.model.dtypes import GRADIENT_BYTES, activation_bytes
from ultraep_sim.model.profiles import RackProfile
from ultraep_sim.model.shapes import ModelShape

if TYPE_CHECKING:
    from ultraep_sim.planning import EPLayout
    from ultraep_sim.policies.base import Transport

_BF16 = 2.0
_FP32 = 4.0
# Adam in mixed precision: fp32 master weight and two moments.
_OPTIMIZER_BYTES = 12.0


@dataclass(frozen=True)
class MemoryUse:
    """What fills the HBM of the fullest rank, in bytes.

    Attributes
    ----------
    parts : dict of str to float
        Bytes by purpose.
    capacity : float
        HBM of the GPU.
    activation_peak : float
        Saved activations and dispatch buffers of the hottest rank.
    activation_peak_ratio : float
        The same over what it would be if every record were perfectly balanced.
    """

    parts: dict[str, float]
    capacity: float
    activation_peak: float
    activation_peak_ratio: float

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether all parts fit together."""
        return self.total <= self.capacity

    @property
    def free(self) -> float:
        """Bytes left: KV cache in serving. Negative where it does not fit."""
        return self.capacity - self.total

    def check(self, label: str) -> None:
        """Refuse a run that does not fit.

        Parameters
        ----------
        label : str
            The run or policy, for the message.

        Raises
        ------
        ProfileError
            Names what is too large and by how much.
        """
        if self.fits:
            return
        largest = sorted(self.parts.items(), key=lambda part: -part[1])[:3]
        shown = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in largest)
        raise ProfileError(
            f"needs {self.total / 1e9:.1f} GB of a GPU's {self.capacity / 1e9:.1f} GB ({shown})",
            place=label,
            remedy="use fewer slots or tokens, full recompute, more ranks or more pipeline stages",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping for the summary, with the total and whether it fits."""
        return {**asdict(self), "total": self.total, "fits": self.fits}


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


def activation_peak(
    shape: ModelShape,
    options: LayerOptions,
    pairs: NDArray[Any],
    groups: NDArray[np.integer[Any]] | None = None,
) -> float:
    """Bytes of activations and dispatch buffers on the hottest rank, at its worst moment.

    Parameters
    ----------
    shape, options : ModelShape, LayerOptions
        What runs how.
    pairs : ndarray [N, R]
        Pairs each rank computes in each record; need not be whole.
    groups : integer ndarray [N], optional
        Which micro-batch a record belongs to. Without recompute a training rank keeps all its
        layers of a micro-batch; the layers on record stand for all. None: every layer is taken to
        be as hot as the hottest record, an upper bound.

    Returns
    -------
    float
        Bytes. One-forward-one-backward pipelines keep as many micro-batches in flight as they
        have stages, so the number of stages cancels.
    """
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or not pairs.size:
        raise InputError(
            "not a [records, ranks] array", place="pairs", value=pairs.shape, remedy="replay first"
        )
    hottest = float(pairs.max())
    buffers = hottest * _buffer_bytes_per_pair(shape, options)
    tokens, per_token, per_pair = (
        options.tokens_per_rank,
        _per_token(shape),
        _per_pair(shape, options),
    )
    one_layer = tokens * per_token + hottest * per_pair
    if options.phase == "prefill":
        return buffers + one_layer
    if options.recompute == "full":
        checkpoints = shape.layers * tokens * shape.hidden * _BF16
        return buffers + checkpoints + one_layer
    dense = shape.dense_layers * 3 * shape.dense_ffn * _BF16
    kept = tokens * (shape.layers * per_token + dense)
    return buffers + kept + per_pair * _pairs_kept(shape, pairs, groups)


def _pairs_kept(
    shape: ModelShape,
    pairs: NDArray[Any],
    groups: NDArray[np.integer[Any]] | None,
) -> float:
    """Pairs whose activations the hottest rank keeps until the backward of a micro-batch."""
    if groups is None:
        return float(pairs.max()) * shape.moe_layers
    labels, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(labels), pairs.shape[1]))
    np.add.at(sums, index, pairs)
    recorded = np.bincount(index)[:, None]
    return float((sums / recorded).max()) * shape.moe_layers


def _per_token(shape: ModelShape) -> float:
    """Bytes a token leaves in one layer: norms, q, k, v, attention output, residual, logits."""
    a = shape.attention
    heads = a.heads * (a.qk_dim + a.value_dim) + a.kv_heads * (a.qk_dim + a.value_dim)
    shared = 3 * shape.shared_experts * shape.expert_ffn
    return _BF16 * (4 * shape.hidden + heads + shared) + _FP32 * shape.num_experts


def _per_pair(shape: ModelShape, options: LayerOptions) -> float:
    """Bytes a pair leaves at its host: the dispatched row, gate and up, their product."""
    row = shape.hidden * activation_bytes(options.dispatch_dtype)
    return row + 3 * shape.expert_ffn * _BF16


def _buffer_bytes_per_pair(shape: ModelShape, options: LayerOptions) -> float:
    """Bytes of the receive buffer of dispatch and the send buffer of combine."""
    wire = activation_bytes(options.dispatch_dtype) + activation_bytes(options.combine_dtype)
    return shape.hidden * wire


def memory_use(
    shape: ModelShape,
    rack: RackProfile,
    layout: EPLayout,
    pairs: NDArray[Any],
    options: LayerOptions,
    *,
    transport: Transport = "stream",
    prefetched: bool = False,
    groups: NDArray[np.integer[Any]] | None = None,
    pipeline_stages: int = 1,
    data_parallel: int = 1,
) -> MemoryUse:
    """Account for the HBM of the fullest rank under one policy.

    Parameters
    ----------
    shape, rack, layout, options : ModelShape, RackProfile, EPLayout, LayerOptions
        What runs where and how.
    pairs : ndarray [N, R]
        Pairs each rank computes in each record.
    transport : {"none", "stream", "broadcast", "migrate", "free"}
        Weights that are streamed or broadcast reuse one set of slot buffers for all layers; a
        placement that is migrated to, or got for free, lives on and needs one set a layer;
        ``none`` has no slots.
    prefetched : bool
        Weights sent ahead land while the layer below still computes: a second set of buffers.
    groups : integer ndarray [N], optional
        Micro-batch of each record, see `activation_peak`.
    pipeline_stages, data_parallel : int
        Stages the layers are divided over; copies over which an expert's optimizer state is
        sharded (that of everything else is sharded over ranks x copies).

    Returns
    -------
    MemoryUse
        Never refuses; call `MemoryUse.check` to.
    """
    moe_layers = -(-shape.moe_layers // pipeline_stages)  # of the fullest stage
    mains = int(layout.mains_per_rank.max()) * moe_layers
    other = shape.other_params / pipeline_stages
    shared, lasting = transport in ("stream", "broadcast"), transport in ("migrate", "free")
    sets = 1.0 if shared else moe_layers if lasting else 0.0
    slot_weights, slot_gradients = slot_bytes(shape, layout.slots_per_rank, options, sets)
    peak = activation_peak(shape, options, pairs, groups)
    parts = {
        "expert weights": mains * shape.expert_bytes(options.weight_dtype),
        "other weights": other * _BF16,
        "slot weights": slot_weights * (2 if prefetched else 1),
        "activations and buffers": peak,
    }
    if options.phase == "training":
        expert_state = mains * shape.expert_params / data_parallel
        other_state = other / (layout.num_ranks * data_parallel)
        parts |= {
            "expert gradients": mains * shape.expert_params * GRADIENT_BYTES,
            "other gradients": other * GRADIENT_BYTES,
            "slot gradients": slot_gradients,
            "optimizer state": _OPTIMIZER_BYTES * (expert_state + other_state),
        }
    balanced = np.broadcast_to(pairs.mean(axis=1, keepdims=True), pairs.shape)
    ideal = activation_peak(shape, options, balanced, groups)
    return MemoryUse(parts, rack.gpu.hbm_GB.si, peak, peak / ideal)
