"""vLLM's EPLB dumps: JSON lines of windows, or a load history.

Windows (assumed where the description leaves them open): every line is an object with
``window_expert_load`` [layers, physical], pairs of the window, and ``physical_to_logical_map``
[layers, physical], -1 for an empty slot; optional ``step`` and ``model``. A window is one record a
layer: its counts are sums over the steps of the window.

History: ``{"load_history": [{"logical_expert_load": [layers, experts]}, ...]}``, optional ``step``
in every entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dump import Dump, DumpMeta, Observed, RawRecord, ReadOptions
from .json_file import json_counts, json_int
from .limits import refuse
from .physical import check_placement, logical_counts
from .sample import Sample

WINDOWS, HISTORY = "vllm-eplb", "vllm-load-history"
TITLES = {
    WINDOWS: "vLLM EPLB dump, JSON lines with window_expert_load",
    HISTORY: 'vLLM load history, JSON {"load_history": [...]}',
}


def recognise_windows(sample: Sample) -> bool:
    """Whether it is JSON lines of windows."""
    return sample.kind in ("json", "jsonl") and "window_expert_load" in sample.members


def recognise_history(sample: Sample) -> bool:
    """Whether it is a load history."""
    return sample.kind == "json" and "load_history" in sample.members


def read_windows(sample: Sample, options: ReadOptions) -> Dump:
    """Open JSON lines of windows; lines are read one by one.

    Raises
    ------
    TraceError
        If a line does not fit its map or the first line.
    """
    path, first = sample.path, sample.members
    counts, placement = _window(sample, 1, first, options)
    known = options.experts or (options.shape.num_experts if options.shape else None)
    told = json_int(first, "num_logical_experts", "num_experts", path=path, place="line 1")
    experts = check_placement(placement, path, options.num_experts(path, told) if told else known)
    layers = options.place_layers(range(len(counts)))
    numbered = "step" in first

    def records(_: Observed) -> Iterator[RawRecord]:
        for at, (number, line) in enumerate(sample.lines()):
            counts, placement = _window(sample, number, line, options)
            check_placement(placement, path, experts)
            logical = logical_counts(counts, placement, experts, path)
            step = json_int(line, "step", path=path, place=f"line {number}")
            if numbered == (step is None):
                refuse("some lines have a step and some have not", path, f"line {number}")
            for place, layer in layers.position.items():
                if place >= len(logical):
                    refuse("has fewer layers than line 1", path, f"line {number}", len(logical))
                yield RawRecord(at if step is None else step, 0, layer, logical[place][None])

    meta = DumpMeta(
        WINDOWS,
        experts,
        layers.num_layers,
        model=options.name(first.get("model")),
        top_k=options.choose_k(path, json_int(first, "top_k", path=path, place="line 1")),
        phase=options.phase or "prefill",
        recorded="windows of vLLM's EPLB; physical-to-logical maps applied",
        positions=not numbered,
        sampling=layers.sampling,
        notes=layers.notes,
    )
    start = json_int(first, "step", path=path, place="line 1")
    return Dump(meta, (path,), records, None if start is None else (start, 0))


def _window(
    sample: Sample, number: int, line: dict[str, Any], options: ReadOptions
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return counts and map of a line, both [layers, physical]."""
    place = f"line {number}"
    counts = json_counts(line.get("window_expert_load"), 2, sample.path, place)
    given = line.get("physical_to_logical_map")
    if given is not None:
        return counts, json_counts(given, 2, sample.path, place)
    if options.placement is None:
        refuse("has no physical_to_logical_map", sample.path, place, remedy="give it with --map")
    return counts, options.placement


def read_history(sample: Sample, options: ReadOptions) -> Dump:
    """Open a load history.

    Raises
    ------
    TraceError
        If an entry is not [layers, experts] like the first.
    """
    path, entries = sample.path, sample.members["load_history"]
    if not isinstance(entries, list) or not entries:
        refuse("is no list of entries", path, "load_history", entries)
    loads, steps = [], []
    for at, entry in enumerate(entries):
        place = f"load_history[{at}]"
        if not isinstance(entry, dict):
            refuse("is no object", path, place, entry)
        loads.append(json_counts(entry.get("logical_expert_load"), 2, path, place))
        steps.append(json_int(entry, "step", path=path, place=place))
        if loads[-1].shape != loads[0].shape:
            refuse("differs in shape from the first", path, place, list(loads[-1].shape))
    numbered = None not in steps
    if not numbered and any(step is not None for step in steps):
        refuse("some entries have a step and some have not", path, "load_history")
    layers = options.place_layers(range(len(loads[0])))

    def records(_: Observed) -> Iterator[RawRecord]:
        for at, (step, counts) in enumerate(zip(steps, loads, strict=True)):
            for place, layer in layers.position.items():
                yield RawRecord(at if step is None else step, 0, layer, counts[place][None].copy())

    meta = DumpMeta(
        HISTORY,
        options.num_experts(path, loads[0].shape[1]),
        layers.num_layers,
        model=options.name(sample.members.get("model")),
        top_k=options.choose_k(path, None),
        phase=options.phase or "prefill",
        recorded="a load history of vLLM's EPLB",
        positions=not numbered,
        sampling=layers.sampling,
        notes=layers.notes,
    )
    first = min((step for step in steps if step is not None), default=None)
    return Dump(meta, (path,), records, None if first is None else (first, 0))
