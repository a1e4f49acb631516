"""In which order every pipeline stage runs its forwards and backwards.

A unit is one micro-batch on one virtual stage, or two that run jointly. The schedules are those of
Megatron-LM (Narayanan et al., SC 2021): one-forward-one-backward, and interleaved virtual stages.
With ``dualpipe`` (after DeepSeek-V3's DualPipe: a forward and a backward of different micro-batches
hide each other's all-to-all) a stage runs ``2 (P - s) - 1`` forwards ahead: a joint unit hands on
its forward only with its backward, so the way to the last stage and back takes two units a stage.
The bubble is that of 1F1B, not the smaller one of DualPipe's two-way pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..job import Job

NONE = -1


@dataclass(frozen=True)
class Orders:
    """What each stage runs, one after the other.

    Attributes
    ----------
    begin : int64 [P + 1]
        Where the items of each stage begin.
    forward, backward : int64 [items, 2]
        Virtual stage and unit of an item's forward and backward; `NONE` where it has none.
    """

    begin: NDArray[np.int64]
    forward: NDArray[np.int64]
    backward: NDArray[np.int64]

    def of(self, stage: int) -> slice:
        """Items of one stage."""
        return slice(int(self.begin[stage]), int(self.begin[stage + 1]))


def orders(job: Job) -> Orders:
    """Lay out the items of every stage of a job."""
    units = job.micro_batches // (2 if job.overlap == "two_batch" else 1)
    begin, forward, backward = [0], [], []
    for stage in range(job.stages):
        warmup, ahead, behind = _runs(job, stage, units)
        rows = _items(warmup, ahead, behind, joint=job.overlap == "dualpipe")
        forward += [row[0] for row in rows]
        backward += [row[1] for row in rows]
        begin.append(len(forward))
    return Orders(np.array(begin), np.array(forward), np.array(backward))


_Unit = tuple[int, int]
_IDLE = (NONE, NONE)


def _runs(job: Job, stage: int, units: int) -> tuple[int, list[_Unit], list[_Unit]]:
    """How many forwards a stage runs ahead, and its forwards and backwards in order."""
    if job.schedule == "1f1b":
        left = job.stages - stage
        spare = 2 * left - 1 if job.overlap == "dualpipe" else left - 1
        run = [(stage, unit) for unit in range(units)]
        return min(units, spare), run, run
    ahead, behind = [], []
    for k in range(units * job.chunks):
        group, place = divmod(k, job.stages * job.chunks)
        chunk, unit = divmod(place, job.stages)
        unit += group * job.stages
        ahead.append((chunk * job.stages + stage, unit))
        behind.append(((job.chunks - 1 - chunk) * job.stages + stage, unit))
    warmup = (job.stages - stage - 1) * 2 + (job.chunks - 1) * job.stages
    return min(len(ahead), warmup), ahead, behind


def _items(
    warmup: int, ahead: list[_Unit], behind: list[_Unit], *, joint: bool
) -> list[tuple[_Unit, _Unit]]:
    """Run `warmup` forwards, then forwards and backwards in turn (or jointly), then the rest."""
    rows = [(unit, _IDLE) for unit in ahead[:warmup]]
    steady = ahead[warmup:]
    for forward, backward in zip(steady, behind, strict=False):
        rows += [(forward, backward)] if joint else [(forward, _IDLE), (_IDLE, backward)]
    return rows + [(_IDLE, unit) for unit in behind[len(steady) :]]
