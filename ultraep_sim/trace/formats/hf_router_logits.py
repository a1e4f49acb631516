"""Router logits of a Hugging Face model: tensors of logits, of which each token takes the top-k.

A ``.pt`` file with a tuple or list of tensors, one a MoE layer, or a dictionary whose
``router_logits`` is such a list or one tensor [layers, tokens, experts] (what a model returns with
``output_router_logits=True``); or safetensors or npz with ``router_logits`` or
``router_logits.{layer}``. A layer is [tokens, experts] or [batch, sequence, experts]. The file is
one step.

The k largest logits are taken, lower expert ids first where they tie. A router that adds a bias or
chooses groups first (DeepSeek-V3) decides otherwise: dump its choices instead. --top-k or --model
must give k.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array
from .dump import Dump, DumpMeta, Observed, RawRecord, ReadOptions
from .limits import refuse
from .sample import Sample

NAME = "hf-router-logits"
TITLE = "router logits of a Hugging Face model: .pt, .safetensors, .npz"
_MEMBER = "router_logits"
_KEY = re.compile(r"(?:.*\.)?router_logits\.(\d{1,6})")
_BLOCK = 1 << 22


def recognise(sample: Sample) -> bool:
    """Whether it holds such tensors."""
    return bool(_layers(sample))


def _layers(sample: Sample) -> dict[int, Array]:
    """Tensor of every layer, by its number; a stacked tensor is cut."""
    if sample.kind not in ("torch", "safetensors", "npz"):
        return {}
    found: Any = sample.tree if sample.kind == "torch" else None
    if isinstance(found, dict):
        found = found.get(_MEMBER)
    if isinstance(found, (list, tuple)):
        return _floating(dict(enumerate(found)))
    one = sample.arrays.get(_MEMBER)
    if one is not None and one.ndim == 3:
        return _floating({at: _slice(one, at) for at in range(min(one.shape[0], 1 << 16))})
    keyed = {name: _KEY.fullmatch(name) for name in sample.arrays}
    return _floating({int(m[1]): sample.arrays[name] for name, m in keyed.items() if m})


def _floating(layers: dict[int, Any]) -> dict[int, Array]:
    good = all(isinstance(x, Array) and x.dtype.kind == "f" and x.ndim > 1 for x in layers.values())
    return dict(sorted(layers.items())) if good else {}


def _slice(array: Array, at: int) -> Array:
    return Array(
        array.path, f"{array.name}[{at}]", array.shape[1:], array.dtype, lambda: array.load()[at]
    )


def read(sample: Sample, options: ReadOptions) -> Dump:
    """Open the logits of one step.

    Raises
    ------
    TraceError
        If k is not known, layers differ in shape, or a logit is not a number.
    """
    path, tensors = sample.path, _layers(sample)
    shapes = {array.shape for array in tensors.values()}
    shape = shapes.pop()
    if shapes or 0 in shape or len(shape) not in (2, 3):
        refuse("layers must share one shape [tokens, experts]", path, _MEMBER, list(shape))
    experts = options.num_experts(path, shape[-1])
    top_k = options.choose_k(path, None)
    if top_k is None or top_k > experts:
        refuse("does not say top-k", path, _MEMBER, top_k, "give --top-k or --model")
    layers = options.place_layers(tensors)

    def records(_: Observed) -> Iterator[RawRecord]:
        for number, array in tensors.items():
            if number in layers.position:
                counts = top_counts(array, top_k)
                yield RawRecord(0, 0, layers.position[number], counts[None])

    meta = DumpMeta(
        NAME,
        experts,
        layers.num_layers,
        model=options.name(),
        top_k=top_k,
        phase=options.phase or "prefill",
        recorded="router logits of a Hugging Face model, the top-k of every token",
        positions=True,
        sampling=layers.sampling,
        notes=layers.notes,
    )
    return Dump(meta, (path,), records)


def top_counts(array: Array, top_k: int) -> NDArray[np.int64]:
    """Count how often every expert is among a token's ``top_k``, int64 [experts].

    Raises
    ------
    TraceError
        If a logit is not a number.
    """
    logits = array.load().reshape(-1, array.shape[-1])
    experts = logits.shape[1]
    counts = np.zeros(experts, dtype=np.int64)
    rows = max(1, _BLOCK // experts)
    for first in range(0, len(logits), rows):
        part = logits[first : first + rows]
        if np.isnan(part).any():
            token = first + int(np.argwhere(np.isnan(part))[0][0])
            refuse("a logit is not a number", array.path, f"{array.name}, token {token}")
        chosen = np.argsort(-part, axis=1, kind="stable")[:, :top_k]
        counts += np.bincount(chosen.ravel(), minlength=experts)
    return counts
