"""The project's own Parquet trace, as a dump: so that every command takes it too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..container import Trace
from ..parquet import load_trace
from .dump import Dump, DumpMeta, Observed, RawRecord, ReadOptions
from .sample import Sample

NAME = "parquet"
TITLE = "the project's own trace, .parquet"


def recognise(sample: Sample) -> bool:
    """Whether it is a Parquet file; its own reader says whether it is a trace."""
    return sample.kind == "parquet"


def read(sample: Sample, options: ReadOptions) -> Dump:
    """Open a trace."""
    return dump_of(load_trace(sample.path), sample, options)


def dump_of(trace: Trace, sample: Sample, options: ReadOptions) -> Dump:
    """Return a trace as a dump of the same records."""
    meta, path = trace.meta, sample.path

    def records(_: Observed) -> Iterator[RawRecord]:
        for step, micro_batch, layer, loads in trace:
            yield RawRecord(step, micro_batch, layer, loads.astype(np.int64))

    about = DumpMeta(
        NAME,
        options.num_experts(path, meta.num_experts),
        meta.num_layers,
        source_ranks=meta.source_ranks,
        model=options.model or meta.model,
        top_k=options.choose_k(path, meta.top_k),
        phase=options.phase or meta.phase,
        recorded=meta.recorded,
        synthetic=meta.synthetic,
        sampling=meta.sampling,
        notes=meta.notes,
    )
    keys = trace.keys()
    return Dump(about, (path,), records, (int(keys[0, 0]), int(keys[0, 1])))
