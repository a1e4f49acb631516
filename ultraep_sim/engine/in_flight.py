"""How many micro-batches a pipeline stage holds at once, counted from its schedule.

A stage holds a micro-batch's activations on a virtual stage from the start of its forward there to
the end of its backward. The order of forwards and backwards alone says which it holds together,
however long each takes: while a stage waits it holds no more than while the unit before ran.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .fast.orders import NONE, Orders, orders
from .job import Job, Overlap, Schedule

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Moments:
    """What one stage holds while its units run; each different moment once.

    Attributes
    ----------
    held : int64 [K, V]
        Micro-batches whose activations are held, by chunk, those that run included.
    forward, backward : int64 [K, V]
        Those of them in a forward, and in a backward, at the moment.
    """

    held: Counts
    forward: Counts
    backward: Counts

    @property
    def most(self) -> int:
        """Most micro-batches held at once, those of every chunk counted apart."""
        return int(self.held.sum(axis=1).max())


def in_flight(
    schedule: Schedule, overlap: Overlap, stages: int, chunks: int, micro_batches: int
) -> tuple[Moments, ...]:
    """Count what every stage holds while its units run.

    Parameters
    ----------
    schedule, overlap, stages, chunks, micro_batches
        As in `ultraep_sim.engine.job.Job`.

    Returns
    -------
    tuple of Moments
        One a stage.

    Raises
    ------
    InputError
        There is no such schedule.
    """
    job = _job(schedule, overlap, stages, chunks, micro_batches)
    found = orders(job)
    members = 2 if overlap == "two_batch" else 1
    return tuple(_moments(job, found, stage, members) for stage in range(stages))


def _moments(job: Job, found: Orders, stage: int, members: int) -> Moments:
    """Walk a stage's items: what a forward brings counts before what a backward releases."""
    items = found.of(stage)
    steps = [_by_chunk(job, part[items], members) for part in (found.forward, found.backward)]
    forward, backward = steps
    held = np.cumsum(forward, axis=0) - np.cumsum(backward, axis=0) + backward
    moments = np.unique(np.concatenate((held, forward, backward), axis=1), axis=0)
    held, forward, backward = np.split(moments, 3, axis=1)
    return Moments(held, forward, backward)


def _by_chunk(job: Job, units: Counts, members: int) -> Counts:
    """Micro-batches of each item by chunk, int64 [items, V]; `units` is [items, 2]."""
    counts = np.zeros((len(units), job.chunks), np.int64)
    (rows,) = np.nonzero(units[:, 0] != NONE)
    counts[rows, units[rows, 0] // job.stages] = members
    return counts


def _job(schedule: Schedule, overlap: Overlap, stages: int, chunks: int, micro_batches: int) -> Job:
    """Return a job of no layers that takes no time; only its order is asked for."""
    none = np.zeros(0)
    return Job(
        stages=stages,
        chunks=chunks,
        micro_batches=micro_batches,
        replicas=1,
        ranks=1,
        schedule=schedule,
        overlap=overlap,
        recompute="none",
        restore="exposed",
        hidden=False,
        prefetched=False,
        grad_sync="exposed",
        layers=((0, 0),) * (stages * chunks),
        busy=lambda _: {},
        extra_forward=none,
        extra_backward=none,
        hop_s=none,
        bucket_s=none,
        extra_bucket_s=none,
        finish_s=none,
    )
