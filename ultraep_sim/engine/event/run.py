"""The event engine: one training iteration as SimPy processes, a phase a rank at a time.

Every rank of every expert-parallel group is a process for each of its two streams; the ranks of a
group start a step together and the slowest ends it. Micro-batches reach the next stage by mail that
takes its time, and each stage has a network process for its gradients. Nothing here computes when
something happens: the clock says it. What the fast path takes for granted can therefore be broken:
episodes make kernels slower by when they start.

One thing follows the fast path's formula instead of the real transfer: weights that a policy sends
ahead (`ultraep_sim.engine.event.hiding`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from simpy import Environment, Event

from ultraep_sim.engine.job import Episode, IterationTimes, Job
from ultraep_sim.errors import InputError, UltraEPSimError

from . import joint, serial
from .group import Group, Mail
from .kernels import KernelTable, SpanSink
from .schedule import Unit, stage_order
from .streams import Program, Tally
from .sync import StageSync


def run_event(job: Job, *, spans: SpanSink | None = None) -> IterationTimes:
    """Run one iteration event by event.

    Parameters
    ----------
    job : Job
        Episodes included: a kernel on one of an episode's GPUs and of its part takes longer by the
        whole factor if it starts inside ``[start_s, end_s)``; factors of several multiply. Shared
        experts that overlap start with dispatch (in the backward with combine's gradient).
    spans : callable, optional
        Called with every kernel of every rank, see `SpanSink`.

    Returns
    -------
    IterationTimes
        ``events`` counts as `ultraep_sim.engine.event.streams.Tally` says.

    Raises
    ------
    InputError
        Kernel times of the wrong shape, negative or not finite; an impossible episode.
    """
    _check_episodes(job)
    return _Iteration(job, spans).run()


class _Iteration:
    """Everything of one run."""

    def __init__(self, job: Job, spans: SpanSink | None) -> None:
        env, tally = Environment(), Tally()
        self._job, self._env, self._tally = job, env, tally
        self._orders = [stage_order(job, stage) for stage in range(job.stages)]
        self._syncs = [
            StageSync(env, job, stage, order, tally, spans)
            for stage, order in enumerate(self._orders)
        ]
        self._groups: dict[tuple[int, int], Group] = {}
        for replica in range(job.replicas):
            table, mail = KernelTable(job, replica), Mail(env, job, tally)
            for stage, sync in enumerate(self._syncs):
                group = Group(env, job, replica, stage, table, mail, sync, tally, spans)
                self._groups[replica, stage] = group
        shape = (job.replicas, job.virtual_stages, job.micro_batches)
        self._start = {way: np.full(shape, np.nan) for way in ("forward", "backward")}
        self._end = {way: np.full(shape, np.nan) for way in ("forward", "backward")}
        self._busy_s = np.zeros((job.replicas, job.stages))

    def run(self) -> IterationTimes:
        start = Event(self._env)
        start.callbacks.append(self._begin)
        start.succeed()  # after the start of all processes, which SimPy takes first
        self._env.run()
        ends = np.array([sync.end for sync in self._syncs])
        if np.isnan(ends).any():
            raise UltraEPSimError(
                f"the schedule waits for itself: stages {np.flatnonzero(np.isnan(ends)).tolist()} "
                f"never end; a defect of ultraep_sim.engine.event.schedule"
            )
        compute_s = np.zeros_like(self._busy_s)
        for at, group in self._groups.items():
            compute_s[at] = group.compute_s
        return IterationTimes(
            iteration_s=float(ends.max()),
            forward_start=self._start["forward"],
            forward_end=self._end["forward"],
            backward_start=self._start["backward"],
            backward_end=self._end["backward"],
            busy_s=self._busy_s,
            compute_s=compute_s,
            sync_end=np.array([sync.sync_end for sync in self._syncs]),
            events=self._tally.events,
        )

    def _begin(self, _event: Event) -> None:
        for (replica, stage), group in self._groups.items():
            group.main.run(self._stage(replica, stage, group))

    def _stage(self, replica: int, stage: int, group: Group) -> Program:
        """Say what a group does in an iteration."""
        run_unit = joint.run_unit if self._is_joint() else serial.run_unit
        for unit in self._orders[stage]:
            for work in unit:
                arrival = group.mail.input_of(work)
                if arrival is not None:
                    yield arrival
            start = self._env.now
            yield from run_unit(group, unit)
            self._record(replica, stage, unit, start)
            for work in unit:
                group.mail.send_output_of(work)
        group.sync.stage_ended()

    def _is_joint(self) -> bool:
        return self._job.overlap in ("two_batch", "dualpipe")

    def _record(self, replica: int, stage: int, unit: Unit, start: float) -> None:
        now = self._env.now
        self._busy_s[replica, stage] += now - start
        for way, virtual_stage, batch in unit:
            at = replica, virtual_stage, batch
            self._start[way][at] = start
            self._end[way][at] = now
            if way == "backward" and np.isnan(self._end["forward"][at]):
                raise UltraEPSimError(
                    f"micro-batch {batch} ran backward on virtual stage {virtual_stage} before its "
                    f"forward; a defect of ultraep_sim.engine.event.schedule"
                )


def _check_episodes(job: Job) -> None:
    gpus = job.replicas * job.stages * job.ranks
    for place, value, fine, remedy in _episode_facts(job.episodes, gpus):
        if not fine:
            raise InputError("no such episode", place=place, value=value, remedy=remedy)


def _episode_facts(
    episodes: tuple[Episode, ...], gpus: int
) -> Iterator[tuple[str, object, bool, str]]:
    for number, one in enumerate(episodes):
        place = f"episodes[{number}]"
        inside = bool(((one.gpus >= 0) & (one.gpus < gpus)).all())
        yield f"{place}.gpus", one.gpus.tolist(), inside, f"the job has GPUs 0 to {gpus - 1}"
        known = one.part in ("compute", "link")
        yield f"{place}.part", one.part, known, "one of compute, link"
        factor = bool(np.isfinite(one.factor)) and one.factor > 0
        yield f"{place}.factor", one.factor, factor, "give a finite number above 0"
        ordered = one.start_s <= one.end_s
        yield f"{place}.end_s", one.end_s, ordered, "it may not end before it starts"
