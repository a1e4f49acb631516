"""Plain arrays of counts: ``tokens_per_expert`` of Megatron, and recordings of that kind.

A ``.npz``, ``.safetensors`` or ``.pt`` dictionary with one of the arrays ``tokens_per_expert``,
``loads``, ``expert_counts`` (or, in an npz, ``logical_count``): whole numbers [steps, layers,
experts], or [layers, experts] for one step. ``rank_loads`` [steps, layers, ranks] is taken too:
every rank then counts as one expert of a top-1 router, since which expert a pair went to is not
known (the notes say so). Optional beside it: ``steps`` [steps], ``layers`` [layers], and in an npz
``meta`` or ``metadata``, a JSON object with ``model``, ``top_k`` (or ``topk``), ``layers``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import Array, int_array
from .cube import cube_records, step_numbers
from .dump import Dump, DumpMeta, ReadOptions
from .json_file import json_counts, json_int
from .limits import refuse
from .sample import Sample

NAME = "counts"
TITLE = (
    "counts [steps, layers, experts]: tokens_per_expert, loads, rank_loads; .npz, .pt, .safetensors"
)
_MEMBERS = ("tokens_per_expert", "loads", "expert_counts", "rank_loads")


def recognise(sample: Sample) -> bool:
    """Whether it has such an array."""
    return _found(sample) is not None


def _found(sample: Sample) -> str | None:
    if sample.kind not in ("npz", "torch", "safetensors"):
        return None
    names = (*_MEMBERS, "logical_count") if sample.kind == "npz" else _MEMBERS
    return next((name for name in names if name in sample.arrays), None)


def read(sample: Sample, options: ReadOptions) -> Dump:
    """Open an array of counts.

    Raises
    ------
    TraceError
        If it has not these axes or what stands beside it does not fit.
    """
    path, said, name = sample.path, sample.metadata, _found(sample)
    assert name is not None  # noqa: S101  # it was recognised
    array = _cube(sample.arrays[name])
    by_rank = name == "rank_loads"
    ids = _layer_ids(sample, array.shape[1])
    steps = sample.arrays.get("steps")
    numbers = None
    if steps is not None:
        numbers = step_numbers(int_array(steps, 1, "[steps]"), array.shape[0], array)
    layers = options.place_layers(ids)
    top_k = json_int(said, "top_k", "topk", path=path, place="metadata")
    notes: dict[str, Any] = dict(layers.notes)
    if by_rank:
        top_k = 1
        notes["rank_loads"] = "every rank stands for one expert of a top-1 router"
    kind = said.get("kind")
    meta = DumpMeta(
        NAME,
        array.shape[2] if by_rank else options.num_experts(path, array.shape[2]),
        layers.num_layers,
        model=options.name(said.get("model")),
        top_k=1 if by_rank else options.choose_k(path, top_k),
        phase=options.phase or ("training" if by_rank or name == _MEMBERS[0] else "prefill"),
        recorded=kind if isinstance(kind, str) and kind.strip() else f"an array {name} of counts",
        positions=numbers is None,
        sampling=layers.sampling,
        notes=notes,
    )
    first = None if numbers is None else (int(numbers.min()), 0)
    return Dump(meta, (path,), cube_records(array, layers, ids, numbers), first)


def _cube(array: Array) -> Array:
    """Add the axis of steps where it lacks."""
    if array.ndim != 2:
        return array
    shape = (1, *array.shape)
    return Array(array.path, array.name, shape, array.dtype, lambda: array.load().reshape(shape))


def _layer_ids(sample: Sample, count: int) -> list[int]:
    """Layer numbers beside the counts, else 0, 1, ..."""
    given = sample.arrays.get("layers")
    if given is not None:
        ids = int_array(given, 1, "[layers]")
    elif "layers" in sample.metadata:
        ids = json_counts(sample.metadata["layers"], 1, sample.path, "metadata.layers")
    else:
        return list(range(count))
    if len(ids) != count or len(np.unique(ids)) != count or int(ids.min()) < 0:
        refuse(f"must be {count} different layer numbers", sample.path, "layers", len(ids))
    return [int(x) for x in ids]
