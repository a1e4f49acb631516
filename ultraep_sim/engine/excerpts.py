"""A replica of a job, or one layer, as a job of its own: to look at closely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError

from .job import Episode, Job

Seconds = NDArray[np.float64]


def one_replica(job: Job, replica: int) -> Job:
    """Return the job of one replica alone, with its spells.

    Its forwards and backwards are those of the whole job, for replicas wait for each other in the
    gradient sync alone; when that begins, and all that follows, may differ.

    Parameters
    ----------
    job : Job
    replica : int
    """
    gpus = job.stages * job.ranks
    found = []
    for one in job.episodes:
        own = one.gpus[one.gpus // gpus == replica] - replica * gpus
        if own.size:
            found.append(Episode(own, one.part, one.factor, one.start_s, one.end_s))
    return replace(
        job,
        replicas=1,
        busy=lambda _only: job.busy(replica),
        extra_forward=job.extra_forward[replica : replica + 1],
        extra_backward=job.extra_backward[replica : replica + 1],
        episodes=tuple(found),
    )


def one_layer(job: Job, replica: int, micro_batch: int, layer: int) -> Job:
    """Return the job of one layer of one micro-batch on its group, with nothing around it.

    Parameters
    ----------
    job : Job
    replica, micro_batch, layer : int
        Where two micro-batches hide each other's work, the neighbour comes along: the other one of
        the pair (``two_batch``), or the next (``dualpipe``).

    Returns
    -------
    Job
        One stage; forward, then backward; no hops, no gradient sync, no spells.

    Raises
    ------
    InputError
        The job has no such replica, micro-batch or layer.
    """
    limits = {
        "replica": (replica, job.replicas),
        "micro_batch": (micro_batch, job.micro_batches),
        "layer": (layer, job.num_layers),
    }
    for name, (value, count) in limits.items():
        if not 0 <= value < count:
            raise InputError(
                f"the iteration has {count} of them",
                place=name,
                value=value,
                remedy=f"give 0 to {count - 1}",
            )
    batches = _with_neighbour(job, micro_batch)

    def busy(_replica: int) -> Mapping[str, Seconds]:
        whole = job.busy(replica)
        return {
            phase: np.ascontiguousarray(seconds[batches][:, layer : layer + 1])
            for phase, seconds in whole.items()
        }

    return replace(
        job,
        stages=1,
        chunks=1,
        micro_batches=len(batches),
        replicas=1,
        schedule="1f1b",
        layers=((0, 1),),
        busy=busy,
        extra_forward=np.zeros((1, 1, job.ranks)),
        extra_backward=np.zeros((1, 1, job.ranks)),
        hop_s=np.zeros(0),
        bucket_s=np.zeros(1),
        extra_bucket_s=np.zeros(1),
        finish_s=np.zeros(1),
        episodes=(),
    )


def _with_neighbour(job: Job, micro_batch: int) -> list[int]:
    if job.overlap == "two_batch":
        first = micro_batch - micro_batch % 2
        return [first, first + 1]
    if job.overlap == "dualpipe" and job.micro_batches > 1:
        first = min(micro_batch, job.micro_batches - 2)
        return [first, first + 1]
    return [micro_batch]
