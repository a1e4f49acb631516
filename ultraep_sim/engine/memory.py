"""GPU memory of the fullest rank: weights, slots, buffers, and the activation peak of a policy.

Parameters live where expert parallelism puts them: a rank holds its main experts and a full copy
of everything else in its stage (`ultraep_sim.engine.stage_memory`). The activation peak is that of
the hottest rank over the replayed records, because a rank that runs out of memory once has run
out. The stage with most parameters is counted, with the activations of the first stage, which
keeps most micro-batches: an estimate that `ultraep_sim.engine.memory_timeline` makes exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError, ProfileError
from ultraep_sim.model.profiles import RackProfile
from ultraep_sim.model.shapes import ModelShape

from .options import LayerOptions
from .stage_memory import (
    StageLayers,
    buffer_bytes_per_pair,
    bytes_per_pair,
    bytes_per_token,
    checkpoint_bytes_per_token,
    dense_bytes_per_token,
    divided,
    parameter_parts,
)

if TYPE_CHECKING:
    from ultraep_sim.planning import EPLayout
    from ultraep_sim.policies.base import Transport


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
    buffers = hottest * buffer_bytes_per_pair(shape, options)
    tokens, per_pair = options.tokens_per_rank, bytes_per_pair(shape, options)
    per_token = bytes_per_token(shape)
    one_layer = tokens * per_token + hottest * per_pair
    if options.phase == "prefill":
        return buffers + one_layer
    if options.recompute == "full":
        checkpoints = shape.layers * tokens * checkpoint_bytes_per_token(shape)
        return buffers + checkpoints + one_layer
    dense = shape.dense_layers * dense_bytes_per_token(shape)
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
    stage_layers: Sequence[StageLayers] | None = None,
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
    stage_layers : sequence of StageLayers, optional
        What each stage holds; by default layers are divided evenly.

    Returns
    -------
    MemoryUse
        Never refuses; call `MemoryUse.check` to.
    """
    stages = divided(shape, pipeline_stages) if stage_layers is None else tuple(stage_layers)
    mains = int(layout.mains_per_rank.max())
    sharded = layout.num_ranks * data_parallel
    parts = max(
        (
            parameter_parts(
                shape, options, stage, mains, layout.slots_per_rank,
                transport=transport, prefetched=prefetched,
                data_parallel=data_parallel, sharded_over=sharded,
            )
            for stage in stages
        ),
        key=lambda found: sum(found.values()),
    )  # fmt: skip
    peak = activation_peak(shape, options, pairs, groups)
    parts = {**parts, "activations and buffers": peak}
    balanced = np.broadcast_to(pairs.mean(axis=1, keepdims=True), pairs.shape)
    ideal = activation_peak(shape, options, balanced, groups)
    return MemoryUse(parts, rack.gpu.hbm_GB.si, peak, peak / ideal)
