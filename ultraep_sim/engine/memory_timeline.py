"""GPU memory of every rank over one iteration: what stays, and activations as they come and go.

A micro-batch's activations are counted whole from the start of its forward on a virtual stage to
the end of its backward there. While a unit runs it also needs the buffers of dispatch and combine
for its hottest layer and, under full recompute, the activations of one layer. The fp32 logits of a
micro-batch live on the last virtual stage from its forward to its backward, there with their
gradient. What `ultraep_sim.engine.memory` states from loads and the schedule is the peak found here
for even loads, and with every layer as hot as the hottest it is a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.model.shapes import ModelShape

from .geometry import Geometry
from .job import IterationTimes
from .options import LayerOptions
from .stage_memory import (
    StageLayers,
    kept_bytes,
    logit_bytes,
    parameter_parts,
    running_bytes,
    stages_of,
)

if TYPE_CHECKING:
    from ultraep_sim.planning import EPLayout
    from ultraep_sim.policies.base import Transport

Bytes = NDArray[np.float64]


@dataclass(frozen=True)
class GroupMemory:
    """Memory of the ranks of one expert-parallel group over one iteration.

    Attributes
    ----------
    replica, stage : int
    parts : dict of str to float64 [R]
        Bytes that stay the whole time, by purpose.
    times_s : float64 [K + 1]
        The series are constant between neighbouring times.
    activations, buffers : float64 [K, R]
        Activations that are kept; logits, and what is needed only while a unit runs.
    """

    replica: int
    stage: int
    parts: dict[str, Bytes]
    times_s: Bytes
    activations: Bytes
    buffers: Bytes

    @cached_property
    def fixed(self) -> Bytes:
        """Bytes that stay the whole time, float64 [R]."""
        fixed: Bytes = np.sum(list(self.parts.values()), axis=0)
        return fixed

    @cached_property
    def total(self) -> Bytes:
        """All bytes, float64 [K, R]."""
        total: Bytes = self.fixed + self.activations + self.buffers
        return total

    @property
    def peak(self) -> Bytes:
        """Most bytes each rank needs at once, float64 [R]."""
        peak: Bytes = self.total.max(axis=0)
        return peak

    @property
    def peak_at_s(self) -> Bytes:
        """When it first does, float64 [R]."""
        at: Bytes = self.times_s[self.total.argmax(axis=0)]
        return at

    def to_dict(self, rank: int) -> dict[str, Any]:
        """Plain mapping of one rank's series for JSON."""
        return {
            "replica": self.replica,
            "stage": self.stage,
            "rank": rank,
            "parts": {name: float(size[rank]) for name, size in self.parts.items()},
            "times_s": self.times_s.tolist(),
            "activations": self.activations[:, rank].tolist(),
            "buffers": self.buffers[:, rank].tolist(),
            "peak": float(self.peak[rank]),
            "peak_at_s": float(self.peak_at_s[rank]),
        }


