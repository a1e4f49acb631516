"""What the footer of a trace file says, checked before anything is read or allocated."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TraceError, UltraEPSimError
from .meta import TraceMeta

META_KEY = b"ultraep_sim.trace"
CHECK_KEY = b"ultraep_sim.trace.check"
INDEX_COLUMNS = ("step", "micro_batch", "layer", "source_rank")

_MAGIC = b"PAR1"
# A footer holds about 1 kB per row group; far more means a false length.
_MAX_FOOTER_BYTES = 256 << 20
_DAMAGED = "the file is damaged; record it again or restore it from a copy"
_NOT_OURS = "write it with ultraep_sim.trace.TraceWriter"


@dataclass(frozen=True)
class RowGroup:
    """One row group: its rows, its range of steps if known, and its index checksum if known."""

    rows: int
    steps: tuple[int, int] | None
    crc: int | None

    def confirm(self, at: int, rows: int, crc: int, path: Path) -> None:
        """Compare with what was read.

        Raises
        ------
        TraceError
            If rows were missing or the index columns changed.
        """
        if rows != self.rows:
            problem, value = f"has not the {self.rows} rows that the footer claims", rows
        elif self.crc not in (None, crc):
            problem, value = "does not match its checksum", crc
        else:
            return
        raise TraceError(
            f"row group {at} {problem}", file=path, place="rows", value=value, remedy=_DAMAGED
        )


@dataclass(frozen=True)
class Footer:
    """Metadata and row groups of a file."""

    meta: TraceMeta
    num_rows: int
    row_groups: tuple[RowGroup, ...]


def pyarrow_parquet() -> Any:
    """Import pyarrow.parquet when a file is touched, not before: GPU machines may lack it."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise UltraEPSimError(
            "trace files need pyarrow, which is not installed; pip install pyarrow"
        ) from None
    return pq


def read_footer(path: Path) -> Footer:
    """Read and check the footer.

    Raises
    ------
    TraceError
        If the file is absent, no Parquet, truncated, not a trace, or contradicts itself.
    """
    _check_ends(path)
    with pyarrow_parquet().ParquetFile(path) as file:
        found = file.metadata
        members = found.metadata or {}
        if META_KEY not in members:
            raise TraceError(
                "the Parquet file is no trace",
                file=path,
                place="schema metadata",
                value=sorted(key.decode("utf-8", "replace") for key in members),
                remedy=f"it lacks the key {META_KEY.decode()!r}; {_NOT_OURS}",
            )
        meta = _read_meta(members, path)
        _check_schema(file.schema_arrow, meta, path)
        groups = _read_row_groups(found, members.get(CHECK_KEY), members[META_KEY], path)
    rows = sum(group.rows for group in groups)
    if rows != found.num_rows:
        _contradiction(path, "the rows of the row groups do not add up", rows, found.num_rows)
    if rows == 0:
        raise TraceError("the trace is empty", file=path, place="rows", value=0, remedy=_NOT_OURS)
    if rows % meta.source_ranks:
        raise TraceError(
            f"the rows are not a multiple of the {meta.source_ranks} source ranks",
            file=path,
            place="rows",
            value=rows,
            remedy="rows are missing or metadata.source_ranks is wrong; record it again",
        )
    return Footer(meta, rows, groups)


def footer_check(meta_json: str, groups: list[list[int]]) -> bytes:
    """Return the value of `CHECK_KEY`.

    Parameters
    ----------
    meta_json : str
        The metadata as stored.
    groups : list of [first step, last step, rows, crc32 of the index columns]
    """
    check = {"meta_crc32": zlib.crc32(meta_json.encode()), "row_groups": groups}
    return json.dumps(check, separators=(",", ":")).encode()


def _check_ends(path: Path) -> None:
    if not path.is_file():
        problem = "is a directory, not a trace" if path.is_dir() else "there is no such file"
        raise TraceError(problem, file=path, remedy="check the path")
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(4)
        stream.seek(max(0, size - 8))
        tail = stream.read(8)
    if head != _MAGIC:
        raise TraceError(
            "not a Parquet file",
            file=path,
            place="first 4 bytes",
            value=head,
            remedy="a trace is a .parquet file written by ultraep_sim.trace",
        )
    footer = int.from_bytes(tail[:4], "little")
    if size < 12 or tail[4:] != _MAGIC or footer > min(size - 12, _MAX_FOOTER_BYTES):
        raise TraceError(
            "the Parquet file is truncated or its end is damaged",
            file=path,
            place=f"last bytes of {size}",
            value=tail,
            remedy="the copy or the recording was cut off; copy or record it again",
        )


