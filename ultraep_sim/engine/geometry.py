"""Where the layers of a model run: virtual stages, and the recorded layer that stands for each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..model.shapes import ModelShape
    from ..scenario import Scenario


@dataclass(frozen=True)
class Geometry:
    """A training job's division over GPUs.

    Attributes
    ----------
    replicas, stages, chunks, ranks, micro_batches : int
        D, P, V, R, M.
    moe : tuple of (int, int)
        Half-open range of MoE layers of each virtual stage, [VS].
    dense : tuple of int
        Dense layers of each virtual stage, [VS].
    """

    replicas: int
    stages: int
    chunks: int
    ranks: int
    micro_batches: int
    moe: tuple[tuple[int, int], ...]
    dense: tuple[int, ...]

    @property
    def gpus(self) -> int:
        """All GPUs of the job."""
        return self.replicas * self.stages * self.ranks

    @property
    def moe_layers(self) -> int:
        """MoE layers of the model."""
        return self.moe[-1][1]

    def stage_of_layer(self) -> NDArray[np.int64]:
        """Stage of each MoE layer, int64 [L]."""
        stage = np.empty(self.moe_layers, np.int64)
        for vs, (first, stop) in enumerate(self.moe):
            stage[first:stop] = vs % self.stages
        return stage

    def moe_layers_of(self, stage: int) -> int:
        """How many MoE layers a stage holds, all chunks together."""
        return sum(b - a for vs, (a, b) in enumerate(self.moe) if vs % self.stages == stage)


def geometry(scenario: Scenario) -> Geometry:
    """Divide a scenario's model over its stages.

    Raises
    ------
    ValueError
        The scenario has no training section.
    """
    spec = scenario.training
    if spec is None:
        raise ValueError("only a scenario with a training section has iterations")
    stages = scenario.ep.pipeline_stages * spec.virtual_stages
    counts = spec.stage_layers or even(scenario.model.layers, stages)
    moe, dense = divide(scenario.model, counts)
    return Geometry(
        scenario.ep.data_parallel,
        scenario.ep.pipeline_stages,
        spec.virtual_stages,
        scenario.ep.ranks,
        spec.micro_batches,
        moe,
        dense,
    )


def even(layers: int, stages: int) -> tuple[int, ...]:
    """Divide layers evenly; the first stages take one more (the last has the head as well)."""
    return tuple(layers // stages + (stage < layers % stages) for stage in range(stages))


def divide(
    shape: ModelShape, counts: tuple[int, ...]
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Return the MoE ranges and the dense layers of virtual stages of so many layers each."""
    ends = np.cumsum((0, *counts))
    first = np.maximum(ends - shape.dense_layers, 0)
    moe = tuple((int(a), int(b)) for a, b in pairwise(first))
    dense = tuple(count - (b - a) for count, (a, b) in zip(counts, moe, strict=True))
    return moe, dense


def stand_ins(layers: int, recorded: int, layer_map: str) -> NDArray[np.int64]:
    """Index of the recorded layer that stands for each MoE layer, int64 [layers].

    ``cycle`` repeats the recorded layers in turn, ``stretch`` keeps their order and gives
    neighbours the same one. Both are the identity where all layers are recorded.
    """
    index = np.arange(layers)
    return index % recorded if layer_map == "cycle" else index * recorded // layers
