"""The fast path of a whole iteration: a recurrence of maxima and sums, no events.

It holds where every rank's slowness stays what it is for the whole iteration; spells that begin or
end inside it are for the event engine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..job import IterationTimes, Job
from .orders import Orders, orders
from .pipeline import arrange
from .sync import Ready, last_backwards, sync_end
from .units import Units, layer_ends, units

Seconds = NDArray[np.float64]


def run_fast(job: Job) -> IterationTimes:
    """Arrange one iteration in time.

    Parameters
    ----------
    job : Job

    Returns
    -------
    IterationTimes

    Raises
    ------
    InputError
        The job has episodes.
    """
    if job.episodes:
        raise InputError(
            "the fast path knows no spells of slowness that begin or end inside an iteration",
            place="engine.mode",
            value="fast",
            remedy="use engine.mode: event, or leave thermal episodes and midway faults out",
        )
    plan = orders(job)
    found, ready, busy, compute = [], [], [], []
    for replica in range(job.replicas):
        timed = units(job, replica, plan)
        num_units = job.micro_batches // (2 if job.overlap == "two_batch" else 1)
        times = arrange(job, plan, timed.seconds, num_units)
        found.append(times)
        ready.append(_ready(job, plan, timed, times))
        busy.append([timed.seconds[plan.of(s)].sum() for s in range(job.stages)])
        compute.append([timed.compute[plan.of(s)].sum() for s in range(job.stages)])
    ends = sync_end(job, plan, ready)
    repeat = 2 if job.overlap == "two_batch" else 1
    f_start, f_end, b_start, b_end = (
        np.repeat(np.stack(part), repeat, axis=2) for part in zip(*found, strict=True)
    )
    return IterationTimes(
        iteration_s=float((ends + job.finish_s).max()),
        forward_start=f_start,
        forward_end=f_end,
        backward_start=b_start,
        backward_end=b_end,
        busy_s=np.array(busy),
        compute_s=np.array(compute),
        sync_end=ends,
    )


def _ready(
    job: Job, plan: Orders, timed: Units, times: tuple[Seconds, Seconds, Seconds, Seconds]
) -> Ready:
    start, end = times[2], times[3]
    ready = Ready(np.zeros(job.num_layers), np.zeros(job.virtual_stages), np.zeros(job.stages))
    for stage in range(job.stages):
        for vs, unit in last_backwards(plan, stage).items():
            first, stop = job.layers[vs]
            layers, extra = layer_ends(job, timed.backward[vs], unit, stop - first)
            ready.layer[first:stop] = start[vs, unit] + layers
            ready.extra[vs] = start[vs, unit] + extra
            ready.stage[stage] = max(ready.stage[stage], float(end[vs, unit]))
    return ready
