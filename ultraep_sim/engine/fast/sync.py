"""Data-parallel gradient sync: one in-order network stream a stage, over all replicas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..job import Job
from .orders import NONE, Orders

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Ready:
    """When the gradients of one replica are complete.

    Attributes
    ----------
    layer : float64 [L]
        Each MoE layer's, seconds since the start of the iteration.
    extra : float64 [VS]
        Those of what is once a virtual stage.
    stage : float64 [P]
        End of a stage's last unit.
    """

    layer: Seconds
    extra: Seconds
    stage: Seconds


def last_backwards(plan: Orders, stage: int) -> dict[int, int]:
    """Last backward unit of each virtual stage of a stage, in the order they run."""
    found: dict[int, int] = {}
    for vs, unit in plan.backward[plan.of(stage)]:
        if vs != NONE:
            found.pop(int(vs), None)
            found[int(vs)] = int(unit)
    return found


def sync_end(job: Job, plan: Orders, ready: list[Ready]) -> Seconds:
    """When every stage's gradients are in sync, float64 [P]."""
    layer = np.max([r.layer for r in ready], axis=0)
    extra = np.max([r.extra for r in ready], axis=0)
    stage_end = np.max([r.stage for r in ready], axis=0)
    ends = np.empty(job.stages)
    for stage in range(job.stages):
        free = 0.0 if job.grad_sync == "overlapped" else float(stage_end[stage])
        for vs in last_backwards(plan, stage):
            first, stop = job.layers[vs]
            for one in range(stop - 1, first - 1, -1):
                free = max(free, float(layer[one])) + float(job.bucket_s[one])
            free = max(free, float(extra[vs])) + float(job.extra_bucket_s[vs])
        ends[stage] = max(free, float(stage_end[stage]))
    return ends
