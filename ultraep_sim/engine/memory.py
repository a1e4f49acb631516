"""GPU memory of the fullest rank: weights, slots, buffers, and the activation peak of a policy.

Parameters live where expert parallelism puts them: a rank holds its main experts and a full copy
of everything else in its stage (`ultraep_sim.engine.stage_memory`). The activation peak is that of
the hottest rank over the replayed records, because a rank that runs out of memory once has run
out.

Given what the schedule holds in flight (`ultraep_sim.engine.in_flight`), every stage is counted at
its fullest moment. For even loads that is the peak `ultraep_sim.engine.memory_timeline` finds; for
uneven ones it is an estimate: every micro-batch in flight is taken to be as hot as the hottest, and
its layers as hot as their mean. Without a schedule plain 1F1B with no fewer micro-batches than
stages is assumed: the larger of the stage with most parameters with the activations of the first
stage, and the last stage with one micro-batch and its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError, ProfileError
from ultraep_sim.model.profiles import RackProfile
from ultraep_sim.model.shapes import ModelShape

from .in_flight import Moments
from .options import LayerOptions
from .stage_memory import (
    StageLayers,
    bytes_per_pair,
    bytes_per_token,
    divided,
    kept_bytes,
    logit_bytes,
    parameter_parts,
    running_bytes,
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
        The same over what it would be at that moment if every record were perfectly balanced.
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
        raise ProfileError(
            f"needs {self.shown()}",
            place=label,
            remedy="use fewer slots or tokens, full recompute, more ranks or more pipeline stages",
        )

    def shown(self) -> str:
        """Say what is needed of the HBM, and which three parts are the largest."""
        largest = sorted(self.parts.items(), key=lambda part: -part[1])[:3]
        parts = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in largest)
        return f"{self.total / 1e9:.1f} GB of a GPU's {self.capacity / 1e9:.1f} GB ({parts})"

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
        Bytes, logits left out. In training that of the first stage of plain 1F1B with no fewer
        micro-batches than stages: it holds as many as there are stages, so their number cancels.
        No other schedule has this peak (`memory_use` with ``in_flight``).
    """
    load = _load(pairs, groups)
    running = float(running_bytes(shape, options, load.hottest))
    if options.phase == "prefill":
        layer = options.tokens_per_rank * bytes_per_token(shape)
        return running + layer + load.hottest * bytes_per_pair(shape, options)
    moe, dense = shape.moe_layers, shape.dense_layers
    return running + float(kept_bytes(shape, options, moe, dense, load.per_layer * moe))


@dataclass(frozen=True)
class _Load:
    """Pairs of the hottest rank: in its hottest layer, and on average over a micro-batch's."""

    hottest: float
    per_layer: float