class MemoryTimeline:
    """Memory of all groups of an iteration; a group is computed when it is asked for.

    Parameters
    ----------
    shape, layout, options : ModelShape, EPLayout, LayerOptions
        What runs where and how.
    place : Geometry
        How the model is divided.
    times : IterationTimes
    pairs : callable
        ``pairs(replica)`` gives the pairs each rank computes, [M, L, R].
    transport, prefetched
        As in `ultraep_sim.engine.memory.memory_use`.
    """

    def __init__(
        self,
        shape: ModelShape,
        layout: EPLayout,
        options: LayerOptions,
        place: Geometry,
        times: IterationTimes,
        pairs: Callable[[int], NDArray[Any]],
        *,
        transport: Transport = "stream",
        prefetched: bool = False,
    ) -> None:
        self.shape, self.layout, self.options, self.place = shape, layout, options, place
        self.times, self.pairs = times, pairs
        self.transport, self.prefetched = transport, prefetched
        self.stages: tuple[StageLayers, ...] = stages_of(place.moe, place.dense, place.stages)

    def group(self, replica: int, stage: int) -> GroupMemory:
        """Return the memory of one group."""
        return self._group(replica, stage, np.asarray(self.pairs(replica), np.float64))

    def fullest(self) -> tuple[GroupMemory, int]:
        """Return the group and rank with the highest peak; the first of equals."""
        best: tuple[GroupMemory, int] | None = None
        for replica in range(self.place.replicas):
            pairs = np.asarray(self.pairs(replica), np.float64)
            for stage in range(self.place.stages):
                group = self._group(replica, stage, pairs)
                rank = int(group.peak.argmax())
                if best is None or group.peak[rank] > best[0].peak[best[1]]:
                    best = group, rank
        assert best is not None  # noqa: S101  # there is one replica of one stage at least
        return best

    def _group(self, replica: int, stage: int, pairs: Bytes) -> GroupMemory:
        changes = _Changes(self.place.ranks)
        for vs in range(stage, len(self.place.moe), self.place.stages):
            self._virtual_stage(changes, replica, vs, pairs)
        times_s, activations, buffers = changes.series(self.times.iteration_s)
        return GroupMemory(replica, stage, self._parts(stage), times_s, activations, buffers)

    def _virtual_stage(self, changes: _Changes, replica: int, vs: int, pairs: Bytes) -> None:
        """Enter what every micro-batch brings to one virtual stage, and takes away."""
        times, (first, stop) = self.times, self.place.moe[vs]
        shape, options, dense = self.shape, self.options, self.place.dense[vs]
        last = vs == len(self.place.moe) - 1
        logits = np.full(self.place.ranks, logit_bytes(shape, options) if last else 0.0)
        for m in range(self.place.micro_batches):
            here = pairs[m, first:stop]
            forward = float(times.forward_start[replica, vs, m])
            backward_end = float(times.backward_end[replica, vs, m])
            pairs_kept: Bytes = here.sum(axis=0)
            kept = kept_bytes(shape, options, stop - first, dense, pairs_kept)
            changes.add(forward, backward_end, np.asarray(kept), kept=True)
            changes.add(forward, backward_end, logits, kept=False)
            running = np.asarray(running_bytes(shape, options, here.max(axis=0, initial=0.0)))
            changes.add(forward, float(times.forward_end[replica, vs, m]), running, kept=False)
            start = float(times.backward_start[replica, vs, m])
            changes.add(start, backward_end, running + logits, kept=False)

    def _parts(self, stage: int) -> dict[str, Bytes]:
        """Bytes that stay, for the main experts of each rank."""
        by_count = {
            int(mains): parameter_parts(
                self.shape,
                self.options,
                self.stages[stage],
                int(mains),
                self.layout.slots_per_rank,
                transport=self.transport,
                prefetched=self.prefetched,
                data_parallel=self.place.replicas,
                sharded_over=self.layout.num_ranks * self.place.replicas,
            )
            for mains in np.unique(self.layout.mains_per_rank)
        }
        names = next(iter(by_count.values()))
        ranks = self.layout.mains_per_rank.tolist()
        return {name: np.array([by_count[mains][name] for mains in ranks]) for name in names}


class _Changes:
    """Bytes that come and go, gathered in any order."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._at: list[float] = []
        self._kept: list[bool] = []
        self._bytes: list[Bytes] = []

    def add(self, start_s: float, end_s: float, size: Bytes, *, kept: bool) -> None:
        """Need so many bytes [R] from start to end."""
        self._at += [start_s, end_s]
        self._kept += [kept, kept]
        self._bytes += [size, -size]

    def series(self, end_s: float) -> tuple[Bytes, Bytes, Bytes]:
        """Return times [K + 1] and the levels of what is kept and what is not, [K, R] each.

        What goes at a moment goes before what comes at that moment: sums of all changes of a
        moment are taken at once.
        """
        moments, index = np.unique([0.0, *self._at, end_s], return_inverse=True)
        if len(moments) == 1:  # nothing takes any time
            moments = np.append(moments, moments)
        kept = np.zeros((len(moments), self._ranks))
        running = np.zeros_like(kept)
        for row, is_kept, size in zip(index[1:-1], self._kept, self._bytes, strict=True):
            (kept if is_kept else running)[row] += size
        # Rounding must not leave a trace of what has gone.
        levels = [np.maximum(np.cumsum(part, axis=0)[:-1], 0.0) for part in (kept, running)]
        return moments, levels[0], levels[1]
