"""Routed experts of every token: arrays [tokens, layers, k] as serving systems return them.

vLLM
    int16 or int32 ``.npy`` of that shape, or a ``.npz`` with the member ``routed_experts`` (or
    ``topk``) and optionally ``seq`` int [tokens], the request of every token, and ``meta``, a JSON
    object (``model``, ``num_experts``, ``source``, ``kind``).
SGLang
    JSON or JSON lines: an object a request with ``routed_experts``, the base64 text of int32
    [tokens, layers, k] in C order, itself or inside ``meta_info``. The shape is not in the file:
    --model, or --layers and --top-k, give it; ``shape`` beside it does too.

Ids are logical; -1 marks a token that is padding. Without --tokens-per-step every request (every
run of equal ``seq``; the whole array where nothing tells) is a step of its own; with it, tokens are
cut into steps of that many in the order of the file, and a rest that does not fill one is dropped
(the notes say how many).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, check_ints, int_array, whole_numbers
from .dump import Dump, DumpMeta, Observed, RawRecord, ReadOptions
from .limits import refuse
from .sample import Sample
from .tokens import count_tokens

NAME = "routed-experts"
TITLE = "routed experts [tokens, layers, k]: vLLM .npy/.npz, SGLang base64 JSON"
_MEMBERS = ("routed_experts", "topk")


def recognise(sample: Sample) -> bool:
    """Whether it is such an array or such JSON."""
    if sample.kind in ("json", "jsonl"):
        return _encoded(sample.members) is not None
    array = _array(sample)
    return array is not None and array.ndim == 3 and array.dtype.kind in "iu"


def _array(sample: Sample) -> Array | None:
    if sample.kind not in ("npy", "npz"):
        return None
    return next((sample.arrays[n] for n in ("", *_MEMBERS) if n in sample.arrays), None)


def _encoded(members: dict[str, Any]) -> str | None:
    inner = members.get("meta_info")
    for holder in (members, inner if isinstance(inner, dict) else {}):
        if isinstance(holder.get("routed_experts"), str):
            return str(holder["routed_experts"])
    return None


def read(sample: Sample, options: ReadOptions) -> Dump:
    """Open an array or JSON of requests.

    Raises
    ------
    TraceError
        If the experts are not known or the shape does not fit.
    """
    path, array = sample.path, _array(sample)
    said: dict[str, Any] = sample.metadata if array is not None else {}
    layers, top_k = _axes(sample, array, options)
    told = said.get("num_experts")
    experts = options.num_experts(path, told if isinstance(told, int) else None)
    placed = options.place_layers(range(layers))
    wanted = options.tokens_per_step

    def records(observed: Observed) -> Iterator[RawRecord]:
        requests = _arrays_of(array, sample) if array is not None else _texts(sample, layers, top_k)
        steps = requests if wanted is None else _cut(requests, wanted, observed)
        for step, pieces in enumerate(steps):
            counts = sum(count_tokens(ids, experts, observed, path) for ids in pieces)
            assert not isinstance(counts, int)  # noqa: S101  # a step has at least one piece
            for at, layer in placed.position.items():
                yield RawRecord(step, 0, layer, counts[at][None].copy())

    meta = DumpMeta(
        NAME,
        experts,
        placed.num_layers,
        model=options.name(said.get("model")),
        top_k=options.choose_k(path, top_k),
        phase=options.phase or "prefill",
        recorded=_recorded(said),
        positions=True,
        sampling=placed.sampling,
        notes=placed.notes,
    )
    return Dump(meta, (path,), records)


def _axes(sample: Sample, array: Array | None, options: ReadOptions) -> tuple[int, int]:
    """Layers and k."""
    if array is not None:
        check_ints(array, 3, "[tokens, layers, k]")
        return array.shape[1], array.shape[2]
    shape = sample.members.get("shape")
    if isinstance(shape, list) and len(shape) == 3 and all(type(x) is int for x in shape):
        layers, top_k = shape[1:]
    else:
        layers = options.layers or (options.shape.moe_layers if options.shape else 0)
        top_k = options.choose_k(sample.path, None) or 0
    if not 1 <= layers < 2**16 or not 1 <= top_k < 2**16:
        refuse(
            "does not say its layers and top-k",
            sample.path,
            "routed_experts",
            remedy="give --model, or --layers and --top-k",
        )
    return layers, top_k


def _arrays_of(array: Array, sample: Sample) -> Iterator[Iterator[NDArray[np.int64]]]:
    """Yield, for every request, its ids in pieces [tokens, layers, k]."""

    def pieces() -> Iterator[NDArray[np.int64]]:
        for block in array.blocks():
            yield whole_numbers(block, array.path, array.name)

    owner = sample.arrays.get("seq")
    if owner is None:
        yield pieces()
        return
    requests = int_array(owner, 1, "[tokens]")
    if len(requests) != array.shape[0]:
        refuse("must name the request of every token", array.path, "seq", len(requests))
    ends = np.append(np.flatnonzero(np.diff(requests)) + 1, len(requests))
    held, done = np.empty((0, *array.shape[1:]), np.int64), 0
    source = pieces()
    for end in ends.tolist():
        while done + len(held) < end:
            held = np.concatenate([held, next(source)])
        yield iter([held[: end - done]])
        held, done = held[end - done :], end


def _texts(sample: Sample, layers: int, top_k: int) -> Iterator[Iterator[NDArray[np.int64]]]:
    for number, line in sample.lines():
        text, place = _encoded(line), f"line {number}"
        if text is None:
            refuse("has no routed_experts", sample.path, place)
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            refuse("routed_experts is not base64", sample.path, place, str(error))
        if not raw or len(raw) % (4 * layers * top_k):
            refuse(
                f"is not int32 [tokens, {layers}, {top_k}]",
                sample.path,
                place,
                f"{len(raw)} bytes",
                "correct --layers, --top-k or --model",
            )
        yield iter([np.frombuffer(raw, "<i4").reshape(-1, layers, top_k).astype(np.int64)])


def _cut(
    requests: Iterator[Iterator[NDArray[np.int64]]], wanted: int, observed: Observed
) -> Iterator[list[NDArray[np.int64]]]:
    """Cut the tokens of all requests into steps of ``wanted``."""
    held: list[NDArray[np.int64]] = []
    have = 0
    for request in requests:
        for ids in request:
            while have + len(ids) >= wanted:
                take = wanted - have
                yield [*held, ids[:take]]
                held, have, ids = [], 0, ids[take:]
            if len(ids):
                held.append(ids)
                have += len(ids)
    observed["tokens left over"] += have


def _recorded(said: dict[str, Any]) -> str:
    known = [said[key] for key in ("kind", "source") if isinstance(said.get(key), str)]
    return ", from ".join(known) if known else "routed experts returned by a serving system"
