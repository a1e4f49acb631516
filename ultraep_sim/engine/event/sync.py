"""Data-parallel gradient sync: one network stream a pipeline stage, shared by its replicas."""

from __future__ import annotations

from collections.abc import Generator

from simpy import Environment, Event

from ultraep_sim.engine.job import Job

from .barrier import Barrier
from .kernels import NONE, Lane, SpanSink
from .schedule import Pass, Unit, last_backwards
from .streams import Tally


class StageSync:
    """Sends a stage's gradient buckets, in the order in which they get ready, then steps.

    A bucket is ready when the last backward unit of its virtual stage has ended the layer in every
    replica (in a joint unit: both its micro-batches). With ``grad_sync="exposed"`` none leaves
    before the stage's last unit has ended everywhere.

    Parameters
    ----------
    env : Environment
    job : Job
    stage : int
    order : list of Unit
        What the stage runs.
    tally : Tally
    spans : SpanSink or None

    Attributes
    ----------
    sync_end, end : float
        When its gradients are in sync, and when its optimizer has ended; NaN until then.
    """

    def __init__(
        self,
        env: Environment,
        job: Job,
        stage: int,
        order: list[Unit],
        tally: Tally,
        spans: SpanSink | None,
    ) -> None:
        self.sync_end = self.end = float("nan")
        self._env, self._job, self._stage = env, job, stage
        self._tally, self._spans = tally, spans
        self._drained, self._all_ended = self._barrier(job.replicas)
        self._ready: dict[tuple[int, int], Barrier] = {}
        self._buckets: list[tuple[Event, float, int]] = []
        self._last: set[Pass] = set()
        for virtual_stage, unit in last_backwards(order).items():
            self._last.update(unit)
            first, stop = job.layers[virtual_stage]
            for layer in (*range(stop - 1, first - 1, -1), NONE):
                self._add(virtual_stage, layer, job.replicas * len(unit))
        env.process(self._run())

    def layer_ended(self, work: Pass, layer: int) -> None:
        """Note that a replica's backward has ended a MoE layer."""
        if work in self._last:
            self._ready[work.virtual_stage, layer].arrive()

    def extra_ended(self, work: Pass) -> None:
        """Note that a replica's backward has ended, with all that lies outside MoE layers."""
        if work in self._last:
            self._ready[work.virtual_stage, NONE].arrive()

    def stage_ended(self) -> None:
        """Note that a replica has ended its last unit on this stage."""
        if self._job.grad_sync == "exposed":
            self._drained.arrive()

    def _add(self, virtual_stage: int, layer: int, parties: int) -> None:
        job = self._job
        seconds = job.extra_bucket_s[virtual_stage] if layer == NONE else job.bucket_s[layer]
        ready, event = self._barrier(parties)
        self._ready[virtual_stage, layer] = ready
        self._buckets.append((event, float(seconds), layer))

    def _barrier(self, parties: int) -> tuple[Barrier, Event]:
        event = self._env.event()
        return Barrier(event.succeed, parties), event

    def _run(self) -> Generator[Event, None, None]:
        env = self._env
        if self._job.grad_sync == "exposed":
            yield self._all_ended
            self._tally.events += 1
        for ready, seconds, layer in self._buckets:
            yield ready
            self._tally.events += 1
            if seconds > 0:
                self._draw("sync", "grad_sync", seconds, layer)
                self._tally.events += 1
                yield env.timeout(seconds)
        self.sync_end = env.now
        finish = float(self._job.finish_s[self._stage])
        if finish > 0:
            self._draw("compute", "finish", finish, NONE)
            self._tally.events += 1
            yield env.timeout(finish)
        self.end = env.now

    def _draw(self, lane: Lane, phase: str, seconds: float, layer: int) -> None:
        if self._spans is None:
            return
        job, now = self._job, self._env.now
        for replica in range(job.replicas):
            first_gpu = (replica * job.stages + self._stage) * job.ranks
            for gpu in range(first_gpu, first_gpu + job.ranks):
                self._spans(gpu, lane, phase, now, now + seconds, NONE, layer)
