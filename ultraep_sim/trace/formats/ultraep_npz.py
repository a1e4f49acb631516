"""UltraEP load profiler: ``.npz`` files of format ``ultra_ep_trace_v1``.

Members (assumed where the description leaves them open):

``metadata``
    0-d text, a JSON object: ``format`` = ``"ultra_ep_trace_v1"``, ``num_experts``; optional
    ``top_k``, ``model``, ``num_layers``, ``phase``, ``step`` (of all records of the file),
    ``sampling``, ``recorded``, ``synthetic``.
``layers``, ``microbatches``
    int [records]: MoE layer and micro-batch.
``virtual_layers``
    int [records], optional: number of the layer in its virtual pipeline stage; not used.
``steps``
    int [records], optional: training iteration. Without it and without ``step`` in the metadata
    every record belongs to step 0.
``pre_logical_loads``
    int32 [records, experts]: pairs of every logical expert before balancing, summed over sources.
``post_physical_loads``
    int32 [records, physical], optional: pairs of every physical expert after balancing. Only its
    sums are compared.

A pipeline interleaves layers and micro-batches; records are sorted by step, micro-batch and layer
when read. Long runs are chunk files beside a manifest, see `series`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..container import Trace
from .arrays import Array, int_array
from .dump import Dump, DumpMeta, Observed, RawRecord, ReadOptions
from .json_file import json_int
from .limits import refuse
from .sample import Sample

NAME = "ultraep-npz"
TITLE = "UltraEP load profiler, .npz ultra_ep_trace_v1"
VERSION = "ultra_ep_trace_v1"
CHUNK_RECORDS = 1 << 16


def recognise(sample: Sample) -> bool:
    """Whether it is one of these files."""
    return sample.kind == "npz" and "pre_logical_loads" in sample.arrays


def read(sample: Sample, options: ReadOptions) -> Dump:
    """Open one chunk.

    Raises
    ------
    TraceError
        If a member is missing or does not fit the others.
    """
    path, members, said = sample.path, sample.arrays, sample.metadata
    if said.get("format", VERSION) != VERSION:
        refuse("is of another version", path, "metadata.format", said["format"], f"want {VERSION}")
    loads = int_array(members["pre_logical_loads"], 2, "[records, experts]")
    count, width = loads.shape
    keys = _keys(path, members, said, count)
    experts = options.num_experts(path, json_int(said, "num_experts", path=path, place="metadata"))
    if experts != width:
        refuse("is not as wide as the experts", path, "pre_logical_loads", width)
    layers = options.place_layers(keys[:, 2].tolist())
    told = json_int(said, "num_layers", path=path, place="metadata")
    num_layers = layers.num_layers
    if told and int(keys[:, 2].max()) < told:
        layers, num_layers = None, told  # type: ignore[assignment]  # the file numbers MoE layers
    post = members.get("post_physical_loads")
    differ = 0 if post is None else _post_differs(loads, post)
    order = np.lexsort(keys.T[::-1])

    def records(observed: Observed) -> Iterator[RawRecord]:
        if differ:
            observed["logical and physical sums differ"] += differ
        for at in order:
            step, micro_batch, layer = keys[at].tolist()
            if layers is not None:
                if layer not in layers.position:
                    continue
                layer = layers.position[layer]
            yield RawRecord(step, micro_batch, layer, loads[at][None].copy())

    first = keys[order[0]]
    meta = DumpMeta(
        NAME,
        experts,
        num_layers,
        model=options.name(said.get("model")),
        top_k=options.choose_k(path, json_int(said, "top_k", path=path, place="metadata")),
        phase=options.phase or _text(said, "phase", "training"),
        recorded=_text(said, "recorded", "by the load profiler of UltraEP"),
        synthetic=said.get("synthetic") is True,
        may_sort=True,
        sampling=dict(said["sampling"]) if isinstance(said.get("sampling"), dict) else {},
        notes={} if layers is None else layers.notes,
    )
    return Dump(meta, (path,), records, (int(first[0]), int(first[1])))


def write(trace: Trace, out: Path, chunk_records: int = CHUNK_RECORDS) -> list[Path]:
    """Write a trace, its sources summed: one file, or chunks and a manifest.

    Parameters
    ----------
    trace : Trace
    out : Path
        A ``.npz`` file to make, or a folder for ``chunk-NNNNN.npz`` and ``manifest.json``.
    chunk_records : int
        Records of a chunk.

    Returns
    -------
    list of Path
        What was written.
    """
    meta = trace.meta
    said = {
        "format": VERSION,
        "model": meta.model,
        "num_experts": meta.num_experts,
        "top_k": meta.top_k,
        "num_layers": meta.num_layers,
        "phase": meta.phase,
        "recorded": meta.recorded,
        "synthetic": meta.synthetic,
        "sampling": meta.sampling,
    }
    if out.suffix == ".npz":
        keys, loads = _collect(iter(trace), trace.num_records)
        _save(out, said, keys, loads)
        return [out]
    out.mkdir(parents=True, exist_ok=True)
    chunks: list[dict[str, Any]] = []
    written, stream, left = [], iter(trace), trace.num_records
    while left:
        keys, loads = _collect(stream, min(chunk_records, left))
        path = out / f"chunk-{len(chunks):05d}.npz"
        _save(path, said, keys, loads)
        chunks.append({"file": path.name, "records": len(keys)})
        written.append(path)
        left -= len(keys)
    manifest = out / "manifest.json"
    manifest.write_text(json.dumps({"format": VERSION, "chunks": chunks}, indent=1) + "\n")
    return [*written, manifest]


def _save(
    path: Path, said: dict[str, Any], keys: NDArray[np.int32], loads: NDArray[np.int32]
) -> None:
    np.savez_compressed(
        path,
        metadata=np.array(json.dumps(said, sort_keys=True)),
        steps=keys[:, 0],
        microbatches=keys[:, 1],
        layers=keys[:, 2],
        virtual_layers=keys[:, 2],
        pre_logical_loads=loads,
        post_physical_loads=loads,
    )


def _collect(stream: Iterator[Any], count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    keys, loads = [], []
    for _, record in zip(range(count), stream, strict=False):
        keys.append(record[:3])
        loads.append(record.loads.sum(axis=0))
    return np.array(keys, dtype=np.int32), np.array(loads, dtype=np.int32)


def _keys(
    path: Path, members: dict[str, Array], said: dict[str, Any], count: int
) -> NDArray[np.int64]:
    """Step, micro-batch and layer of every record, [records, 3]."""
    columns = []
    step = json_int(said, "step", path=path, place="metadata") or 0
    for name in ("steps", "microbatches", "layers"):
        if name == "steps" and name not in members:
            columns.append(np.full(count, step, dtype=np.int64))
            continue
        if name not in members:
            refuse("has not the member that this format needs", path, name)
        column = int_array(members[name], 1, "[records]")
        if len(column) != count or int(column.min()) < 0 or int(column.max()) >= 2**31:
            refuse(f"must be {count} numbers from 0", path, name, len(column))
        columns.append(column)
    return np.stack(columns, axis=1)


def _post_differs(loads: NDArray[np.int64], post: Array) -> int:
    """Count the records whose physical sum is not their logical sum."""
    after = int_array(post, 2, "[records, physical]")
    if len(after) != len(loads):
        refuse("has not a row a record", post.path, post.name, len(after))
    return int((after.sum(axis=1) != loads.sum(axis=1)).sum())


def _text(said: dict[str, Any], name: str, default: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) and value.strip() else default
