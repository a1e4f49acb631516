"""SGLang's expert location input: a JSON document ``{"logical_count": [...]}``.

``logical_count`` is [steps, layers, experts] or, for one step, [layers, experts]: whole numbers.
SGLang reads such a file as ``--init-expert-location``; other members are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..container import Trace
from .dump import Dump, DumpMeta, Observed, RawRecord, ReadOptions
from .json_file import json_counts
from .sample import Sample

NAME = "sglang-json"
TITLE = 'SGLang expert location JSON, {"logical_count": ...}'


def recognise(sample: Sample) -> bool:
    """Whether it is such a document."""
    return sample.kind == "json" and "logical_count" in sample.members


def read(sample: Sample, options: ReadOptions) -> Dump:
    """Open a document.

    Raises
    ------
    TraceError
        If the counts are no such lists.
    """
    path, value = sample.path, sample.members["logical_count"]
    deep = isinstance(value, list) and value and isinstance(value[0], list)
    ndim = 3 if deep and value[0] and isinstance(value[0][0], list) else 2
    counts = json_counts(value, ndim, path, "logical_count")
    cube = counts if ndim == 3 else counts[None]
    layers = options.place_layers(range(cube.shape[1]))

    def records(_: Observed) -> Iterator[RawRecord]:
        for step, rows in enumerate(cube):
            for at, layer in layers.position.items():
                yield RawRecord(step, 0, layer, rows[at][None].copy())

    meta = DumpMeta(
        NAME,
        options.num_experts(path, cube.shape[2]),
        layers.num_layers,
        model=options.name(sample.members.get("model")),
        top_k=options.choose_k(path, None),
        phase=options.phase or "prefill",
        recorded="from an expert location file of SGLang",
        positions=True,
        sampling=layers.sampling,
        notes=layers.notes,
    )
    return Dump(meta, (path,), records)


def write(trace: Trace, out: Path) -> list[Path]:
    """Write the counts of a trace, a row a micro-batch, its sources summed.

    Layers that a micro-batch lacks are rows of zeros, as the recorder writes them.

    Returns
    -------
    list of Path
    """
    meta = trace.meta
    keys = trace.keys()
    batches = np.unique(keys[:, :2], axis=0)
    with out.open("w", encoding="utf-8") as stream:
        stream.write('{"logical_count": [')
        rows = np.zeros((meta.num_layers, meta.num_experts), dtype=np.int64)
        at = 0
        for record in trace:
            if (record.step, record.micro_batch) != tuple(batches[at].tolist()):
                stream.write(json.dumps(rows.tolist()) + ",\n")
                rows[:] = 0
                at += 1
            rows[record.layer] = record.loads.sum(axis=0)
        stream.write(json.dumps(rows.tolist()) + "]}\n")
    return [out]
