"""Read a run's log: one row per timed thing, from CSV or Parquet.

Columns: ``step``, ``rank`` (or ``stage``), ``ms``; ``load``, or nothing where a trace gives it;
optional ``kind``, ``layer``, ``micro_batch``, ``start_ms``. `docs/calibrate.md` says what each
means. What a cell cannot be (text for a number) is an error; what a measurement cannot be (no
time, a negative one) is read as it stands and judged by `diseases`.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import CalibrationError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: What may have been timed, and whether all ranks wait for the slowest (one time a group).
KINDS: dict[str, bool] = {
    "experts": False,
    "experts_backward": False,
    "dispatch": False,
    "combine": False,
    "weights": False,
    "layer": True,
    "step": True,
}
UNITS = ("rank", "stage")
_REQUIRED, _NUMBERS, _INDICES = ("step", "ms"), ("load", "start_ms"), ("layer", "micro_batch")
_KNOWN = (*_REQUIRED, *UNITS, *_NUMBERS, *_INDICES, "kind")
_MAX_BYTES = 1 << 30
_SEE = "see the columns in docs/calibrate.md"


@dataclass(frozen=True)
class Log:
    """Rows of a log, as they stand in the file.

    Parameters
    ----------
    row : int64 [N]
        Number in the file: 1 is the first under the header.
    step, unit, layer, micro_batch : int64 [N]
        What was timed; ``unit`` is a rank, or a pipeline stage.
    kind : str [N]
        One of `KINDS`.
    ms, load : float64 [N]
        Milliseconds; pairs of that rank (copies sent, for ``weights``). NaN where the cell is
        empty or the file has no such column.
    start_ms : float64 [N] or None
        When it began.
    unit_name : {"rank", "stage"}
    sources : tuple of (str, str)
        Name and SHA-256 of what was read.
    """

    row: Ints
    step: Ints
    unit: Ints
    layer: Ints
    micro_batch: Ints
    kind: NDArray[np.str_]
    ms: Floats
    load: Floats
    start_ms: Floats | None
    unit_name: str
    sources: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def grouped(self) -> NDArray[np.bool_]:
        """Rows of which all ranks of a step share the time, the slowest one's."""
        whole = np.isin(self.kind, [kind for kind, shared in KINDS.items() if shared])
        return whole & (self.unit_name == "rank")

    def keys(self, *, with_unit: bool = True) -> NDArray[np.int64]:
        """Tell rows apart, int64 [N, 4 or 5]: kind, step, layer, micro-batch, unit."""
        code = np.searchsorted(sorted(KINDS), self.kind)
        columns = [code, self.step, self.layer, self.micro_batch]
        return np.stack([*columns, self.unit] if with_unit else columns, axis=1)


def read_log(path: str | Path) -> Log:
    """Read a log.

    Raises
    ------
    CalibrationError
        The file is missing, too large, neither CSV nor Parquet, lacks a column, or a cell of it
        is no number.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise CalibrationError(
                "too large for a log", file=file, value=file.stat().st_size, remedy="split it"
            )
        content = file.read_bytes()
    except OSError as error:
        raise CalibrationError(
            error.strerror or str(error), file=file, remedy="check the path of the log"
        ) from None
    table = _parquet(file) if content[:4] == b"PAR1" else _csv(file, content)
    try:
        return _log(table, (file.name, hashlib.sha256(content).hexdigest()))
    except CalibrationError as error:
        raise error.at(file=file) from None


def _csv(file: Path, content: bytes) -> dict[str, Sequence[Any]]:
    try:
        lines = list(csv.reader(content.decode("utf-8-sig").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CalibrationError(f"no CSV: {error}", file=file, remedy=_SEE) from None
    lines = [line for line in lines if line and not line[0].startswith("#")]
    if len(lines) < 2:
        raise CalibrationError("no rows", file=file, value=len(lines), remedy=_SEE)
    head, body = [name.strip() for name in lines[0]], lines[1:]
    for at, line in enumerate(body, 1):
        if len(line) != len(head):
            raise CalibrationError(
                f"{len(head)} cells expected", file=file, place=f"row {at}", value=len(line),
                remedy="write one cell a column",
            )  # fmt: skip
    return dict(zip(head, zip(*body, strict=True), strict=True))


def _parquet(file: Path) -> dict[str, Sequence[Any]]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(file)
    except (ArrowException, OSError) as error:
        raise CalibrationError(f"no Parquet: {error}", file=file, remedy=_SEE) from None
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _log(table: Mapping[str, Sequence[Any]], source: tuple[str, str]) -> Log:
    _check_columns(table)
    count = len(table["ms"])
    unit_name = next(name for name in UNITS if name in table)
    zeros = np.zeros(count, np.int64)

    def index(name: str) -> Ints:
        return _integers(table[name], name) if name in table else zeros

    def number(name: str) -> Floats:
        return _floats(table[name], name) if name in table else np.full(count, math.nan)

    return Log(
        row=np.arange(1, count + 1),
        step=index("step"),
        unit=index(unit_name),
        layer=index("layer"),
        micro_batch=index("micro_batch"),
        kind=_kinds(table.get("kind", ["layer"] * count)),
        ms=number("ms"),
        load=number("load"),
        start_ms=number("start_ms") if "start_ms" in table else None,
        unit_name=unit_name,
        sources=(source,),
    )


def _check_columns(table: Mapping[str, Sequence[Any]]) -> None:
    for name in _REQUIRED:
        if name not in table:
            raise CalibrationError(
                "a column is missing", place=name, value=list(table), remedy=_SEE
            )
    if sum(name in table for name in UNITS) != 1:
        raise CalibrationError(
            "a log names ranks or stages", place="rank", value=list(table),
            remedy="give one of the columns rank and stage",
        )  # fmt: skip
    for name in table:
        if name not in _KNOWN:
            raise CalibrationError(
                "unknown column", place=name, remedy=f"drop it; known are {', '.join(_KNOWN)}"
            )
    if not len(table["ms"]):
        raise CalibrationError("no rows", value=0, remedy=_SEE)


def _floats(cells: Sequence[Any], name: str) -> Floats:
    out = np.empty(len(cells))
    for at, cell in enumerate(cells):
        empty = cell is None or (isinstance(cell, str) and not cell.strip())
        try:
            out[at] = math.nan if empty else float(cell)
        except (TypeError, ValueError):
            raise CalibrationError(
                "not a number", place=f"row {at + 1}, {name}", value=cell, remedy="mend the cell"
            ) from None
    return out


def _integers(cells: Sequence[Any], name: str) -> Ints:
    values = _floats(cells, name)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0) & (values == np.rint(values))))
    if len(wrong):
        raise CalibrationError(
            "not a whole number from 0 up", place=f"row {wrong[0] + 1}, {name}",
            value=cells[wrong[0]], remedy="mend the cell",
        )  # fmt: skip
    return values.astype(np.int64)


def _kinds(cells: Sequence[Any]) -> NDArray[np.str_]:
    for at, cell in enumerate(cells, 1):
        if cell not in KINDS:
            raise CalibrationError(
                "unknown kind", place=f"row {at}, kind", value=cell,
                remedy=f"one of {', '.join(KINDS)}",
            )  # fmt: skip
    return np.array(cells)
