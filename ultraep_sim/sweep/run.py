"""Run a sweep from its file to its rows."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .points import Point, Row, expand, resolve
from .result import SweepResult
from .runner import Halted, Progress, Reader, Runner
from .search import explore, find_smallest, pareto_front
from .spec import SweepSpec
from .store import Part, Store


def run_sweep(
    spec: SweepSpec,
    directory: str | Path | None = None,
    *,
    jobs: int = 1,
    backend: str = "local",
    progress: Progress | None = None,
) -> SweepResult:
    """Run what is missing of a sweep and return all of it.

    Parameters
    ----------
    spec : SweepSpec
    directory : str or Path, optional
        Where points are stored, and found when the sweep is run again; by default nowhere.
    jobs : int
        Processes; 1 runs in this one.
    backend : {"local", "ray"}
    progress : callable, optional
        Called as ``progress(what, done, total)`` after each point.

    Returns
    -------
    SweepResult
        With the points that could not run in ``failures``.

    Raises
    ------
    InputError
        The scenario of a point is wrong (then none runs), or the directory cannot be used.
    """
    if directory is None:
        with tempfile.TemporaryDirectory() as nowhere:
            return run_sweep(spec, nowhere, jobs=jobs, backend=backend, progress=progress)
    store = Store(directory)
    with Runner(spec, store, jobs=jobs, backend=backend, progress=progress) as runner:
        return carry_out(runner)


def carry_out(runner: Runner) -> SweepResult:
    """Run a sweep's grid or search with a runner that holds its directory."""
    spec = runner.spec
    answers: Sequence[Row] = ()
    if spec.smallest is not None:
        answers = find_smallest(runner, spec, spec.smallest)
        probed = {key: point for point, key in runner.asked.items()}
        return gather(spec, list(probed.values()), runner, answers)
    points = expand(spec)
    if spec.pareto is not None and spec.pareto.trials is not None:
        explore(runner, spec, spec.pareto)
        points = [point for point in points if point in runner.asked]
    else:
        runner.run(points)
    result = gather(spec, points, runner)
    if spec.pareto is not None:
        front = pareto_front(result.rows, spec.pareto, spec.columns)
        return SweepResult(spec, result.rows, result.failures, front, result.read)
    return result


def gather(
    spec: SweepSpec, points: Sequence[Point], runner: Runner, answers: Sequence[Row] = ()
) -> SweepResult:
    """Put the parts of points together, in the points' order; those not known are left out."""
    parts: dict[str, Part] = {}
    for point in points:
        key = runner.key(point)
        part = runner.found.get(key)
        if part is not None:
            parts[key] = part
    width = len(spec.columns) + len(spec.repeats)
    rows = [_with_key(row, part.key, width) for part in parts.values() for row in part.rows]
    failures = {key: part.error for key, part in parts.items() if part.error is not None}
    read = {key: part.read for key, part in parts.items() if part.read}
    return SweepResult(spec, rows, failures, answers, read)


def _with_key(row: Row, key: str, width: int) -> Row:
    """Put the point's key after the columns that say which it is."""
    items = list(row.items())
    return dict([*items[:width], ("point", key), *items[width:]])


def known_keys(points: Sequence[Point]) -> dict[str, Point]:
    """Return points by key."""
    return {resolve(point).key: point for point in points}


def stored_points(spec: SweepSpec, store: Store) -> SweepResult:
    """Return what a directory holds of a sweep, and run nothing.

    Of a search there are the points it would come to; a killed search is told as far as it went.
    """
    reader = Reader(spec, store)
    with suppress(Halted):
        return carry_out(reader)
    return gather(spec, list(reader.asked), reader)
