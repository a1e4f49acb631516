"""SGLang's expert distribution recorder: ``.pt`` files of its three modes.

``stat`` (assumed where the description leaves it open)
    A dictionary with ``logical_count``: [steps, layers, experts], or [layers, experts] for one
    step. ``logical_count_layout``, if there, names the axes in order and is read first: a text such
    as ``"step,layer,expert"`` or a list of such names; counts are turned to that order. ``steps``,
    if there, numbers the rows. The recorder's buffer is a ring: rows without tokens were never
    written, and a full ring starts with its newest rows.
``per_pass``
    ``records``, a list of dictionaries with ``forward_pass_id``, ``rank`` and
    ``global_physical_count`` [layers, physical] (ids are global, the tokens those of this rank),
    and ``last_physical_to_logical_map`` [layers, physical].
``per_token``
    The same with ``topk_ids_of_layer`` [layers, tokens, k], physical ids; -1 for a token that is
    padding.

Layers that are dense count no tokens; with --model they are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, int_array
from .cube import cube_records, step_numbers
from .dump import Dump, DumpMeta, Observed, RawRecord, ReadOptions
from .limits import refuse
from .physical import check_placement, logical_counts
from .sample import Sample
from .tokens import count_tokens

STAT, PASS, TOKEN = "sglang-stat", "sglang-per-pass", "sglang-per-token"
TITLES = {
    STAT: "SGLang recorder, .pt of mode stat",
    PASS: "SGLang recorder, .pt of mode per_pass",
    TOKEN: "SGLang recorder, .pt of mode per_token",
}
_AXES = ("step", "layer", "expert")
_MEMBER = {PASS: "global_physical_count", TOKEN: "topk_ids_of_layer"}
_RECORDED = "by the expert distribution recorder of SGLang"


def recognise_stat(sample: Sample) -> bool:
    """Whether it is a ``stat`` file."""
    return sample.kind == "torch" and "logical_count" in sample.arrays


def recognise_pass(sample: Sample) -> bool:
    """Whether it is a ``per_pass`` file."""
    return sample.kind == "torch" and _MEMBER[PASS] in _first(sample)


def recognise_token(sample: Sample) -> bool:
    """Whether it is a ``per_token`` file."""
    return sample.kind == "torch" and _MEMBER[TOKEN] in _first(sample)


def _first(sample: Sample) -> dict[str, Any]:
    records = sample.members.get("records")
    first = records[0] if isinstance(records, list) and records else None
    return first if isinstance(first, dict) else {}


def read_stat(sample: Sample, options: ReadOptions) -> Dump:
    """Open a ``stat`` file.

    Raises
    ------
    TraceError
        If the axes do not fit.
    """
    path = sample.path
    counts = _ordered(sample.arrays["logical_count"], sample.members.get("logical_count_layout"))
    steps = sample.arrays.get("steps")
    numbers = None
    if steps is not None:
        numbers = step_numbers(int_array(steps, 1, "[steps]"), counts.shape[0], counts)
    experts = options.num_experts(path, counts.shape[2])
    layers = options.place_layers(range(counts.shape[1]))
    meta = DumpMeta(
        STAT,
        experts,
        layers.num_layers,
        model=options.name(sample.members.get("model")),
        top_k=options.choose_k(path, None),
        phase=options.phase or "prefill",
        recorded=_RECORDED + ", mode stat",
        positions=numbers is None,
        sampling=layers.sampling,
        notes=layers.notes,
    )
    records = cube_records(counts, layers, list(range(counts.shape[1])), numbers)
    first = None if numbers is None else (int(numbers.min()), 0)
    return Dump(meta, (path,), records, first)


def _ordered(array: Array, layout: Any) -> Array:
    """Return the counts as [steps, layers, experts], whatever order the layout names."""
    default = _AXES if array.ndim == 3 else _AXES[1:]
    names: tuple[str, ...] = default
    if layout is not None:
        given = (
            layout.replace("[", "").replace("]", "").split(",")
            if isinstance(layout, str)
            else layout
        )
        if not isinstance(given, (list, tuple)) or not all(isinstance(x, str) for x in given):
            refuse("does not name axes", array.path, "logical_count_layout", layout)
        names = tuple(_axis(x) for x in given)
    if sorted(names) != sorted(default) or array.ndim not in (2, 3):
        refuse(
            f"must name the {array.ndim} axes of logical_count: step, layer, expert",
            array.path,
            "logical_count_layout",
            layout,
        )
    order = [names.index(axis) for axis in default]
    if array.ndim == 3 and order == [0, 1, 2]:
        return array
    shape = tuple(array.shape[at] for at in order)
    shape = shape if array.ndim == 3 else (1, *shape)

    def load() -> NDArray[Any]:
        return array.load().transpose(order).reshape(shape)

    return Array(array.path, array.name, shape, array.dtype, load)


def _axis(name: str) -> str:
    word = name.strip().lower().removeprefix("num_").removeprefix("logical_")
    word = word.removesuffix("s")
    return {"pass": "step", "buffer": "step", "iteration": "step", "time": "step"}.get(word, word)


def read_pass(sample: Sample, options: ReadOptions) -> Dump:
    """Open a ``per_pass`` file."""
    return _read_records(sample, options, PASS)


def read_token(sample: Sample, options: ReadOptions) -> Dump:
    """Open a ``per_token`` file."""
    return _read_records(sample, options, TOKEN)


def _read_records(sample: Sample, options: ReadOptions, mode: str) -> Dump:
    """Open the records of both modes: passes in order, ranks as source rows.

    Raises
    ------
    TraceError
        If a record lacks a member or does not fit the map.
    """
    path, member = sample.path, _MEMBER[mode]
    last = sample.arrays.get("last_physical_to_logical_map")
    placement = options.placement if last is None else int_array(last, 2, "[layers, physical]")
    if placement is None:
        refuse("has no last_physical_to_logical_map", path, "records", remedy="give it with --map")
    known = options.experts or (options.shape.num_experts if options.shape else None)
    experts = check_placement(placement, path, known)
    entries = [
        _entry(at, record, member, sample) for at, record in enumerate(sample.tree["records"])
    ]
    ranks = sorted({rank for _, rank, _ in entries})
    row = {rank: at for at, rank in enumerate(ranks)}
    layers = options.place_layers(range(len(placement)))
    count = _counter(mode, placement, experts)
    top_k = entries[0][2].shape[2] if mode == TOKEN and entries[0][2].ndim == 3 else None

    def records(observed: Observed) -> Iterator[RawRecord]:
        at = 0
        while at < len(entries):
            group: list[tuple[int, Array]] = []
            step = entries[at][0]
            # Ranks of one pass stand together; a rank that comes again starts a new record.
            while at < len(entries) and entries[at][0] == step:
                if any(entries[at][1] == rank for rank, _ in group):
                    break
                group.append(entries[at][1:])
                at += 1
            loads = np.zeros((len(placement), len(ranks), experts), dtype=np.int64)
            for rank, array in group:
                loads[:, row[rank]] = count(array, observed)
            observed["source rows missing"] += len(ranks) - len(group)
            for place, layer in layers.position.items():
                yield RawRecord(step, 0, layer, loads[place].copy())

    meta = DumpMeta(
        mode,
        experts,
        layers.num_layers,
        source_ranks=len(ranks),
        model=options.name(),
        top_k=options.choose_k(path, top_k),
        phase=options.phase or "prefill",
        recorded=f"{_RECORDED}, mode {member}; last physical-to-logical map applied",
        source_rank=ranks[0] if len(ranks) == 1 else None,
        sampling=layers.sampling,
        notes={**layers.notes, "ranks": ranks},
    )
    return Dump(meta, (path,), records, (min(step for step, _, _ in entries), 0))


def _entry(at: int, record: Any, member: str, sample: Sample) -> tuple[int, int, Array]:
    """Pass number, rank and array of one record."""
    place = f"records[{at}]"
    if not isinstance(record, dict) or not isinstance(record.get(member), Array):
        refuse(f"has no tensor {member}", sample.path, place)
    step, rank = record.get("forward_pass_id", at), record.get("rank", 0)
    for name, value in (("forward_pass_id", step), ("rank", rank)):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            refuse(f"{name} must be a whole number from 0", sample.path, place, value)
    return step, rank, record[member]


def _counter(
    mode: str, placement: NDArray[np.int64], experts: int
) -> Callable[[Array, Observed], NDArray[np.int64]]:
    """Return what turns the array of a record into logical counts [layers, experts]."""

    def from_counts(array: Array, _: Observed) -> NDArray[np.int64]:
        counts = int_array(array, 2, "[layers, physical]")
        return logical_counts(counts, placement, experts, array.path)

    def from_tokens(array: Array, observed: Observed) -> NDArray[np.int64]:
        if array.ndim == 3 and array.shape[1] == 0:  # a pass without tokens
            return np.zeros((array.shape[0], experts), dtype=np.int64)
        ids = int_array(array, 3, "[layers, tokens, k]").transpose(1, 0, 2)
        counts = count_tokens(ids, placement.shape[1], observed, array.path)
        return logical_counts(counts, placement, experts, array.path)

    return from_counts if mode == PASS else from_tokens
