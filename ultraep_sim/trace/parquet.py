"""The Parquet file of a trace: streamed by row group, both ways.

One row per (step, micro-batch, layer, source rank) with the counts as a fixed-size list;
metadata as JSON under ``ultraep_sim.trace`` in the schema. The counts are stored byte-split
and with zstd, which beat dictionary and delta encoding in size and in reading speed on
recorded and synthetic counts.

What `TraceWriter` writes is protected: pages carry checksums, and ``ultraep_sim.trace.check``
holds checksums of the metadata and of each row group's index columns. Files that other tools
wrote lack the latter and are read all the same.
"""

from __future__ import annotations

import errno
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import TraceError
from .checks import RecordChecker, fold_rows
from .container import Block, Record, Trace, TraceSource, _int32
from .mapped import mapped_source
from .meta import TraceMeta
from .parquet_footer import (
    CHECK_KEY,
    INDEX_COLUMNS,
    META_KEY,
    footer_check,
    pyarrow_parquet,
    read_footer,
)
from .selection import Selection

_BATCH_BYTES = 4 << 20
_MAX_BATCH_ROWS = 1 << 16
_ROW_GROUP_BYTES = 8 << 20
_COMPRESSION_LEVEL = 15

_DAMAGED = "the file is damaged; record it again or restore it from a copy"


def load_trace(path: str | Path) -> Trace:
    """Open a Parquet trace. Only its footer is read; records are read when iterated.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Trace

    Raises
    ------
    TraceError
        If it is not a whole Parquet file with our metadata and columns. Faults in the
        records themselves raise it when they are iterated.
    """
    source: TraceSource = mapped_source(Path(path)) or ParquetSource(Path(path))
    return Trace(source, source.meta)


