"""What a pipeline stage ran, block by block, and what a rank did: what timelines are drawn from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ultraep_sim.engine.job import IterationTimes


class Span(NamedTuple):
    """What one rank did in one kernel; see `ultraep_sim.engine.event.SpanSink`."""

    rank: int
    lane: str
    phase: str
    start_s: float
    end_s: float
    micro_batch: int
    layer: int


class Block:
    """One unit on a stage: a forward, a backward, or several that run jointly."""

    def __init__(self, start_s: float, end_s: float) -> None:
        self.start_s, self.end_s = start_s, end_s
        self.parts: list[tuple[str, int, int]] = []
        """Direction, virtual stage and micro-batch of each."""

    @property
    def title(self) -> str:
        """For example ``F 3 + B 1``."""
        return " + ".join(f"{way[0].upper()} {batch}" for way, _, batch in self.parts)

    @property
    def micro_batches(self) -> list[int]:
        """Of each part."""
        return [batch for _, _, batch in self.parts]

    @property
    def virtual_stages(self) -> list[int]:
        """Virtual stage of each part."""
        return [vs for _, vs, _ in self.parts]


def blocks(times: IterationTimes, replica: int, virtual_stages: Iterable[int]) -> list[Block]:
    """Gather what a stage ran, in order of time; what ran jointly is one block.

    Parameters
    ----------
    times : IterationTimes
    replica : int
    virtual_stages : iterable of int
        Those of the stage.
    """
    found: dict[tuple[float, float], Block] = {}
    tables = (
        ("forward", times.forward_start, times.forward_end),
        ("backward", times.backward_start, times.backward_end),
    )
    for way, starts, ends in tables:
        for vs in virtual_stages:
            spans = np.stack((starts[replica, vs], ends[replica, vs]), axis=1).tolist()
            for batch, (start, end) in enumerate(spans):
                block = found.setdefault((start, end), Block(start, end))
                block.parts.append((way, vs, batch))
    return [found[key] for key in sorted(found)]