def _read_meta(members: dict[bytes, bytes], path: Path) -> TraceMeta:
    try:
        return TraceMeta.from_json(members[META_KEY])
    except TraceError as error:
        raise error.at(file=path) from None


def _check_schema(schema: Any, meta: TraceMeta, path: Path) -> None:
    """Refuse missing columns, other types, and lists of another length than the experts."""
    import pyarrow as pa

    for name in (*INDEX_COLUMNS, "counts"):
        if schema.names.count(name) != 1:
            raise TraceError(
                f"the column {name} is missing or there twice",
                file=path,
                place="schema",
                value=schema.names,
                remedy=_NOT_OURS,
            )
    kinds = {name: schema.field(name).type for name in (*INDEX_COLUMNS, "counts")}
    for name in INDEX_COLUMNS:
        if kinds[name] != pa.int32():
            _wrong_type(path, name, kinds[name], "int32")
    kind = kinds["counts"]
    is_fixed = pa.types.is_fixed_size_list(kind)
    is_list = is_fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or kind.value_type not in (pa.int32(), pa.uint16()):
        _wrong_type(path, "counts", kind, f"a list of {meta.num_experts} int32 or uint16")
    if is_fixed and kind.list_size != meta.num_experts:
        _wrong_type(path, "counts", kind, f"a list of {meta.num_experts} (num_experts)")


def _wrong_type(path: Path, column: str, kind: Any, wanted: str) -> None:
    raise TraceError(
        f"the column must be {wanted}",
        file=path,
        place=f"column {column}",
        value=str(kind),
        remedy=_NOT_OURS,
    )


def _read_row_groups(
    found: Any, check: bytes | None, meta_json: bytes, path: Path
) -> tuple[RowGroup, ...]:
    groups = [found.row_group(at) for at in range(found.num_row_groups)]
    column = _column_of_step(groups)
    if any(group.num_rows < 0 for group in groups):
        _contradiction(path, "a row group claims a negative number of rows", -1, 0)
    if check is None:
        return tuple(RowGroup(group.num_rows, _step_range(group, column), None) for group in groups)
    entries = _read_check(check, meta_json, path)
    if len(entries) != len(groups):
        _contradiction(path, "row groups are missing", len(groups), len(entries))
    result = []
    for group, (first, last, rows, crc) in zip(groups, entries, strict=True):
        if rows != group.num_rows:
            _contradiction(path, "a row group has another size", group.num_rows, rows)
        result.append(RowGroup(rows, (first, last), crc))
    return tuple(result)


def _read_check(check: bytes, meta_json: bytes, path: Path) -> list[tuple[int, int, int, int]]:
    try:
        members = json.loads(check)
        entries = [(int(a), int(b), int(c), int(d)) for a, b, c, d in members["row_groups"]]
        crc = members["meta_crc32"]
    except (ValueError, TypeError, KeyError, RecursionError):
        entries, crc = [], None
    if crc != zlib.crc32(meta_json):
        raise TraceError(
            "the metadata does not match its checksum",
            file=path,
            place="schema metadata",
            value=crc,
            remedy=_DAMAGED,
        )
    return entries


def _column_of_step(groups: list[Any]) -> int | None:
    """Physical position of ``step``; other tools may order the columns differently."""
    if not groups:
        return None
    names = [groups[0].column(at).path_in_schema for at in range(groups[0].num_columns)]
    return names.index("step") if "step" in names else None


def _step_range(group: Any, column: int | None) -> tuple[int, int] | None:
    statistics = None if column is None else group.column(column).statistics
    if statistics is None or not statistics.has_min_max:
        return None
    return int(statistics.min), int(statistics.max)


def _contradiction(path: Path, problem: str, value: int, claimed: int) -> None:
    raise TraceError(
        f"{problem}, the footer claims {claimed}",
        file=path,
        place="row groups",
        value=value,
        remedy=_DAMAGED,
    )