class ParquetSource:
    """The records of a file. Opened again by every iteration, so views can be shared."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _one_line(path):
            _check_kind(path)
            self._footer = read_footer(path)
        self._keys: NDArray[np.int32] | None = None
        self._digest: str | None = None

    @property
    def meta(self) -> TraceMeta:
        """What the file says about itself."""
        return self._footer.meta

    def count(self) -> int:
        """Return the number of records, from the footer."""
        return self._footer.num_rows // self.meta.source_ranks

    def digest(self) -> str:
        """Return the sha256 of the file."""
        if self._digest is None:
            with _one_line(self._path), self._path.open("rb") as stream:
                self._digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._digest

    def keys(self) -> NDArray[np.int32]:
        """Return step, micro-batch and layer of every record; reads the index columns only."""
        if self._keys is None:
            self._keys = np.concatenate(list(self.key_blocks()))
        return self._keys.copy()

    def records(self, selection: Selection) -> Iterator[Record]:
        """Yield the selected records; row groups without a selected step are not read."""
        for keys, loads in self.blocks(selection):
            for at, (step, micro_batch, layer) in enumerate(keys.tolist()):
                yield Record(step, micro_batch, layer, loads[at])

    def blocks(self, selection: Selection) -> Iterator[Block]:
        """Yield the selected records in blocks of a few megabytes, as the file is read."""
        shape = (-1, self.meta.source_ranks, self.meta.num_experts)
        checker = RecordChecker(self.meta, self._path)
        for rows, counts in self._whole_records(self._groups_of(selection), counts=True):
            keys = fold_rows(rows, self.meta.source_ranks, self._path)
            loads = counts.reshape(shape)
            checker.check(keys, loads)
            kept = selection.mask(keys)
            if kept.all():
                yield Block(keys, loads)
            elif kept.any():
                yield Block(keys[kept], loads[kept])

    def key_blocks(self) -> Iterator[NDArray[np.int32]]:
        """Yield step, micro-batch and layer of every record, checked; reads the index alone."""
        if self._keys is not None:
            yield self._keys
            return
        checker = RecordChecker(self.meta, self._path)
        groups = list(range(len(self._footer.row_groups)))
        for rows, _ in self._whole_records(groups, counts=False):
            keys = fold_rows(rows, self.meta.source_ranks, self._path)
            checker.check_keys(keys)
            yield keys

    def _groups_of(self, selection: Selection) -> list[int]:
        """Row groups that can hold selected steps; all, where groups cut records in two."""
        groups = self._footer.row_groups
        cut = any(group.rows % self.meta.source_ranks for group in groups)
        return [
            at
            for at, group in enumerate(groups)
            if cut or group.steps is None or selection.may_hold_steps(*group.steps)
        ]

    def _whole_records(
        self, groups: list[int], *, counts: bool
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Yield index rows and counts in blocks of whole records, wherever row groups end."""
        size = self.meta.source_ranks
        held: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
        held_rows = 0
        for batch in self._batches(groups, counts=counts):
            held.append(batch)
            held_rows += len(batch[0])
            whole = held_rows // size * size
            if not whole:
                continue
            rows, loads = (
                held[0]
                if len(held) == 1
                else tuple(np.concatenate(x) for x in zip(*held, strict=True))
            )
            yield rows[:whole], loads[:whole]
            held_rows -= whole
            held = [(rows[whole:], loads[whole:])] if held_rows else []
        if held_rows:
            last = held[-1][0][-1].tolist()
            raise TraceError(
                f"the last record has {held_rows} rows instead of {size}",
                file=self._path,
                place=f"step {last[0]}, micro-batch {last[1]}, layer {last[2]}",
                value=held_rows,
                remedy=_DAMAGED,
            )

    def _batches(
        self, groups: list[int], *, counts: bool
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Yield (index rows [n, 4], counts [n, experts]) as the file gives them.

        The batch size does not depend on what the metadata claims about ranks, so a false
        claim cannot make this allocate.
        """
        if not groups:
            return
        fit = _BATCH_BYTES // (4 * self.meta.num_experts)
        fit = min(max(fit, 1), _MAX_BATCH_ROWS)
        batch_rows = max(fit // self.meta.source_ranks * self.meta.source_ranks, 1)
        columns = [*INDEX_COLUMNS, "counts"] if counts else [*INDEX_COLUMNS]
        with _one_line(self._path):
            file = pyarrow_parquet().ParquetFile(self._path, page_checksum_verification=True)
        with file:
            for group in groups:
                crc = seen = 0
                batches = file.iter_batches(
                    batch_rows if batch_rows > 1 else fit,
                    row_groups=[group],
                    columns=columns,
                    use_threads=False,
                )
                while True:
                    with _one_line(self._path):
                        batch = next(batches, None)
                        if batch is None:
                            break
                        rows = _index_rows(batch)
                        loads = _counts(batch, self.meta.num_experts, rows, self._path)
                    crc = zlib.crc32(rows.data, crc)
                    seen += len(rows)
                    yield rows, loads
                self._footer.row_groups[group].confirm(group, seen, crc, self._path)


class TraceWriter:
    """Write a trace record by record; the file appears, whole, at the end of the block.

    Records go to a temporary file beside the target, which gets the target's name when the
    context closes without an error. A writer that is killed leaves no file of that name.

    Parameters
    ----------
    path : str or Path
        The file to make (or to replace, at the end).
    meta : TraceMeta
        What the records are.

    Raises
    ------
    TraceError
        On a record that breaks a rule of the format, on a trace without records, or if the
        file cannot be written.

    Examples
    --------
    >>> with TraceWriter("run.parquet", meta) as writer:  # doctest: +SKIP
    ...     writer.append(step, micro_batch, layer, loads)
    """

    def __init__(self, path: str | Path, meta: TraceMeta) -> None:
        self.path = Path(path)
        self.meta = meta
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        row_bytes = 4 * meta.num_experts * meta.source_ranks
        self._group_records = max(1, min(_ROW_GROUP_BYTES // row_bytes, 1 << 16))
        self._checker = RecordChecker(meta, self.path)
        self._keys: list[tuple[int, int, int]] = []
        self._loads: list[NDArray[np.int32]] = []
        self._groups: list[list[int]] = []
        self._file: Any = None

    def __enter__(self) -> TraceWriter:
        with _one_line(self.path, "written"):
            self._file = _open_writer(self._part, self.meta)
        return self

    def append(self, step: int, micro_batch: int, layer: int, loads: ArrayLike) -> None:
        """Add the next record; records come in order of (step, micro_batch, layer).

        Parameters
        ----------
        step, micro_batch, layer : int
        loads : array_like of int, shape [source_ranks, num_experts]
            Copied. A vector [num_experts] will do where ``source_ranks`` is 1.

        Raises
        ------
        TraceError
            If the shape or a type is wrong. Rules across entries are checked in blocks, so
            their errors can come some records later, and name the record.
        """
        if self._file is None:
            raise TraceError(
                "the writer is not open", file=self.path, remedy="use it in a with statement"
            )
        key = _int32("step, micro_batch, layer", [step, micro_batch, layer], 1)
        matrix = np.atleast_2d(np.asarray(loads))
        if matrix.shape != (self.meta.source_ranks, self.meta.num_experts):
            raise TraceError(
                "loads do not have the shape of the metadata",
                file=self.path,
                place=f"step {step}, micro-batch {micro_batch}, layer {layer}",
                value=matrix.shape,
                remedy=f"give [{self.meta.source_ranks}, {self.meta.num_experts}]",
            )
        self._keys.append((int(key[0]), int(key[1]), int(key[2])))
        self._loads.append(_int32("loads", matrix, 2))
        if len(self._loads) >= self._group_records:
            self._flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        done = False
        try:
            if kind is None:
                self._finish()
                done = True
        finally:
            file, self._file = self._file, None
            if not done:
                # The footer that close() writes does not matter: the part is removed.
                with suppress(OSError, ValueError):
                    file.close()
                self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._flush()
        if not self._groups:
            raise TraceError(
                "a trace needs at least one record", file=self.path, remedy="append one"
            )
        with _one_line(self.path, "written"):
            check = footer_check(self.meta.to_json(), self._groups)
            self._file.add_key_value_metadata({CHECK_KEY: check})
            self._file.close()
            with self._part.open("rb") as stream:
                os.fsync(stream.fileno())
            self._part.replace(self.path)

    def _flush(self) -> None:
        if not self._loads:
            return
        keys = np.array(self._keys, dtype=np.int32)
        loads = np.stack(self._loads)
        self._checker.check(keys, loads)
        rows = np.empty((len(keys) * self.meta.source_ranks, 4), dtype=np.int32)
        rows[:, :3] = np.repeat(keys, self.meta.source_ranks, axis=0)
        rows[:, 3] = np.tile(np.arange(self.meta.source_ranks), len(keys))
        with _one_line(self.path, "written"):
            self._file.write_batch(
                _to_batch(self._file.schema, rows, loads), row_group_size=len(rows)
            )
        first, last = int(keys[0, 0]), int(keys[-1, 0])
        self._groups.append([first, last, len(rows), zlib.crc32(rows.data)])
        self._keys.clear()
        self._loads.clear()


def _open_writer(path: Path, meta: TraceMeta) -> Any:
    import pyarrow as pa

    item = pa.field("element", pa.int32(), nullable=False)
    schema = pa.schema(
        [pa.field(name, pa.int32(), nullable=False) for name in INDEX_COLUMNS]
        + [pa.field("counts", pa.list_(item, meta.num_experts), nullable=False)],
        metadata={META_KEY: meta.to_json().encode()},
    )
    return pyarrow_parquet().ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=_COMPRESSION_LEVEL,
        use_dictionary=list(INDEX_COLUMNS),
        column_encoding={"counts.list.element": "BYTE_STREAM_SPLIT"},
        write_statistics=list(INDEX_COLUMNS),
        write_page_checksum=True,
    )


def _to_batch(schema: Any, rows: NDArray[np.int32], loads: NDArray[np.int32]) -> Any:
    import pyarrow as pa

    kind = schema.field("counts").type
    counts = pa.FixedSizeListArray.from_arrays(pa.array(loads.reshape(-1)), type=kind)
    index = [pa.array(np.ascontiguousarray(rows[:, i])) for i in range(4)]
    return pa.record_batch([*index, counts], schema=schema)


def _index_rows(batch: Any) -> NDArray[np.int32]:
    rows = np.empty((batch.num_rows, 4), dtype=np.int32)
    for at, name in enumerate(INDEX_COLUMNS):
        rows[:, at] = batch.column(name).to_numpy(zero_copy_only=True)
    return rows


def _counts(batch: Any, num_experts: int, rows: NDArray[np.int32], path: Path) -> NDArray[np.int32]:
    """Copy a batch's counts to int32 [rows, experts]; lists of other lengths are refused."""
    if "counts" not in batch.schema.names:
        return np.empty((len(rows), 0), dtype=np.int32)
    column = batch.column("counts")
    flat = column.flatten()
    if flat.null_count or column.null_count:
        _refuse_counts("a count is null", None, path)
    if hasattr(column, "offsets"):
        lengths = np.diff(column.offsets.to_numpy(zero_copy_only=True))
        if (lengths != num_experts).any():
            at = int(np.argmax(lengths != num_experts))
            step, micro_batch, layer, source = rows[at].tolist()
            place = f"step {step}, micro-batch {micro_batch}, layer {layer}, source rank {source}"
            _refuse_counts(
                f"the list of counts is not {num_experts} long", int(lengths[at]), path, place
            )
    values = flat.to_numpy(zero_copy_only=True)
    return np.array(values, dtype=np.int32).reshape(len(rows), num_experts)


def _refuse_counts(
    problem: str, value: object, path: Path, place: str = "column counts"
) -> NoReturn:
    raise TraceError(problem, file=path, place=place, value=value, remedy=_DAMAGED)


def _check_kind(path: Path) -> None:
    """Refuse devices, pipes and sockets, which are there but cannot be sought in."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise TraceError(
            "is not a regular file",
            file=path,
            remedy="give a .parquet file; a stream must be written to one first",
        )


# What damaged contents can make the system say, such as a seek to before the file's start.
_FROM_CONTENTS = {errno.EINVAL, errno.EOVERFLOW, errno.ENOMEM, errno.EFBIG}


def _system_refusal(error: Exception) -> tuple[str, str] | None:
    """Return reason and remedy where the system, not the file's contents, stops a reader."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None or number in _FROM_CONTENTS:
        return None  # pyarrow raises OSError without a number for damaged contents
    permission = number in (errno.EACCES, errno.EPERM)
    # pyarrow's own text repeats the path and where in Arrow it happened.
    return os.strerror(number), (
        "check its permissions" if permission else "check the path and the disk"
    )


@contextmanager
def _one_line(path: Path, verb: str = "read") -> Iterator[None]:
    """Turn what pyarrow and the system raise into one line about the file."""
    try:
        yield
    except TraceError:
        raise
    # pyarrow's errors derive from these; a damaged header can also ask for absurd memory.
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, MemoryError) as error:
        if verb == "read" and (refusal := _system_refusal(error)):
            raise TraceError(
                f"cannot be read ({refusal[0]})", file=path, remedy=refusal[1]
            ) from None
        # Keep the reason, not the place in Arrow's sources that follows it.
        reason = " ".join(str(error).split("Detail:")[0].split()) or type(error).__name__
        remedy = _DAMAGED if verb == "read" else "check the folder, its permissions and the disk"
        raise TraceError(f"cannot be {verb}", file=path, value=reason, remedy=remedy) from None
