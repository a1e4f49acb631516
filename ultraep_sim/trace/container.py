"""The Trace: an immutable, lazy, sliceable view of recorded routing."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import TraceError
from .checks import RecordChecker
from .meta import TraceMeta
from .selection import Selection, describe_selection, parse_span


class Record(NamedTuple):
    """The routing of one MoE layer in one micro-batch.

    Attributes
    ----------
    step, micro_batch, layer : int
        Training iteration or serving batch; micro-batch in it; MoE layer, from 0.
    loads : ndarray of int32, shape [source_ranks, num_experts], C-contiguous
        (token, expert) pairs. The array is the receiver's own.
    """

    step: int
    micro_batch: int
    layer: int
    loads: NDArray[np.int32]


class Block(NamedTuple):
    """Consecutive records of a trace, N of them.

    Attributes
    ----------
    keys : ndarray of int32, shape [N, 3]
        Step, micro-batch and layer.
    loads : ndarray of int32, shape [N, source_ranks, num_experts], C-contiguous
        The receiver's own.
    """

    keys: NDArray[np.int32]
    loads: NDArray[np.int32]


class TraceSource(Protocol):
    """Where the records of a trace come from: a file, memory, a generator."""

    @property
    def meta(self) -> TraceMeta:
        """What the records are."""

    def records(self, selection: Selection) -> Iterator[Record]:
        """Yield the selected records in order, reading as little as possible."""

    def keys(self) -> NDArray[np.int32]:
        """Return step, micro-batch and layer of every record, [records, 3]."""

    def count(self) -> int:
        """Return the number of records, without reading them."""

    def digest(self) -> str:
        """Return the sha256 that identifies the content, as hex."""


class LoadStep(Protocol):
    """One change of the load matrix on its way out (rescaling, other sources)."""

    def __call__(self, loads: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the changed matrix.

        A step may have a method ``many`` that does the same to [records, rows, experts].
        """


