"""A stream of an expert-parallel group: one SimPy process a rank, in step with each other.

A stream runs a *program*, a generator that yields steps (kernels that start together) and events
to wait for. It goes on with the program when the last rank has ended its step, so the program reads
as the sequence of work it is, with the clock at hand where a step starts.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from simpy import Environment, Event, Timeout

from .barrier import Barrier
from .kernels import Kernel, SpanSink

Step = tuple[Kernel, ...]
Program = Iterator[Step | Event]


@dataclass(slots=True)
class Tally:
    """Changes of state so far: what `IterationTimes.events` counts.

    A kernel ended on a rank; a barrier opened (all ranks of a group began a step); activations or
    gradients of a micro-batch arrived at a stage; a stream ended its program, or an operation that
    another stream waited for; a bucket, or with exposed sync a stage, was ready in all replicas; a
    bucket was in sync; a stage's optimizer ended. A kernel that takes no time on a rank is no
    event, nor is the start or the end of a process.
    """

    events: int = 0


class Stream:
    """One stream of all ranks of a group.

    Parameters
    ----------
    env : Environment
    ranks, first_gpu : int
        The group's size and the global rank of its first.
    tally : Tally
    spans : SpanSink or None

    Attributes
    ----------
    compute_s : float
        Sum over the compute kernels run so far, each as long as on its slowest rank.
    """

    def __init__(
        self, env: Environment, ranks: int, first_gpu: int, tally: Tally, spans: SpanSink | None
    ) -> None:
        self.compute_s = 0.0
        self._env = env
        self._first_gpu = first_gpu
        self._tally = tally
        self._spans = spans
        self._program: Program = iter(())
        self._ended = env.event()
        self._gate = env.event()
        self._running: list[list[float]] = []
        self._barrier = Barrier(self._advance)
        for rank in range(ranks):
            env.process(self._rank(rank))

    def run(self, program: Program) -> Event:
        """Start a program on the idle stream; return the event of its end."""
        self._program = program
        self._ended = self._env.event()
        self._advance()
        return self._ended

    def draw(self, kernel: Kernel, window: float) -> None:
        """Give the sink what of a kernel runs from now on inside `window`, hidden behind a step."""
        if self._spans is None:
            return
        start = self._env.now
        for gpu, seconds in enumerate(kernel.seconds, self._first_gpu):
            if seconds > 0 and window > 0:
                end = start + min(seconds, window)
                layer, micro_batch = kernel.layer, kernel.micro_batch
                self._spans(gpu, kernel.lane, kernel.phase, start, end, micro_batch, layer)

    def _rank(self, rank: int) -> Generator[Event, None, None]:
        """One rank: wait for the step, start its kernels; their ends arrive at the barrier."""
        env, arrive = self._env, self._barrier.arrive
        while True:
            yield self._gate
            for seconds in self._running:
                if seconds[rank]:
                    Timeout(env, seconds[rank]).callbacks.append(arrive)

    def _advance(self, _event: Event | None = None) -> None:
        """Go on with the program: open its next step, or wait for what it waits for."""
        for item in self._program:
            if isinstance(item, Event):
                if item.callbacks is not None:
                    item.callbacks.append(self._advance)
                    return
            elif parties := sum([kernel.running for kernel in item]):
                self._open(item, parties)
                return
        self._tally.events += 1
        self._ended.succeed()

    def _open(self, step: Step, parties: int) -> None:
        self._barrier.expect(parties)
        self._tally.events += parties + 1
        self._running = [kernel.seconds for kernel in step]
        for kernel in step:
            if kernel.lane == "compute":
                self.compute_s += kernel.longest
        if self._spans is not None:
            for kernel in step:
                self.draw(kernel, kernel.longest)
        gate, self._gate = self._gate, self._env.event()
        gate.succeed()
