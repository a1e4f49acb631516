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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, ScenarioError
from .spec import SweepSpec, ValueSpec

Row = dict[str, Any]
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
        Axes first, then the columns of a run's result rows, and ``workload``, which says what the
        loads are; one a point and policy.
    """

    spec: SweepSpec
    rows: list[Row]

    @property
    def columns(self) -> list[str]:
        """All columns, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def to_csv(self) -> str:
        """Return the rows as CSV; what a row does not have stays empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def write(self, directory: str | Path) -> list[Path]:
        """Write ``sweep.csv``, ``sweep.parquet``, and the plot if there is one.

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
        if self.spec.plot is not None:
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

    try:
        result = run_scenario(load_scenario(point.base, point.overrides))
    except InputError as error:
        at = ", ".join(f"{name}={value}" for name, value in point.values)
        raise ScenarioError(
            f"a point of the sweep cannot run: {error}", place=at, remedy="leave it out"
        ) from error
    told = {"workload": result.workload_label}
    return [dict(point.values) | row | told for row in result.rows]


def run_sweep(
    spec: SweepSpec,
    *,
    progress: Progress | None = None,
    known: Mapping[str, Sequence[Row]] | None = None,
) -> SweepResult:
    """Run all points of a sweep in this process.

    Parameters
    ----------
    spec : SweepSpec
    progress : callable, optional
        Called as ``progress(what, done, total)`` after each point.
    known : mapping of str to sequence of dict, optional
        Rows of points that need not run, by `Point.key`.
    """
    points = expand(spec)
    rows: list[Row] = []
    for done, point in enumerate(points, start=1):
        found = None if known is None else known.get(point.key)
        rows += run_point(point) if found is None else found
        if progress is not None:
            progress("points", done, len(points))
    return SweepResult(spec, rows)