@dataclass(frozen=True, eq=False)
class Trace:
    """Recorded routing: metadata, and records streamed in order.

    A trace is a view. Slicing, rescaling and changing the sources return further views, and
    nothing is read until one is iterated. Make one with `load_trace`, `Trace.from_arrays`,
    `Trace.from_records` or `ultraep_sim.trace.synthesize`.

    Attributes
    ----------
    meta : TraceMeta
        What the records of this view are; views label what they changed.

    Examples
    --------
    >>> import numpy as np
    >>> meta = TraceMeta(model="toy", num_experts=4, top_k=2, num_layers=1, source_ranks=1,
    ...                  tokens_per_rank=3, phase="prefill", recorded="by hand", synthetic=False)
    >>> trace = Trace.from_arrays(meta, [0, 1], [0, 0], [0, 0], [[[3, 2, 1, 0]], [[0, 1, 2, 3]]])
    >>> [record.loads.tolist() for record in trace.select(steps=slice(1, 2)).rescaled(6)]
    [[[0, 2, 4, 6]]]
    """

    _source: TraceSource
    meta: TraceMeta
    _selection: Selection = field(default_factory=Selection)
    _steps: tuple[LoadStep, ...] = ()

    def __iter__(self) -> Iterator[Record]:
        for record in self._source.records(self._selection):
            loads = record.loads
            for change in self._steps:
                loads = change(loads)
            yield record._replace(loads=loads)

    def blocks(self, max_records: int) -> Generator[Block, None, None]:
        """Yield the records in order, up to so many at a time; files are read ahead in a thread.

        Close the generator (or exhaust it) to end the thread.
        """
        from .blocks import blocks_of

        return blocks_of(self._source, self._selection, self._steps, max_records)

    @property
    def num_records(self) -> int:
        """Number of records of this view."""
        if not self._selection:
            return self._source.count()
        return sum(len(keys) for keys in self.key_blocks())

    @property
    def steps(self) -> NDArray[np.int32]:
        """The steps present, ascending."""
        return self._present(0)

    @property
    def micro_batches(self) -> NDArray[np.int32]:
        """The micro-batch numbers present, ascending."""
        return self._present(1)

    @property
    def layers(self) -> NDArray[np.int32]:
        """The layers present, ascending."""
        return self._present(2)

    def _present(self, column: int) -> NDArray[np.int32]:
        found = np.empty(0, np.int32)
        for keys in self.key_blocks():
            found = np.union1d(found, keys[:, column])
        return found

    @property
    def digest(self) -> str:
        """The sha256 (hex) of the file this view comes from, or of the content in memory.

        All views of a source share it; what they changed stands in ``meta.notes``.
        """
        return self._source.digest()

    def keys(self) -> NDArray[np.int32]:
        """Return step, micro-batch and layer of every record, int32 [records, 3].

        Reads the index columns of a file, not its counts.
        """
        keys = self._source.keys()
        return keys[self._selection.mask(keys)] if self._selection else keys

    def key_blocks(self) -> Iterator[NDArray[np.int32]]:
        """Yield what `keys` returns, part by part: for traces whose keys do not fit in memory."""
        from .blocks import key_blocks_of

        return key_blocks_of(self._source, self._selection)

    def select(
        self,
        steps: slice | int | None = None,
        micro_batches: slice | int | None = None,
        layers: slice | int | None = None,
    ) -> Trace:
        """Return the part of the trace whose step, micro-batch and layer lie in the slices.

        Slices are half-open and over *values*, not positions: ``slice(100, 200)`` keeps steps
        100..199 whatever the first step is. A single number selects itself; a stride counts
        from the slice's start. Strides and dropped layers are added to ``meta.sampling``.

        Raises
        ------
        TraceError
            If a slice is negative, empty, or no slice. A slice that simply hits nothing
            gives a view without records.
        """
        spans = {
            "steps": parse_span("steps", steps),
            "micro_batches": parse_span("micro_batches", micro_batches),
            "layers": parse_span("layers", layers),
        }
        selection = self._selection.narrowed(**spans)
        meta = describe_selection(self.meta, spans)
        return Trace(self._source, meta, selection, self._steps)

    def with_sources(self, num_ranks: int) -> Trace:
        """Return the trace with ``num_ranks`` source rows, merged or spread with exact sums.

        ``meta.notes["sources"]`` says which. See `ultraep_sim.trace.resource_rows`.

        Raises
        ------
        TraceError
            If ``num_ranks`` is not a positive integer.
        """
        from .sources import Resource, resource_meta

        meta = resource_meta(self.meta, num_ranks)
        if num_ranks == self.meta.source_ranks:
            return self
        return self.changed_by(meta, Resource(num_ranks, self.meta.top_k))

    def rescaled(self, tokens_per_rank: int) -> Trace:
        """Return the trace with ``tokens_per_rank`` tokens in every source row.

        Exact and deterministic; see `ultraep_sim.trace.rescale_rows`.
        ``meta.notes["rescaled_to"]`` says so. A row that has no tokens keeps none.

        Raises
        ------
        TraceError
            If the tokens are not a positive integer or the records would reach 2^31 pairs.
        """
        from .rescale import Rescale, rescale_meta

        meta = rescale_meta(self.meta, tokens_per_rank)
        return self.changed_by(meta, Rescale(tokens_per_rank * self.meta.top_k))

    def regrouped(self, micro_batches: int) -> Trace:
        """Return the trace with ``micro_batches`` consecutive micro-batches in every step.

        A policy that places by history then sees global batches of that many. See
        `ultraep_sim.trace.regroup.regrouped`; ``meta.notes["regrouped"]`` says what was dropped.

        Raises
        ------
        TraceError
            If the number neither divides nor is a multiple of the micro-batches a step has.
        """
        from .regroup import regrouped

        return regrouped(self, micro_batches)

    def write(self, path: str | Path) -> Path:
        """Write the view to a Parquet file, record by record, and return its path.

        Raises
        ------
        TraceError
            If the view has no records, or the file cannot be written.
        """
        from .parquet import TraceWriter

        with TraceWriter(path, self.meta) as writer:
            for record in self:
                writer.append(*record)
        return Path(path)

    @classmethod
    def read(cls, path: str | Path) -> Trace:
        """Open a Parquet trace; same as `load_trace`."""
        from .parquet import load_trace

        return load_trace(path)

    @classmethod
    def from_arrays(
        cls,
        meta: TraceMeta,
        steps: ArrayLike,
        micro_batches: ArrayLike,
        layers: ArrayLike,
        loads: ArrayLike,
    ) -> Trace:
        """Make a trace of arrays in memory (copied).

        Parameters
        ----------
        meta : TraceMeta
        steps, micro_batches, layers : array_like of int, shape [records]
            Strictly ascending as triples.
        loads : array_like of int, shape [records, source_ranks, num_experts]

        Raises
        ------
        TraceError
            If shapes or types do not fit, or a record breaks a rule of the format.
        """
        counts = _int32("loads", loads, 3)
        shape = (meta.source_ranks, meta.num_experts)
        if counts.shape[1:] != shape:
            raise TraceError(
                f"loads must have shape [records, {shape[0]}, {shape[1]}]",
                place="loads",
                value=counts.shape,
                remedy="they are [record, source rank, expert]; see metadata",
            )
        columns = [
            _int32(name, values, 1)
            for name, values in (
                ("steps", steps),
                ("micro_batches", micro_batches),
                ("layers", layers),
            )
        ]
        if any(len(column) != len(counts) for column in columns) or not len(counts):
            raise TraceError(
                "steps, micro_batches, layers and loads need the same number of records, not 0",
                place="arrays",
                value=[*(len(column) for column in columns), len(counts)],
                remedy="give one step, micro-batch and layer a record",
            )
        return cls(MemorySource(meta, np.stack(columns, axis=1), counts), meta)

    @classmethod
    def from_records(cls, meta: TraceMeta, records: Iterable[Record | tuple[Any, ...]]) -> Trace:
        """Collect records (or plain tuples of their four fields) in memory.

        Raises
        ------
        TraceError
            If there is none, or one breaks a rule of the format.
        """
        rows = [(s, m, layer, np.array(loads)) for s, m, layer, loads in records]
        if not rows:
            raise TraceError("a trace needs at least one record", place="records", value=0)
        for step, micro_batch, layer, loads in rows:
            if loads.shape != (meta.source_ranks, meta.num_experts):
                raise TraceError(
                    "loads do not have the shape of the metadata",
                    place=f"step {step}, micro-batch {micro_batch}, layer {layer}",
                    value=loads.shape,
                    remedy=f"give [{meta.source_ranks}, {meta.num_experts}]",
                )
        steps, micro_batches, layers, loads = zip(*rows, strict=True)
        return cls.from_arrays(meta, steps, micro_batches, layers, np.stack(loads))

    def changed_by(self, meta: TraceMeta, change: LoadStep) -> Trace:
        """Return the trace with one more change of its matrices, and the metadata that says so."""
        return Trace(self._source, meta, self._selection, (*self._steps, change))

    def __repr__(self) -> str:
        return f"<Trace {self.meta.describe()}, {self.meta.phase}, {self.meta.kind}>"


