"""Rows of a sweep as a file of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..errors import InputError
from .points import Row
from .result import SweepResult
from .store import tidy

FORMATS = ("csv", "json", "parquet")


def write_rows(result: SweepResult, form: str, file: Path | None) -> None:
    """Write a result's rows.

    Parameters
    ----------
    result : SweepResult
    form : {"csv", "json", "parquet"}
    file : Path or None
        None writes to stdout.

    Raises
    ------
    InputError
        Parquet was asked for on stdout.
    """
    if form == "parquet":
        if file is None:
            raise InputError(
                "parquet is not text", place="--out", value=None, remedy="name a file with --out"
            )
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = {name: tidy([row.get(name) for row in result.rows]) for name in result.columns}
        pq.write_table(pa.table(table), file, compression="zstd")
        return
    text = result.to_csv() if form == "csv" else json.dumps(result.rows, indent=2) + "\n"
    if file is None:
        sys.stdout.write(text)
    else:
        file.write_text(text, encoding="utf-8")


def read_rows(directory: Path) -> list[Row]:
    """Return the rows that the last whole run of a sweep left in its directory.

    Raises
    ------
    InputError
        There are none, or the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = directory / "sweep.parquet"
    try:
        rows: list[Row] = pq.read_table(file).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"cannot be read: {error}", file=file, remedy=f"ultraep-sim sweep resume {directory}"
        ) from error
    return rows
