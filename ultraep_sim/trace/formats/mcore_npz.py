"""Megatron-Core load dumps: ``.npz`` of format ``mcore_ep_load_dump_v1``, one file a source rank.

Members (assumed where the description leaves them open):

``metadata``
    0-d text, a JSON object: ``format`` = ``"mcore_ep_load_dump_v1"``, ``rank``; optional
    ``world_size``, ``num_experts`` (logical), ``top_k``, ``model``, ``micro_batches`` (forwards of
    a step; default 1).
``loads``
    int32 [layers, forwards, physical]: pairs of this source rank for every physical expert.
``physical_to_logical_map``
    int [layers, physical] or [physical], optional; -1 for an empty slot. Without it the physical
    experts are the logical ones, if there are as many.
``steps``
    int [forwards], optional: iteration of every forward. Default: position // ``micro_batches``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .arrays import int_array
from .cube import step_numbers
from .dump import Dump, DumpMeta, Observed, RawRecord, ReadOptions
from .json_file import json_int
from .limits import refuse
from .physical import check_placement, logical_counts
from .sample import Sample

NAME = "mcore-npz"
TITLE = "Megatron-Core load dump, .npz mcore_ep_load_dump_v1, one a rank"
VERSION = "mcore_ep_load_dump_v1"


def recognise(sample: Sample) -> bool:
    """Whether it is one of these files."""
    return (
        sample.kind == "npz"
        and "loads" in sample.arrays
        and sample.metadata.get("format") == VERSION
    )


def read(sample: Sample, options: ReadOptions) -> Dump:
    """Open the file of one rank.

    Raises
    ------
    TraceError
        If members do not fit each other.
    """
    path, members, said = sample.path, sample.arrays, sample.metadata
    loads = int_array(members["loads"], 3, "[layers, forwards, physical]")
    layers, forwards, physical = loads.shape
    experts, placement = _placement(sample, options, layers, physical)
    per_step = json_int(said, "micro_batches", path=path, place="metadata") or 1
    if "steps" in members:
        steps = step_numbers(
            int_array(members["steps"], 1, "[forwards]"), forwards, members["steps"]
        )
        micro = _within(steps)
    else:
        steps, micro = np.divmod(np.arange(forwards, dtype=np.int64), per_step)
    placed = options.place_layers(range(layers))

    def records(_: Observed) -> Iterator[RawRecord]:
        for forward in range(forwards):
            counts = loads[:, forward]
            if placement is not None:
                counts = logical_counts(counts, placement, experts, path)
            for at, layer in placed.position.items():
                step, number = int(steps[forward]), int(micro[forward])
                yield RawRecord(step, number, layer, counts[at][None].copy())

    meta = DumpMeta(
        NAME,
        experts,
        placed.num_layers,
        model=options.name(said.get("model")),
        top_k=options.choose_k(path, json_int(said, "top_k", path=path, place="metadata")),
        phase=options.phase or "training",
        recorded="by the expert-load dump of Megatron-Core",
        source_rank=json_int(said, "rank", path=path, place="metadata"),
        positions="steps" not in members,
        sampling=placed.sampling,
        notes=placed.notes,
    )
    return Dump(meta, (path,), records, (int(steps.min()), 0) if "steps" in members else None)


def _placement(
    sample: Sample, options: ReadOptions, layers: int, physical: int
) -> tuple[int, NDArray[np.int64] | None]:
    """Return the logical experts and the map [layers, physical], None where they are the same."""
    path = sample.path
    said = json_int(sample.metadata, "num_experts", path=path, place="metadata")
    placement = options.placement
    if "physical_to_logical_map" in sample.arrays:
        array = sample.arrays["physical_to_logical_map"]
        placement = int_array(array, array.ndim if array.ndim == 1 else 2, "[layers, physical]")
    if placement is None:
        experts = options.num_experts(path, said if said is not None else None)
        if experts != physical:
            refuse(
                f"counts {physical} physical experts of {experts} and has no map",
                path,
                "loads",
                physical,
                "give the physical-to-logical map with --map",
            )
        return experts, None
    placement = np.broadcast_to(placement, (layers, placement.shape[-1]))
    known = said or options.experts or (options.shape.num_experts if options.shape else None)
    return check_placement(placement, path, known), placement


def _within(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of every forward in its step, from 0, in order of appearance."""
    seen: dict[int, int] = {}
    out = np.empty_like(steps)
    for at, step in enumerate(steps.tolist()):
        out[at] = seen.get(step, 0)
        seen[step] = int(out[at]) + 1
    return out
