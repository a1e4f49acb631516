"""Seconds of an iteration outside its MoE layers, by virtual stage and stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..compute.outside import dense_layer_time, embedding_time, head_time, optimizer_time
from ..fabric.collectives import sync_common
from ..model.dtypes import GRADIENT_BYTES
from ..model.profiles import Direction, RackProfile
from ..model.shapes import ModelShape
from .geometry import Geometry
from .options import LayerOptions
from .wires import Wires

Seconds = NDArray[np.float64]

_BF16 = 2.0


@dataclass(frozen=True)
class Surroundings:
    """What a `Job` needs besides the layers.

    Attributes
    ----------
    extra_forward, extra_backward : float64 [VS]
        Dense layers, embedding and head, once a micro-batch.
    hop_s : float64 [VS - 1]
        Activations to the next virtual stage.
    bucket_s : float64 [L]
        Gradient sync of each MoE layer.
    extra_bucket_s : float64 [VS]
        Gradient sync of dense layers, embedding and head.
    finish_s : float64 [P]
        Adam step over a rank's shard, and gathering the parameters it updated.
    """

    extra_forward: Seconds
    extra_backward: Seconds
    hop_s: Seconds
    bucket_s: Seconds
    extra_bucket_s: Seconds
    finish_s: Seconds


def surroundings(
    shape: ModelShape, rack: RackProfile, place: Geometry, options: LayerOptions, ways: Wires
) -> Surroundings:
    """Time what surrounds the MoE layers.

    Parameters
    ----------
    shape, rack : ModelShape, RackProfile
    place : Geometry
    options : LayerOptions
    ways : Wires
        Between stages, ranks and replicas.

    Returns
    -------
    Surroundings

    Notes
    -----
    Optimizer state is sharded over everything that holds the same parameters (ZeRO-1; Rajbhandari
    et al., SC 2020): gradients are reduce-scattered in fp32, parameters gathered in bf16. Gradients
    of a layer leave in one bucket. Gathering is exposed, and hops do not contend with gradients
    for the NICs: the first is too slow where a framework overlaps it, the second too fast.
    """
    return _Surroundings(shape, rack, place, options, ways).all()


class _Surroundings:
    def __init__(
        self,
        shape: ModelShape,
        rack: RackProfile,
        place: Geometry,
        options: LayerOptions,
        ways: Wires,
    ) -> None:
        self.shape, self.rack, self.place, self.options = shape, rack, place, options
        self.ways = ways
        self.last = len(place.moe) - 1

    def all(self) -> Surroundings:
        every = range(self.last + 1)
        return Surroundings(
            np.array([self._extra(vs, "forward") for vs in every]),
            np.array([self._extra(vs, "backward") for vs in every]),
            np.full(self.last, self._hop()),
            np.full(self.place.moe_layers, self._sync(*self._layer_params())),
            np.array([self._sync(0.0, self._extra_params(vs)) for vs in every]),
            np.array([self._finish(stage) for stage in range(self.place.stages)]),
        )

    def _extra(self, vs: int, direction: Direction) -> float:
        shape, gpu, tokens = self.shape, self.rack.gpu, self.options.tokens_per_rank
        dense = dense_layer_time(shape, gpu, tokens, self.options.sequence_length, direction)
        if direction == "backward" and self.options.recompute == "full":
            dense += dense_layer_time(shape, gpu, tokens, self.options.sequence_length)
        seconds = dense * self.place.dense[vs]
        if vs == 0:
            seconds += embedding_time(shape, gpu, tokens)
        if vs == self.last:
            seconds += head_time(shape, gpu, tokens, direction)
        return seconds

    def _hop(self) -> float:
        if self.place.stages == 1:  # chunks of one stage hand on in place
            return 0.0
        return self.ways.hop.seconds(self.options.tokens_per_rank * self.shape.hidden * _BF16)

    def _layer_params(self) -> tuple[float, float]:
        """Parameters of one MoE layer on a rank: its own experts, and what all ranks share."""
        s = self.shape
        experts = -(-s.num_experts // self.place.ranks) * float(s.expert_params)
        shared = s.hidden * s.num_experts + s.shared_experts * s.expert_params
        return experts, s.attention.projection_params(s.hidden) + 2 * s.hidden + shared

    def _extra_params(self, vs: int) -> float:
        s = self.shape
        layer = s.attention.projection_params(s.hidden) + 2 * s.hidden + 3 * s.hidden * s.dense_ffn
        table = s.vocabulary * s.hidden
        return float(layer * self.place.dense[vs] + table * ((vs == 0) + (vs == self.last)))

    def _sync(self, experts: float, common: float, size: float = GRADIENT_BYTES) -> float:
        """Seconds to reduce-scatter (or gather) parameters or gradients of `size` bytes each."""
        p, ways = self.place, self.ways
        own = ways.replicas.ring(experts * size, p.replicas)
        return own + sync_common(ways.group, ways.replicas, common * size, p.ranks, p.replicas)

    def _finish(self, stage: int) -> float:
        p = self.place
        experts, common = (n * p.moe_layers_of(stage) for n in self._layer_params())
        mine = range(stage, self.last + 1, p.stages)
        common += sum(self._extra_params(vs) for vs in mine)
        held = experts / p.replicas + common / (p.ranks * p.replicas)
        return optimizer_time(self.rack.gpu, held) + self._sync(experts, common, _BF16)
