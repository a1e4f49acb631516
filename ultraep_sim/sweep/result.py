"""The rows of a sweep, in the order of its points whatever order they were found in."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .points import BETWEEN_NOTES, Row, columns_of
from .spec import SweepSpec
from .store import tidy


@dataclass(frozen=True)
class SweepResult:
    """The rows of all points.

    Attributes
    ----------
    spec : SweepSpec
    rows : list of dict
        Axes first, ``seed`` and ``draw`` where there are several, ``point`` (its key), then the
        columns of a run's result rows; ``fits`` and ``memory_GB``, whether the fullest GPU's
        memory suffices and how much it holds; ``workload``, which says what the loads are;
        ``notes``, what else a reader of the run must know. One a point and policy.
    failures : dict of str to str
        Why points have no rows, by key.
    answers : list of dict
        What a search found, one a combination of the axes; the rows of a Pareto front.
    read : dict of str to dict
        By point of a draw: the numbers that were drawn and read, by what they are.
    """

    spec: SweepSpec
    rows: list[Row]
    failures: Mapping[str, str] = field(default_factory=dict)
    answers: Sequence[Row] = ()
    read: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """All columns, in order of appearance."""
        return columns_of(self.rows)

    @property
    def notes(self) -> list[str]:
        """What a reader must know, each once, and of how many points it is true if not of all."""
        points: set[tuple[Any, ...]] = set()
        found: dict[str, set[tuple[Any, ...]]] = {}
        for row in self.rows:
            at = tuple(row.get(name) for name in (*self.spec.columns, *self.spec.repeats))
            points.add(at)
            for text in filter(None, str(row.get("notes", "")).split(BETWEEN_NOTES)):
                found.setdefault(text, set()).add(at)
        return [
            text
            if len(where) == len(points)
            else f"{text} (at {len(where)} of {len(points)} points)"
            for text, where in found.items()
        ]

    def to_csv(self) -> str:
        """Return the rows as CSV; what a row does not have stays empty."""
        return to_csv(self.rows)

    def write(self, directory: str | Path, *, plot: bool = True) -> list[Path]:
        """Write ``sweep.csv``, ``sweep.parquet``, ``answers.csv`` of a search, and the plot.

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
        # What an earlier sweep left must not stand beside the rows of this one.
        for old in ("sweep.png", "sweep.svg", "answers.csv"):
            (directory / old).unlink(missing_ok=True)
        files = [directory / "sweep.csv", directory / "sweep.parquet"]
        files[0].write_text(self.to_csv(), encoding="utf-8")
        table = {name: tidy([row.get(name) for row in self.rows]) for name in self.columns}
        pq.write_table(pa.table(table), files[1], compression="zstd")
        if self.answers:
            files.append(directory / "answers.csv")
            files[-1].write_text(to_csv(self.answers), encoding="utf-8")
        if plot and self.rows and self.spec.plot is not None:
            from ..report.plot_sweep import draw

            files += draw(nominal(self.rows), self.spec.plot, directory / "sweep")
        return files


def nominal(rows: Sequence[Row]) -> list[Row]:
    """Leave out the draws of parameters and all seeds but the first."""
    rows = [row for row in rows if not row.get("draw")]
    first = rows[0].get("seed") if rows else None
    return [row for row in rows if row.get("seed") == first]


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; what a row does not have stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