def _load(pairs: NDArray[Any], groups: NDArray[np.integer[Any]] | None) -> _Load:
    """Sum up records [N, R]."""
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or not pairs.size:
        raise InputError(
            "not a [records, ranks] array", place="pairs", value=pairs.shape, remedy="replay first"
        )
    hottest = float(pairs.max())
    if groups is None:
        return _Load(hottest, hottest)
    labels, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(labels), pairs.shape[1]))
    np.add.at(sums, index, pairs)
    recorded = np.bincount(index)[:, None]
    return _Load(hottest, float((sums / recorded).max()))


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
    in_flight: Sequence[Moments] | None = None,
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
    in_flight : sequence of Moments, optional
        What the schedule holds at once on each stage (`ultraep_sim.engine.in_flight.in_flight`); by
        default plain 1F1B with no fewer micro-batches than stages. Prefill has none.

    Returns
    -------
    MemoryUse
        Never refuses what does not fit; call `MemoryUse.check` to.

    Raises
    ------
    InputError
        No records, or `in_flight` is not of these stages.
    """
    stages = divided(shape, pipeline_stages) if stage_layers is None else tuple(stage_layers)
    mains = int(layout.mains_per_rank.max())
    sharded = layout.num_ranks * data_parallel
    parts = [
        parameter_parts(
            shape, options, stage, mains, layout.slots_per_rank,
            transport=transport, prefetched=prefetched,
            data_parallel=data_parallel, sharded_over=sharded,
        )
        for stage in stages
    ]  # fmt: skip
    even = np.broadcast_to(pairs.mean(axis=1, keepdims=True), pairs.shape)
    load, ideal = _load(pairs, groups), _load(even, groups)
    if options.phase == "training" and in_flight is not None:
        _check_stages(stages, in_flight)
        found = [
            _fullest_moment(shape, options, stage, moments, load, ideal)
            for stage, moments in zip(stages, in_flight, strict=True)
        ]
        states = list(zip(parts, found, strict=True))
    else:
        peaks = [activation_peak(shape, options, those, groups) for those in (pairs, even)]
        states = [(max(parts, key=_size), _Moment(peaks[0], peaks[1], 0.0))]
        if options.phase == "training":
            one = _one_micro_batch(shape, options, stages[-1], load, ideal)
            # The model on one stage: its first is its last.
            states = [*(states if len(stages) > 1 else []), (parts[-1], one)]
    fixed, moment = max(states, key=lambda state: _size(state[0]) + state[1].total)
    fixed["activations and buffers"] = moment.activations
    if options.phase == "training":
        fixed["logits"] = moment.logits
    ratio = moment.activations / moment.ideal if moment.ideal else 1.0
    return MemoryUse(fixed, rack.gpu.hbm_GB.si, moment.activations, ratio)


@dataclass(frozen=True)
class _Moment:
    """Bytes at a stage's fullest moment: activations and buffers, for even loads, and logits."""

    activations: float
    ideal: float
    logits: float

    @property
    def total(self) -> float:
        return self.activations + self.logits


def _fullest_moment(
    shape: ModelShape,
    options: LayerOptions,
    stage: StageLayers,
    moments: Moments,
    load: _Load,
    ideal: _Load,
) -> _Moment:
    """Weigh the moments of a stage and return the fullest."""
    logits: NDArray[np.floating[Any]] = np.zeros(len(moments.held))
    if stage.last:
        live = moments.held[:, -1] + moments.backward[:, -1]
        logits = live * logit_bytes(shape, options)
    running = moments.forward + moments.backward
    weighed = []
    for given in (load, ideal):
        kept = [
            kept_bytes(shape, options, moe, dense, given.per_layer * moe)
            for moe, dense in stage.chunks
        ]
        needed = [
            running_bytes(shape, options, given.hottest if moe else 0.0) for moe, _ in stage.chunks
        ]
        weighed.append(moments.held @ np.asarray(kept) + running @ np.asarray(needed))
    at = int((weighed[0] + logits).argmax())
    return _Moment(float(weighed[0][at]), float(weighed[1][at]), float(logits[at]))


def _one_micro_batch(
    shape: ModelShape, options: LayerOptions, stage: StageLayers, load: _Load, ideal: _Load
) -> _Moment:
    """Return a stage in the backward of the only micro-batch it holds: the last of plain 1F1B."""
    whole = replace(stage, by_chunk=())
    one, none = np.ones((1, 1), np.int64), np.zeros((1, 1), np.int64)
    return _fullest_moment(shape, options, whole, Moments(one, none, one), load, ideal)


def _check_stages(stages: Sequence[StageLayers], in_flight: Sequence[Moments]) -> None:
    """Refuse a schedule of other stages or chunks."""
    own = [len(stage.chunks) for stage in stages]
    given = [moments.held.shape[1] for moments in in_flight]
    if own != given:
        raise InputError(
            "not the schedule of these stages",
            place="in_flight",
            value=f"chunks of each stage {given}, layers are divided into {own}",
            remedy="count it for the same stages and chunks",
        )


def _size(parts: dict[str, float]) -> float:
    return sum(parts.values())
