"""The published tables, and the one door through which the simulation may look at them.

A published figure is either *fitted* (a parameter rests on it, so that meeting it says nothing) or
*judged*. `Tables.inputs` returns the same tables with every judged cell blank and every reading of
the others noted: what is simulated from those cannot know what it is judged by. The cells that were
read make the manifest.

`fitted_cells.csv` says which cells may be read at run time, `constant_cells.csv` on which ones a
constant in the code was fitted before. Columns that are not in `MEASURED` are settings: what was
run, not what came out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InputError

FOLDER = Path(__file__).with_name("anchors")

#: What tells the rows of a table apart.
KEYS: dict[str, tuple[str, ...]] = {
    "training": ("model", "policy"),
    "layer_breakdown": ("model", "direction", "part", "policy"),
    "weight_distribution": ("case", "initial_imbalance", "transport"),
    "serving": ("model", "workload", "policy"),
    "planner": ("case", "initial_imbalance", "policy"),
    "settings": ("model",),
}
#: What was measured; everything else in a table is a setting.
MEASURED: dict[str, tuple[str, ...]] = {
    "training": ("tflops_per_gpu", "mean_rank_imbalance"),
    "layer_breakdown": ("latency_ms",),
    "weight_distribution": ("latency_ms", "critical_path_GBps"),
    "serving": ("mean_rank_imbalance", "requests_per_second_at_slo"),
    "planner": (
        "final_imbalance", "solve_ms", "slots_used", "max_fanout", "in_flight_token_fraction",
    ),
    "settings": (),
}  # fmt: skip

#: How the provenance of a row begins that does not ship.
GIVEN = "given by --published"

Cell = tuple[str, str, str]
"""Table, row (its keys, joined by `` | ``) and column."""


class Record(dict[str, str]):
    """A row that notes which of its measured cells are looked at."""

    def __init__(self, table: str, cells: Mapping[str, str], read: set[Cell] | None = None) -> None:
        super().__init__(cells)
        self.table, self._read = table, read

    def __getitem__(self, column: str) -> str:
        text = super().__getitem__(column)
        if self._read is not None and text.strip() and column in MEASURED[self.table]:
            self._read.add((self.table, row_name(self.table, self), column))
        return text


def row_name(table: str, row: Mapping[str, str]) -> str:
    """Name a row by its keys, numbers in one form (``2`` and ``2.0`` are the same)."""
    return " | ".join(_plain(row.get(key, "")) for key in KEYS[table])


def _plain(text: str) -> str:
    try:
        return f"{float(text):g}"
    except ValueError:
        return text.strip()


@dataclass(frozen=True)
class Tables:
    """All published tables.

    Attributes
    ----------
    rows : dict of str to list of Record
        By table, in the order of the files; cells as text.
    read : set of Cell
        Measured cells that were looked at; only `inputs` notes them.
    """

    rows: dict[str, list[Record]]
    read: set[Cell] = field(default_factory=set)

    def __getitem__(self, table: str) -> list[Record]:
        """Return the rows of a table."""
        return self.rows[table]

    def find(self, table: str, **keys: str) -> Record | None:
        """Return the first row with these cells; None where there is none."""
        return next((row for row in self.rows[table] if _matches(row, keys)), None)

    def inputs(self) -> Tables:
        """Return what a simulation may see: judged cells blank, readings of the others noted."""
        read: set[Cell] = set()
        rows = {
            table: [Record(table, _blanked(table, row), read) for row in found]
            for table, found in self.rows.items()
        }
        return Tables(rows, read)

    def constants(self) -> set[Cell]:
        """Return the cells on which constants of the code were fitted, of those that are here."""
        return {
            (table, row_name(table, row), column)
            for table, found in self.rows.items()
            for row in found
            for column in _declared(table, row, "constant_cells.csv")
            if (row.get(column) or "").strip()
        }


def load_tables(more: str | Path | None = None) -> Tables:
    """Read the tables that ship, and over them those of a folder.

    Parameters
    ----------
    more : path, optional
        Folder of CSV files of the same names and columns (any of them). A row with the keys of one
        that ships replaces its cells, blank ones excepted; any other row is added.

    Raises
    ------
    InputError
        No such folder, none of the files in it, a file without a key column or with a measured
        cell that is no number.
    """
    rows = {table: _read(FOLDER / f"{table}.csv", table) for table in KEYS}
    if more is not None:
        folder = Path(more)
        found = [table for table in KEYS if (folder / f"{table}.csv").is_file()]
        if not found:
            raise InputError(
                "no published table is here", file=folder, place="--published",
                remedy=f"give a folder with one of {', '.join(f'{name}.csv' for name in KEYS)}",
            )  # fmt: skip
        for table in found:
            _overlay(table, rows[table], _read(folder / f"{table}.csv", table))
    return Tables(rows)


def number(text: str | None) -> float | None:
    """Read a cell; an empty one was not published."""
    return float(text) if text is not None and text.strip() else None


def parameter_of(cell: Cell, tables: Tables) -> str:
    """Say what a fitted cell decides."""
    table, name, column = cell
    row = next(row for row in tables.rows[table] if row_name(table, row) == name)
    for file in ("fitted_cells.csv", "constant_cells.csv"):
        if found := _declared(table, row, file).get(column):
            return found
    raise ValueError(f"{cell} is not declared")  # a cell that is not declared is blank


def _read(path: Path, table: str) -> list[Record]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [key for key in KEYS[table] if key not in (reader.fieldnames or ())]
        if missing:
            raise InputError(
                "a column is missing", file=path, place="header", value=", ".join(missing),
                remedy=f"the table needs {', '.join((*KEYS[table], *MEASURED[table]))}",
            )  # fmt: skip
        found = []
        for line, cells in enumerate(reader, start=2):
            row = {key: value or "" for key, value in cells.items() if isinstance(key, str)}
            _check(path, line, table, row)
            found.append(Record(table, dict.fromkeys(MEASURED[table], "") | row))
        return found


def _check(path: Path, line: int, table: str, row: Mapping[str, str]) -> None:
    for column in (*MEASURED[table], "initial_imbalance"):
        try:
            value = number(row.get(column))
        except ValueError:
            value = -1.0
        if value is not None and not 0 < value < float("inf"):
            raise InputError(
                "not a positive number", file=path, place=f"line {line}, {column}",
                value=row[column], remedy="give a number, or nothing where none is published",
            )  # fmt: skip


def _overlay(table: str, old: list[Record], new: list[Record]) -> None:
    at = {row_name(table, row): index for index, row in enumerate(old)}
    for row in new:
        name = row_name(table, row)
        if name in at:
            given = {key: value for key, value in row.items() if value.strip()}
            if any(old[at[name]].get(key) != value for key, value in given.items()):
                old[at[name]] = Record(table, {**old[at[name]], **given, **_given(row)})
        else:
            at[name] = len(old)
            old.append(Record(table, {**row, **_given(row)}))


def _given(row: Mapping[str, str]) -> dict[str, str]:
    told = row.get("provenance", "").strip()
    return {"provenance": f"{GIVEN}: {told}" if told else GIVEN}


def _blanked(table: str, row: Mapping[str, str]) -> dict[str, str]:
    seen = _declared(table, row, "fitted_cells.csv")
    return {k: "" if k in MEASURED[table] and k not in seen else v for k, v in row.items()}


def _declared(table: str, row: Mapping[str, str], file: str) -> dict[str, str]:
    """Return the columns of a row that a file declares, and what each decides."""
    return {
        column: parameter
        for name, keys, columns, parameter in _declarations(file)
        if name == table and _matches(row, keys)
        for column in columns
    }


def _matches(row: Mapping[str, str], keys: Mapping[str, str]) -> bool:
    return all(_plain(row.get(key, "")) == _plain(value) for key, value in keys.items())


@cache
def _declarations(file: str) -> tuple[tuple[str, dict[str, str], tuple[str, ...], str], ...]:
    return tuple(_parsed(Path(__file__).with_name(file)))


def _parsed(path: Path) -> Iterator[tuple[str, dict[str, str], tuple[str, ...], str]]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            keys: dict[str, Any] = dict(part.split("=", 1) for part in row["where"].split(";"))
            yield row["table"], keys, tuple(row["columns"].split(";")), row["parameter"]
