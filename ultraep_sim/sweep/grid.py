"""Run a sweep point by point. A point is a scenario file and its overrides, so it can run anywhere.

Points do not know of each other: their keys say what they are, and rows found earlier under the
same key stand for running them again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, ScenarioError
from .spec import SweepSpec, ValueSpec

Row = dict[str, Any]
_BETWEEN_NOTES = " | "
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes
    ----------
    base : Path
        Scenario file.
    values : tuple of (str, value)
        Axis and how its value is called.
    overrides : tuple of str
        ``path=value`` each, as of ``--set``.
    """

    base: Path
    values: tuple[tuple[str, Any], ...]
    overrides: tuple[str, ...]

    @property
    def key(self) -> str:
        """Digest of the scenario file's content and the overrides: what decides the rows."""
        found = hashlib.sha256(self.base.read_bytes())
        found.update(json.dumps(self.overrides).encode())
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class SweepResult:
    """The rows of all points.

    Attributes
    ----------
    spec : SweepSpec
    rows : list of dict
        Axes first, then the columns of a run's result rows; ``fits`` and ``memory_GB``, whether
        the fullest GPU's memory suffices and how much it holds; ``workload``, which says what the
        loads are; ``notes``, what else a reader of the run must know. One a point and policy.
    """

    spec: SweepSpec
    rows: list[Row]

    @property
    def columns(self) -> list[str]:
        """All columns, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def notes(self) -> list[str]:
        """What a reader must know, each once, and of how many points it is true if not of all."""
        points: set[tuple[Any, ...]] = set()
        found: dict[str, set[tuple[Any, ...]]] = {}
        for row in self.rows:
            at = tuple(row.get(name) for name in self.spec.columns)
            points.add(at)
            for text in filter(None, str(row.get("notes", "")).split(_BETWEEN_NOTES)):
                found.setdefault(text, set()).add(at)
        return [
            text
            if len(where) == len(points)
            else f"{text} (at {len(where)} of {len(points)} points)"
            for text, where in found.items()
        ]

    def to_csv(self) -> str:
        """Return the rows as CSV; what a row does not have stays empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def write(self, directory: str | Path, *, plot: bool = True) -> list[Path]:
        """Write ``sweep.csv``, ``sweep.parquet``, and the plot if there is one.

        Parameters
        ----------
        directory : str or Path
            Made if it does not exist.
        plot : bool
            False where points are missing: half a grid makes a picture that misleads.

        Returns
        -------
        list of Path
            What was written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        files = [directory / "sweep.csv", directory / "sweep.parquet"]
        files[0].write_text(self.to_csv(), encoding="utf-8")
        table = {name: _column([row.get(name) for row in self.rows]) for name in self.columns}
        pq.write_table(pa.table(table), files[1], compression="zstd")
        # A picture of an earlier sweep must not stand beside the rows of this one.
        for suffix in (".png", ".svg"):
            (directory / "sweep").with_suffix(suffix).unlink(missing_ok=True)
        if plot and self.spec.plot is not None:
            from ..report.plot_sweep import draw

            files += draw(self.rows, self.spec.plot, directory / "sweep")
        return files


def _column(values: list[Any]) -> list[Any]:
    """Return a column of one type: text where an axis mixes text and numbers."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or len(kinds) <= 1:
        return values
    return [None if value is None else str(value) for value in values]


def expand(spec: SweepSpec) -> list[Point]:
    """Return the points of a sweep, the last axis fastest."""
    axes = [[(name, one) for one in spec.axis(name)] for name in spec.vary]
    return [_point(spec, chosen) for chosen in itertools.product(*axes)]


def _point(spec: SweepSpec, chosen: tuple[tuple[str, ValueSpec], ...]) -> Point:
    values = {k: v for name, one in chosen for k, v in one.columns(name).items()}
    changes = [*spec.set.items(), *(item for _, one in chosen for item in one.set.items())]
    folder = spec.base_path.parent if spec.source_path is None else spec.source_path.parent
    return Point(
        spec.base_path,
        tuple(values.items()),
        tuple(_override(path, value, folder) for path, value in changes),
    )


def _override(path: str, value: Any, folder: Path) -> str:
    if path == "workload.trace" and isinstance(value, str):
        value = str((folder / value).absolute())  # an override names it from where it is run
    return f"{path}={json.dumps(value)}"


def run_point(point: Point) -> list[Row]:
    """Run one point.

    Raises
    ------
    InputError
        The scenario is wrong or cannot run at this point; the message says which point.
    """
    from ..engine.run import run_scenario
    from ..scenario import load_scenario

    with _named(point):
        result = run_scenario(load_scenario(point.base, point.overrides))
    memory = {part["policy"]: part for part in result.memory}
    too_large = tuple(f"{label} does not fit: " for label in memory)  # told by `fits`
    notes = [text for text in result.notes if not text.startswith(too_large)]
    told = {"workload": result.workload_label, "notes": _BETWEEN_NOTES.join(notes)}
    rows = []
    for row in result.rows:
        used = memory[row["policy"]]
        size = {"fits": bool(used["fits"]), "memory_GB": float(used["total"]) / 1e9}
        rows.append(dict(point.values) | row | size | told)
    return rows


def check_points(points: Iterable[Point]) -> None:
    """Read the scenario of every point, which is cheap; run none.

    Raises
    ------
    InputError
        The scenario is wrong at a point; the message says at which.
    """
    from ..scenario import load_scenario

    for point in points:
        with _named(point):
            load_scenario(point.base, point.overrides)


@contextmanager
def _named(point: Point) -> Iterator[None]:
    """Let an error say at which point it was."""
    try:
        yield
    except InputError as error:
        at = ", ".join(f"{name}={value}" for name, value in point.values)
        raise ScenarioError(
            f"a point of the sweep cannot run: {error}", place=at, remedy="leave it out"
        ) from error


def run_sweep(
    spec: SweepSpec,
    *,
    progress: Progress | None = None,
    known: Mapping[str, Sequence[Row]] | None = None,
    on_rows: Callable[[Sequence[Row]], None] | None = None,
) -> SweepResult:
    """Run all points of a sweep in this process; none runs if the scenario of one is wrong.

    Parameters
    ----------
    spec : SweepSpec
    progress : callable, optional
        Called as ``progress(what, done, total)`` after each point.
    known : mapping of str to sequence of dict, optional
        Rows of points that need not run, by `Point.key`.
    on_rows : callable, optional
        Called with the rows of each point as they are found, so that they outlive an interrupt.

    Raises
    ------
    InputError
        A point cannot run.
    """
    points = expand(spec)
    told = {} if known is None else known
    check_points(point for point in points if point.key not in told)
    rows: list[Row] = []
    for done, point in enumerate(points, start=1):
        found = told[point.key] if point.key in told else run_point(point)
        rows += found
        if on_rows is not None:
            on_rows(found)
        if progress is not None:
            progress("points", done, len(points))
    return SweepResult(spec, rows)
