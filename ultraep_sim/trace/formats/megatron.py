"""Megatron router traces: JSON lines, one file a rank (``router_trace_rank{N}.jsonl``).

Every line is an object (assumed where the description leaves it open): ``iteration`` (or ``step``),
``layer`` (or ``layer_number``), optional ``microbatch`` (or ``micro_batch``), ``rank``, and either
``tokens_per_expert`` [experts] or ``topk_indices`` [tokens, k]. ``num_experts``, ``top_k`` and
``model`` may stand in the first line. Without a micro-batch, the n-th line of an iteration and
layer is micro-batch n. Files that tell no rank are source ranks in natural order of their names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dump import Dump, DumpMeta, Observed, RawRecord, ReadOptions
from .json_file import json_counts, json_int
from .limits import refuse
from .sample import Sample
from .tokens import count_tokens

NAME = "megatron"
TITLE = "Megatron router trace, JSON lines, one a rank"
_COUNTS, _IDS = "tokens_per_expert", "topk_indices"


def recognise(sample: Sample) -> bool:
    """Whether it is such JSON lines."""
    first = sample.members if sample.kind in ("json", "jsonl") else {}
    numbered = "layer" in first or "layer_number" in first
    return numbered and (_COUNTS in first or _IDS in first)


def read(sample: Sample, options: ReadOptions) -> Dump:
    """Open the file of a rank: one pass for its layers, then lines one by one.

    Raises
    ------
    TraceError
        If a line lacks a member, or names another rank.
    """
    path, first = sample.path, sample.members
    ids: set[int] = set()
    starts: list[int] = []
    rank = json_int(first, "rank", path=path, place="line 1")
    for number, line in sample.lines():
        step, _, layer = _key(sample, number, line)
        ids.add(layer)
        starts = [min([step, *starts])]
        if json_int(line, "rank", path=path, place=f"line {number}") != rank:
            refuse("names another rank than line 1", path, f"line {number}", line.get("rank"))
    layers = options.place_layers(ids)
    told = json_int(first, "num_experts", path=path, place="line 1")
    if told is None and _COUNTS in first:
        told = len(json_counts(first[_COUNTS], 1, path, "line 1"))
    experts = options.num_experts(path, told)
    top_k = json_int(first, "top_k", path=path, place="line 1")
    if top_k is None and _IDS in first:
        top_k = json_counts(first[_IDS], 2, path, "line 1").shape[1]

    def records(observed: Observed) -> Iterator[RawRecord]:
        seen: Counter[tuple[int, int]] = Counter()
        for number, line in sample.lines():
            step, micro_batch, layer = _key(sample, number, line)
            if layer not in layers.position:
                continue
            if micro_batch is None:
                micro_batch = seen[step, layer]
                seen[step, layer] += 1
            counts = _counts(sample, number, line, experts, observed)
            yield RawRecord(step, micro_batch, layers.position[layer], counts[None])

    meta = DumpMeta(
        NAME,
        experts,
        layers.num_layers,
        model=options.name(first.get("model")),
        top_k=options.choose_k(path, top_k),
        phase=options.phase or "training",
        recorded="by a router trace of Megatron",
        source_rank=rank,
        sampling=layers.sampling,
        notes=layers.notes,
    )
    return Dump(meta, (path,), records, (starts[0], 0))


def _key(sample: Sample, number: int, line: dict[str, Any]) -> tuple[int, int | None, int]:
    place = f"line {number}"
    found = [
        json_int(line, *names, path=sample.path, place=place)
        for names in (
            ("iteration", "step"),
            ("microbatch", "micro_batch"),
            ("layer", "layer_number"),
        )
    ]
    step, micro_batch, layer = found
    if step is None or layer is None:
        refuse("has no iteration and layer", sample.path, place)
    return step, micro_batch, layer


def _counts(
    sample: Sample, number: int, line: dict[str, Any], experts: int, observed: Observed
) -> NDArray[np.int64]:
    place = f"line {number}"
    if _COUNTS in line:
        counts = json_counts(line[_COUNTS], 1, sample.path, place)
        if len(counts) != experts:
            refuse(f"has not {experts} counts", sample.path, place, len(counts))
        return counts
    ids = json_counts(line.get(_IDS), 2, sample.path, place)
    counts = count_tokens(ids[:, None], experts, observed, sample.path)
    return counts.reshape(experts)
