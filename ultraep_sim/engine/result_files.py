"""The files of a result directory, written so that a directory with a summary is complete."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from .spill import ROW_GROUP

if TYPE_CHECKING:
    from ..scenario import Scenario

_PACKAGES = ("ultraep-sim", "numpy", "numba", "pyarrow", "pydantic")

#: Every table some kind of run writes.
_TABLES = ("result", "iterations", "requests")


def write_result(
    directory: str | Path,
    scenario: Scenario,
    tables: Mapping[str, pa.Table | Iterable[pa.Table]],
    said: Mapping[str, Any],
    command: Sequence[str],
    packages: Sequence[str] = (),
) -> Path:
    """Write the tables, the resolved ``scenario.yaml`` and ``summary.json``.

    Parameters
    ----------
    directory : str or Path
        Made if it does not exist. Files of an earlier run in it are replaced; its tables that this
        run does not have are removed, so that they do not stand beside the numbers of this one.
    scenario : Scenario
    tables : mapping of str to pyarrow.Table
        By the stem of their file. One that does not fit in memory may come as an iterable of its
        parts, each of `ROW_GROUP` rows at most.
    said : mapping of str to object
        What the summary tells between the scenario and the versions.
    command : sequence of str
        How the run was started.
    packages : sequence of str
        Whose versions count besides the usual ones.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in (*_PACKAGES, *packages)}
    summary = {
        "scenario": scenario.to_dict(),
        **said,
        "versions": {"python": platform.python_version()} | versions,
        "seed": scenario.seed,
        "command": list(command),
    }
    # The summary comes last: a directory that has one is complete.
    (directory / "summary.json").unlink(missing_ok=True)
    for name in _TABLES:
        file = directory / f"{name}.parquet"
        if name in tables:
            _write_table(tables[name], file)
        else:
            file.unlink(missing_ok=True)
    (directory / "scenario.yaml").write_text(scenario.to_yaml(directory), encoding="utf-8")
    text = json.dumps(summary, indent=2, allow_nan=False, default=str)
    (directory / "summary.json").write_text(text + "\n", encoding="utf-8")
    return directory


def _write_table(table: pa.Table | Iterable[pa.Table], file: Path) -> None:
    """Write a table; parts share a row group as long as they fit."""
    if isinstance(table, pa.Table):
        pq.write_table(table, file, compression="zstd")
        return
    parts = iter(table)
    held = [next(parts)]
    with pq.ParquetWriter(file, held[0].schema, compression="zstd") as writer:
        for part in parts:
            if sum(one.num_rows for one in held) + part.num_rows > ROW_GROUP:
                writer.write_table(pa.concat_tables(held))
                held.clear()
            held.append(part)
        writer.write_table(pa.concat_tables(held))