@dataclass(frozen=True, eq=False)
class MemorySource:
    """Records held in memory, checked when made."""

    meta: TraceMeta
    _keys: NDArray[np.int32]
    _loads: NDArray[np.int32]

    def __post_init__(self) -> None:
        RecordChecker(self.meta).check(self._keys, self._loads)

    def records(self, selection: Selection) -> Iterator[Record]:
        """Yield copies, so that no receiver can change the trace."""
        for at in np.flatnonzero(selection.mask(self._keys)):
            step, micro_batch, layer = self._keys[at].tolist()
            yield Record(step, micro_batch, layer, self._loads[at].copy())

    def keys(self) -> NDArray[np.int32]:
        """Return step, micro-batch and layer of every record."""
        return self._keys.copy()

    def count(self) -> int:
        """Return the number of records."""
        return len(self._keys)

    def digest(self) -> str:
        """Return the sha256 of metadata, keys and counts as little-endian int32."""
        found = hashlib.sha256(self.meta.to_json().encode())
        found.update(self._keys.astype("<i4").tobytes())
        found.update(np.ascontiguousarray(self._loads.astype("<i4", copy=False)).data)
        return found.hexdigest()


def _int32(name: str, values: ArrayLike, ndim: int) -> NDArray[np.int32]:
    """Copy to int32, refusing what is not integer, has the wrong axes, or does not fit."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal lengths
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "iu" or array.ndim != ndim:
        raise TraceError(
            f"{name} must be integers with {ndim} axes",
            place=name,
            value=f"{array.dtype} {array.shape}",
            remedy="counts are whole (token, expert) pairs",
        )
    limit = np.iinfo(np.int32)
    if array.size and not (limit.min <= int(array.min()) and int(array.max()) <= limit.max):
        worst = int(array.max()) if int(array.max()) > limit.max else int(array.min())
        raise TraceError(f"{name} must fit int32", place=name, value=worst)
    return np.array(array, dtype=np.int32, order="C")
