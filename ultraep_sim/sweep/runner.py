"""Run points that are not stored yet, and store each as soon as it is known."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from ..engine.digests import code_digest
from ..trace.mapped import map_trace
from .backends import Runs, Task, make_backend, run_task
from .points import Point, Resolved, resolve
from .spec import SweepSpec
from .store import Part, Store

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Estimate:
    """What there is to do, before it is begun.

    Attributes
    ----------
    points, stored, failed : int
        Of the sweep; stored earlier; failed earlier, and not to be run again.
    pilot_s : float
        How long one point took, once compiled; NaN where none ran.
    seconds : float
        What the rest will take with so many processes.
    """

    points: int
    stored: int
    failed: int
    pilot_s: float
    seconds: float


@dataclass
class Runner:
    """Runs points of one sweep, in a ``with`` block.

    Parameters
    ----------
    spec : SweepSpec
    store : Store
    jobs : int
        Processes.
    backend, address : str
        As in `ultraep_sim.sweep.backends.make_backend`.
    retry_failed : bool
        Whether points that failed earlier are run again.
    progress : callable, optional
        Called as ``progress(what, done, total)`` after each point.

    Attributes
    ----------
    found : dict of str to Part
        What is known, by key.
    asked : dict of Point to str
        Keys of the points that were to run, in order of asking.
    """

    spec: SweepSpec
    store: Store
    jobs: int = 1
    backend: str = "local"
    address: str | None = None
    retry_failed: bool = False
    progress: Progress | None = None
    found: dict[str, Part] = field(default_factory=dict)
    asked: dict[Point, str] = field(default_factory=dict)
    _known: dict[Point, Resolved] = field(default_factory=dict)
    _runs: Runs | None = None
    _mapped: dict[str, str] = field(default_factory=dict)
    _held: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Runner:
        self._runs = make_backend(self.backend, self.jobs, self.address)
        self._held.enter_context(self.store.open(_manifest(self.spec)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._held.__exit__(kind, error, trace)

    def key(self, point: Point) -> str:
        """Return a point's key.

        Raises
        ------
        InputError
            Its scenario is wrong.
        """
        return self._resolved(point).key

    def _resolved(self, point: Point) -> Resolved:
        if point not in self._known:
            self._known[point] = resolve(point)
        return self._known[point]

    def run(self, points: Sequence[Point], what: str = "points") -> list[Part]:
        """Return the parts of some points, in their order; those not stored are run.

        Raises
        ------
        InputError
            The scenario of one is wrong; then none runs.
        """
        keys = [self.key(point) for point in points]
        self.asked.update(zip(points, keys, strict=True))
        tasks = self._missing(points)
        done, total = len(keys) - len(tasks), len(keys)
        if self.progress is not None:
            self.progress(what, done, total)
        if tasks:
            assert self._runs is not None, "use the runner in a with block"  # noqa: S101
            for outcome in self._runs(tasks):
                part = Part(outcome.key, outcome.rows, outcome.error, outcome.read or None)
                self.found[outcome.key] = self.store.add(part)
                done += 1
                if self.progress is not None:
                    self.progress(what, done, total)
        return [self.found[key] for key in keys]

    def estimate(self, points: Sequence[Point]) -> Estimate:
        """Say what there is to do; the first point is run for that, and stored.

        The pilot is timed at its second run where the first, which compiles, is short.
        """
        keys = {self.key(point) for point in points}
        tasks = self._missing(points)
        failed = sum(self.found[key].error is not None for key in keys if key in self.found)
        stored = len(keys) - len(tasks) - failed
        if not tasks:
            return Estimate(len(keys), stored, failed, float("nan"), 0.0)
        pilot = run_task(tasks[0])
        self.found[pilot.key] = self.store.add(
            Part(pilot.key, pilot.rows, pilot.error, pilot.read or None)
        )
        seconds = pilot.seconds if pilot.error is None else float("nan")
        if seconds < _WARM_AGAIN_S:
            began = time.perf_counter()
            run_task(tasks[0])
            seconds = time.perf_counter() - began
        rest = seconds * (len(tasks) - 1) / self.jobs
        return Estimate(len(keys), stored, failed, seconds, rest)

    def _missing(self, points: Sequence[Point]) -> list[Task]:
        """Return tasks for what is neither stored nor known to fail, each once."""
        failed = {} if self.retry_failed else self.store.failed()
        done = self.store.done()
        tasks: dict[str, Task] = {}
        for point in points:
            key = self.key(point)
            if key in self.found or key in tasks:
                continue
            stored = self.store.read(key) if key in done else None
            if stored is not None:
                self.found[key] = stored
            elif key in failed:
                self.found[key] = Part(key, [], failed[key])
            else:
                tasks[key] = Task(key, point, self._share(point))
        return list(tasks.values())

    def _share(self, point: Point) -> dict[str, str]:
        """Decode the point's trace once for all processes."""
        trace = self._resolved(point).trace
        if trace is None or self.jobs == 1:
            return {}
        name = str(trace.absolute())
        if name not in self._mapped:
            folder = map_trace(trace, self.store.traces)
            if folder is None:
                return {}
            self._mapped[name] = str(folder.absolute())
        return {name: self._mapped[name]}


class Halted(Exception):  # noqa: N818  (not an error: nothing more is stored)
    """A search needs points that are not stored, and nothing may be run."""


class Reader(Runner):
    """A runner that only reads: grids are told as far as they are stored."""

    def run(self, points: Sequence[Point], what: str = "points") -> list[Part]:
        """Return the parts that are stored.

        Raises
        ------
        Halted
            A search asks for some that are not.
        """
        keys = [self.key(point) for point in points]
        self.asked.update(zip(points, keys, strict=True))
        if self._missing(points) and what != "points":
            raise Halted
        return [self.found[key] for key in keys if key in self.found]


#: A pilot is timed at its second run where the first, which compiles, was shorter.
_WARM_AGAIN_S = 20.0


def _manifest(spec: SweepSpec) -> dict[str, object]:
    """Say whose parts these are, so that ``resume`` needs nothing but the directory."""
    return {
        "question": spec.question,
        "file": None if spec.source_path is None else str(spec.source_path.absolute()),
        "sweep": spec.model_dump(mode="json", exclude_none=True)
        | {"base": str(spec.base_path.absolute())},
        "code": code_digest(),
        "command": sys.argv[1:],
    }


def directory_of(path: Path) -> Path:
    """Return where the results of a sweep file go unless a person says otherwise."""
    return Path("runs") / path.stem
