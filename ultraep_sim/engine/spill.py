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
        Of the policies, in the order in which they come.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        # Removed with this object. TMPDIR says on which disk.
        self._folder = TemporaryDirectory(prefix="ultraep-sim-")
        self._paths = {
            label: Path(self._folder.name) / f"{at}.arrow" for at, label in enumerate(labels)
        }
        self._writers: dict[str, pa.RecordBatchFileWriter] = {}
        self.num_records = 0

    @property
    def labels(self) -> list[str]:
        """Of the policies."""
        return list(self._paths)

    def append(self, label: str, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add one policy's next records; an array of two axes becomes a column of lists."""
        batch = pa.record_batch({name: _array(values) for name, values in columns.items()})
        if label not in self._writers:
            self._writers[label] = pa.ipc.new_file(self._paths[label], batch.schema)
        self._writers[label].write_batch(batch)
        if label == self.labels[0]:
            self.num_records += batch.num_rows

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
                if rows + batch.num_rows > ROW_GROUP:
                    yield _named(label, held)
                    held, rows = [], 0
                held.append(batch)
                rows += batch.num_rows
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
        return flat.reshape(len(column), column.type.list_size)
    return column.to_numpy(zero_copy_only=False)
