"""What a replay finds of every record, kept on disk: memory does not grow with the trace.

One Arrow file a policy, written chunk by chunk while records are replayed, and read again, column
by column and chunk by chunk, to sum up and to write the result. On disk a record costs 4 bytes a
rank and about 200 bytes of other columns for each policy (the references among them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ROW_GROUP = 1 << 16
"""Rows of a block on their way to the result: some 30 MB at 64 ranks."""


class Spill:
    """Columns of records by policy, on disk until nobody refers to them.

    Parameters
    ----------
    labels : sequence of str
        Of the tables, one a policy, in the order in which they come.
    folder : Path, optional
        Where the files are, or will be, and stay. By default a new one that goes with this
        object; TMPDIR says on which disk.
    """

    def __init__(self, labels: Sequence[str], folder: Path | None = None) -> None:
        self._own = TemporaryDirectory(prefix="ultraep-sim-") if folder is None else None
        base = Path(self._own.name) if folder is None and self._own else Path(str(folder))
        self._paths = {label: base / f"{at}.arrow" for at, label in enumerate(labels)}
        self._writers: dict[str, pa.RecordBatchFileWriter] = {}

    @property
    def labels(self) -> list[str]:
        """Of the tables."""
        return list(self._paths)

    @property
    def num_records(self) -> int:
        """Records of every policy."""
        return sum(len(part) for part in self.parts(self.labels[0], "layer"))

    def append(self, label: str, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add one policy's next records; an array of two axes becomes a column of lists."""
        batch = pa.record_batch({name: _array(values) for name, values in columns.items()})
        self.append_batch(label, batch)

    def append_batch(self, label: str, batch: pa.RecordBatch) -> None:
        """Add what `batches` gave."""
        if label not in self._writers:
            self._writers[label] = pa.ipc.new_file(self._paths[label], batch.schema)
        self._writers[label].write_batch(batch)

    def close(self) -> None:
        """End the writing; reading may begin."""
        for writer in self._writers.values():
            writer.close()

    def batches(self, label: str, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield one policy's records in order, all columns or some."""
        with pa.OSFile(str(self._paths[label])) as file:
            reader = pa.ipc.open_file(file)
            if names is not None:
                fields = [reader.schema.get_field_index(name) for name in names]
                reader = pa.ipc.open_file(
                    file, options=pa.ipc.IpcReadOptions(included_fields=fields)
                )
            for at in range(reader.num_record_batches):
                yield reader.get_batch(at)

    def parts(self, label: str, name: str) -> Iterator[NDArray[Any]]:
        """Yield one column part by part; a column of lists as an array of two axes."""
        for batch in self.batches(label, [name]):
            yield _numpy(batch.column(0))

    def column(self, label: str, name: str) -> NDArray[Any]:
        """Return a whole column."""
        return np.concatenate(list(self.parts(label, name)))

    def blocks(self, labels: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the records of some policies, one after the other, `ROW_GROUP` rows at most."""
        for label in labels:
            held: list[pa.RecordBatch] = []
            rows = 0
            for batch in self.batches(label):
                # Cut where chunks of any size have it, so that results do not depend on them.
                fits = ROW_GROUP - rows
                held.append(batch.slice(0, fits))
                rows += batch.num_rows
                if rows > ROW_GROUP:
                    yield _named(label, held)
                    held, rows = [batch.slice(fits)], rows - ROW_GROUP
            yield _named(label, held)


def _named(label: str, batches: list[pa.RecordBatch]) -> pa.Table:
    table = pa.Table.from_batches(batches).combine_chunks()
    return table.add_column(0, "policy", pa.array([label] * table.num_rows))


def _array(values: NDArray[Any]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _numpy(column: pa.Array) -> NDArray[Any]:
    if pa.types.is_fixed_size_list(column.type):
        flat = column.flatten().to_numpy()
        return np.asarray(flat.reshape(len(column), column.type.list_size))
    return np.asarray(column.to_numpy(zero_copy_only=False))
