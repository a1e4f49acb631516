"""A campaign of iterations on GPUs that get lost.

A lost GPU stops the whole job. What was computed since the last checkpoint is lost, the job waits
for its restart (detection, a spare GPU, loading the checkpoint) and goes on from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from simpy import Environment, Event, Interrupt

from ultraep_sim.errors import InputError, UltraEPSimError
from ultraep_sim.model.conditions import MEAN_TIME_BETWEEN_FAILURES

from .barrier import Arrival

# Random stream of this file, beside the scenario's seed: adding a stream elsewhere moves nothing.
_FAILURE_STREAM = int.from_bytes(b"lost")

# Restarts in a row without a checkpoint after which a job is not going to end.
_HOPELESS = 10_000


class Failure(NamedTuple):
    """A GPU lost at a moment of simulated time."""

    gpu: int
    time_s: float


@dataclass(frozen=True)
class CampaignTimes:
    """Where the time of a campaign went; ``total_s`` is the sum of the four that follow it.

    Attributes
    ----------
    total_s : float
    useful_s : float
        Iterations, each counted once.
    checkpoint_s : float
        Writing checkpoints to their end.
    lost_s : float
        Iterations that were done again, in part or whole, and writes that were broken off.
    restart_s : float
        Waiting for restarts, broken-off ones included.
    goodput : float
        ``useful_s / total_s``.
    restarts, checkpoints : int
        Restarts begun, and checkpoints written to their end.
    iteration_end_s : float64 [iterations]
        When each iteration ended for the last time.
    struck : tuple of Failure
        The failures that stopped the job; it ended before the others.
    """

    total_s: float
    useful_s: float
    checkpoint_s: float
    lost_s: float
    restart_s: float
    goodput: float
    restarts: int
    checkpoints: int
    iteration_end_s: NDArray[np.float64]
    struck: tuple[Failure, ...]


def poisson_failures(
    seed: int,
    gpus: int,
    mean_time_between_s: float = MEAN_TIME_BETWEEN_FAILURES.si,
    horizon_s: float = math.inf,
) -> Iterator[Failure]:
    """Draw failures that strike every GPU at the same constant rate, lost GPUs being replaced.

    Parameters
    ----------
    seed : int
        The same seed with a later horizon gives the same failures and more.
    gpus : int
    mean_time_between_s : float
        Of one GPU.
    horizon_s : float
        Draw up to here; endless by default.

    Returns
    -------
    iterator of Failure
        In order of time.

    Raises
    ------
    InputError
        No GPUs, a mean time that is not positive, a negative horizon.
    """
    if gpus < 1:
        raise InputError("no GPUs to lose", place="gpus", value=gpus, remedy="give 1 or more")
    _check("mean_time_between_s", mean_time_between_s, positive=True)
    if not horizon_s >= 0:
        raise InputError("not a horizon", place="horizon_s", value=horizon_s, remedy="give 0 up")
    return _poisson(seed, gpus, mean_time_between_s / gpus, horizon_s)


def _poisson(seed: int, gpus: int, mean_s: float, horizon_s: float) -> Iterator[Failure]:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_FAILURE_STREAM,)))
    now = 0.0
    while (now := now + float(rng.exponential(mean_s))) < horizon_s:
        yield Failure(int(rng.integers(gpus)), now)


def run_campaign(
    iteration_s: Callable[[int], float] | Sequence[float],
    failures: Iterable[Failure],
    *,
    checkpoint_every: int,
    checkpoint_s: float,
    restart_s: float,
    iterations: int | None = None,
) -> CampaignTimes:
    """Run iterations until all are done, in spite of failures.

    Parameters
    ----------
    iteration_s : callable or sequence of float
        Seconds of iteration ``i``, from 0. An iteration that is done again takes the same time.
    failures : iterable of Failure
        In order of time; may be endless. Those of one instant are one interruption; one during a
        restart starts the restart anew; one at the very end of an iteration or of a write still
        loses it.
    checkpoint_every : int
        Iterations from one checkpoint to the next; the job stands still while it is written, and
        the state before the first iteration needs none.
    checkpoint_s, restart_s : float
        Seconds of a write and of a restart.
    iterations : int, optional
        How many; by default the length of the sequence.

    Returns
    -------
    CampaignTimes

    Raises
    ------
    InputError
        An impossible number, failures out of order, or a callable without `iterations`.
    UltraEPSimError
        The job never reaches a checkpoint: 10,000 restarts in a row.
    """
    count = _count(iteration_s, iterations)
    if checkpoint_every < 1:
        raise InputError(
            "no such interval", place="checkpoint_every", value=checkpoint_every, remedy="give 1 up"
        )
    _check("checkpoint_s", checkpoint_s)
    _check("restart_s", restart_s)
    length = iteration_s if callable(iteration_s) else iteration_s.__getitem__
    campaign = _Campaign(length, count, checkpoint_every, float(checkpoint_s), float(restart_s))
    return campaign.run(iter(failures))


class _Campaign:
    """The job as one process, and one event a failure."""

    def __init__(
        self,
        length: Callable[[int], float],
        count: int,
        every: int,
        checkpoint_s: float,
        restart_s: float,
    ) -> None:
        self._env = Environment()
        self._failures: Iterator[Failure] = iter(())
        self._length, self._count, self._every = length, count, every
        self._checkpoint_s, self._restart_s = checkpoint_s, restart_s
        self._ends = np.zeros(count)
        self._spent = dict.fromkeys(("useful", "checkpoint", "lost", "restart"), 0.0)
        self._saved = 0  # iterations that the last checkpoint holds
        self._since = 0.0  # when work began that no checkpoint holds yet
        self._in_a_row = 0  # restarts since the last checkpoint
        self._hit_at = -1.0  # when the last failure struck
        self._restarts = self._checkpoints = 0
        self._struck: list[Failure] = []

    def run(self, failures: Iterator[Failure]) -> CampaignTimes:
        env = self._env
        self._failures = failures
        self._await_next_failure()
        self._job = env.process(self._work())
        env.run(until=self._job)
        spent = self._spent
        return CampaignTimes(
            total_s=env.now,
            useful_s=spent["useful"],
            checkpoint_s=spent["checkpoint"],
            lost_s=spent["lost"],
            restart_s=spent["restart"],
            goodput=spent["useful"] / env.now if env.now else 1.0,
            restarts=self._restarts,
            checkpoints=self._checkpoints,
            iteration_end_s=self._ends,
            struck=tuple(self._struck),
        )

    def _await_next_failure(self) -> None:
        failure = next(self._failures, None)
        if failure is None:
            return
        now = self._env.now
        if not (failure.time_s >= now and math.isfinite(failure.time_s)):
            raise InputError(
                f"failures go back in time, at {now:g} s",
                place=f"failure of GPU {failure.gpu}",
                value=failure.time_s,
                remedy="give them in order, from 0 s on",
            )
        event = Arrival(self._env)
        event.callbacks.append(partial(self._strike, failure))
        # What ends at the same instant is begun later, so that SimPy lets the failure come first.
        event.send(failure.time_s - now)

    def _strike(self, failure: Failure, _event: Event) -> None:
        self._struck.append(failure)
        if self._env.now > self._hit_at:  # a second GPU of the same instant stops nothing more
            self._hit_at = self._env.now
            self._job.interrupt()
        self._await_next_failure()

    def _work(self) -> Generator[Event, None, None]:
        interrupted = False
        while True:
            try:
                if interrupted:
                    yield from self._restart()
                yield from self._go_on()
            except Interrupt:
                interrupted = True
                self._check_hope()
            else:
                return

    def _go_on(self) -> Generator[Event, None, None]:
        """Work from the last checkpoint to the end; an interrupt loses what no checkpoint holds."""
        env, done, useful = self._env, self._saved, 0.0
        self._since = env.now
        try:
            while done < self._count:
                seconds = float(self._length(done))
                _check(f"iteration {done}", seconds)
                yield env.timeout(seconds)
                self._ends[done] = env.now
                useful += seconds
                done += 1
                if done % self._every == 0:
                    yield env.timeout(self._checkpoint_s)
                    self._keep(done, useful)
                    useful = 0.0
        except Interrupt:
            self._spent["lost"] += env.now - self._since
            raise
        self._spent["useful"] += useful

    def _check_hope(self) -> None:
        self._in_a_row += 1
        if self._in_a_row > _HOPELESS:
            raise UltraEPSimError(
                f"no checkpoint in {_HOPELESS} restarts in a row, after {self._saved} iterations: "
                f"failures come faster than work is saved; checkpoint more often"
            )

    def _keep(self, done: int, useful: float) -> None:
        self._saved, self._since = done, self._env.now
        self._spent["useful"] += useful
        self._spent["checkpoint"] += self._checkpoint_s
        self._checkpoints += 1
        self._in_a_row = 0

    def _restart(self) -> Generator[Event, None, None]:
        begun = self._env.now
        self._restarts += 1
        try:
            yield self._env.timeout(self._restart_s)
        finally:
            self._spent["restart"] += self._env.now - begun


def _count(iteration_s: Callable[[int], float] | Sequence[float], iterations: int | None) -> int:
    if iterations is None:
        if callable(iteration_s):
            raise InputError(
                "how many iterations?", place="iterations", value=None, remedy="give their number"
            )
        return len(iteration_s)
    if iterations < 0 or (not callable(iteration_s) and iterations > len(iteration_s)):
        raise InputError(
            "not so many iterations",
            place="iterations",
            value=iterations,
            remedy="give 0 to the length of the sequence",
        )
    return iterations


def _check(place: str, seconds: float, *, positive: bool = False) -> None:
    if not math.isfinite(seconds) or seconds < 0 or (positive and seconds == 0):
        raise InputError(
            "not a length of time",
            place=place,
            value=seconds,
            remedy=f"give finite seconds {'above' if positive else 'from'} 0",
        )
