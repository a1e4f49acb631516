"""Where points run: in this process, in processes of this machine, or on a Ray cluster.

A backend takes tasks and yields outcomes as they are ready. A task that raises is an outcome with
an error; a process that dies takes no other point with it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from ..errors import InputError, UltraEPSimError
from ..model.draws import drawn
from ..trace.mapped import use_mapped
from .points import Point, Row, run_point

Backend = Literal["local", "ray"]
BACKENDS: tuple[str, ...] = get_args(Backend)
_DIED = (
    "the process that ran it died twice, the second time alone in it; it may need more memory than "
    "there is"
)


@dataclass(frozen=True)
class Task:
    """One point to run.

    Attributes
    ----------
    key : str
    point : Point
    mapped : dict of str to str
        Decoded traces that processes share, by the file they stand for.
    """

    key: str
    point: Point
    mapped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes
    ----------
    key : str
    rows : list of dict
    error : str or None
    read : dict of str to float
        In a draw: the numbers drawn and read, by what they are.
    seconds : float
        How long it took, for estimates; part of no result.
    """

    key: str
    rows: list[Row]
    error: str | None = None
    read: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def run_task(task: Task) -> Outcome:
    """Run one task; whatever is wrong with it becomes its outcome."""
    began = time.perf_counter()
    try:
        use_mapped(task.mapped)
        scenario = task.point.scenario()
        with drawn(scenario.draw) as read:
            rows = run_point(task.point, scenario)
    except UltraEPSimError as error:
        return Outcome(task.key, [], str(error))
    except Exception as error:  # a bug at one point must not cost the others
        return Outcome(task.key, [], f"{task.point.place}: {type(error).__name__}: {error}")
    told = {f"{q.source} [{q.unit}]": value for q, value in read.items()}
    return Outcome(task.key, rows, None, told, time.perf_counter() - began)


class Runs(Protocol):
    """A backend: tasks in, outcomes out as they are ready, in any order."""

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Run the tasks."""


def make_backend(name: str, jobs: int, address: str | None = None) -> Runs:
    """Return a backend.

    Parameters
    ----------
    name : {"local", "ray"}
    jobs : int
        Processes; 1 with ``local`` runs in this one.
    address : str, optional
        Of a Ray cluster; None starts one of ``jobs`` workers on this machine.

    Raises
    ------
    InputError
        It is not known, or not installed.
    """
    if name == "ray":
        from .ray_backend import RayRuns

        return RayRuns(jobs, address)
    if name != "local":
        raise InputError(
            "unknown backend", place="--backend", value=name, remedy=f"one of {', '.join(BACKENDS)}"
        )
    return _here if jobs == 1 else _Processes(jobs)


def _here(tasks: Sequence[Task]) -> Iterator[Outcome]:
    for task in tasks:
        yield run_task(task)


class _Processes:
    """joblib's processes. If one dies, those that may have killed it run again, each alone."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        from joblib.externals.loky import get_reusable_executor

        try:
            yield from self._run({task.key: task for task in tasks})
        except BaseException:
            # Ctrl-C, or the reader stopped: nobody waits for what still runs.
            get_reusable_executor().shutdown(wait=False, kill_workers=True)
            raise

    def _run(self, left: dict[str, Task]) -> Iterator[Outcome]:
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        while left:
            try:
                for outcome in self._parallel(list(left.values())):
                    del left[outcome.key]
                    yield outcome
            except TerminatedWorkerError:
                # Those in flight are among the first of what is left.
                for task in list(left.values())[: 2 * self._jobs]:
                    del left[task.key]
                    yield self._alone(task)

    def _parallel(self, tasks: list[Task]) -> Iterator[Outcome]:
        from joblib import Parallel, delayed, parallel_config

        with parallel_config("loky", inner_max_num_threads=1):
            run = Parallel(
                n_jobs=self._jobs,
                batch_size=1,
                pre_dispatch=2 * self._jobs,
                return_as="generator_unordered",
            )
            yield from run(delayed(_in_process)(task) for task in tasks)

    def _alone(self, task: Task) -> Outcome:
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        try:
            (outcome,) = self._parallel([task])
        except TerminatedWorkerError:
            return Outcome(task.key, [], f"{task.point.place}: {_DIED}")
        return outcome


_watching = False


def _in_process(task: Task) -> Outcome:
    """Run a task in a process that ends when the one that started it is gone."""
    global _watching
    if not _watching:
        _watching = True
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return run_task(task)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def failed(task: Task, error: Any) -> Outcome:
    """Return the outcome of a task whose process was lost for good."""
    return Outcome(task.key, [], f"{task.point.place}: {type(error).__name__}: {error}")
