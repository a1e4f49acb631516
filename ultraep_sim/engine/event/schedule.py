"""In which order a pipeline stage works: what runs, never when.

A *unit* is what a stage runs at a time: one pass, or the two passes of a joint unit.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ultraep_sim.engine.job import Job


class Pass(NamedTuple):
    """A forward or backward of one micro-batch on one virtual stage."""

    direction: Literal["forward", "backward"]
    virtual_stage: int
    micro_batch: int


Unit = tuple[Pass, ...]


def stage_order(job: Job, stage: int) -> list[Unit]:
    """Return the units of a stage in the order in which it runs them.

    Parameters
    ----------
    job : Job
    stage : int
        From 0; the same in every replica.

    Returns
    -------
    list of Unit
        Two passes in a unit run jointly, first chain first.
    """
    if job.overlap == "dualpipe":
        return _dualpipe(job, stage)
    per_unit = 2 if job.overlap == "two_batch" else 1
    count = job.micro_batches // per_unit
    if job.schedule == "interleaved":
        forwards, backwards, warm_up = _interleaved(job, stage, count)
    else:
        forwards = backwards = [(stage, unit) for unit in range(count)]
        warm_up = min(count, job.stages - 1 - stage)
    order = []
    for direction, (virtual_stage, unit) in _alternate(forwards, backwards, warm_up):
        batches = range(unit * per_unit, (unit + 1) * per_unit)
        order.append(tuple(Pass(direction, virtual_stage, batch) for batch in batches))
    return order


def _alternate(
    forwards: list[tuple[int, int]], backwards: list[tuple[int, int]], warm_up: int
) -> list[tuple[Literal["forward", "backward"], tuple[int, int]]]:
    """Fill the pipeline with forwards, then alternate with backwards, then do the rest."""
    order: list[tuple[Literal["forward", "backward"], tuple[int, int]]] = []
    order += [("forward", work) for work in forwards[:warm_up]]
    steady = len(forwards) - warm_up
    for forward, backward in zip(forwards[warm_up:], backwards[:steady], strict=True):
        order += [("forward", forward), ("backward", backward)]
    return order + [("backward", work) for work in backwards[steady:]]


def _interleaved(
    job: Job, stage: int, count: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int]:
    """Megatron-LM's interleaved 1F1B: P units through chunk 0, the same P through chunk 1, ..."""
    P, V = job.stages, job.chunks
    forwards, backwards = [], []
    for k in range(count * V):
        group, inside = divmod(k, P * V)
        chunk, unit = inside // P, group * P + inside % P
        forwards.append((chunk * P + stage, unit))
        backwards.append(((V - 1 - chunk) * P + stage, unit))
    return forwards, backwards, min(count * V, (P - stage - 1) * 2 + (V - 1) * P)


def _dualpipe(job: Job, stage: int) -> list[Unit]:
    """Run forwards until the first backward has come back, then each next one beside a backward.

    A joint unit hands on its forward only with its backward, so the way to the last stage and back
    takes two units a stage, where that of 1F1B takes one.
    """
    forwards = [Pass("forward", stage, batch) for batch in range(job.micro_batches)]
    backwards = [Pass("backward", stage, batch) for batch in range(job.micro_batches)]
    warm_up = min(job.micro_batches, 2 * (job.stages - stage) - 1)
    steady = job.micro_batches - warm_up
    order: list[Unit] = [(work,) for work in forwards[:warm_up]]
    order += zip(forwards[warm_up:], backwards[:steady], strict=True)
    return order + [(work,) for work in backwards[steady:]]


def last_backwards(order: list[Unit]) -> dict[int, Unit]:
    """Return the last backward unit of each virtual stage, in the order in which they run."""
    last: dict[int, Unit] = {}
    for unit in order:
        backwards = tuple(work for work in unit if work.direction == "backward")
        if backwards:
            last.pop(backwards[0].virtual_stage, None)
            last[backwards[0].virtual_stage] = backwards
    return last
