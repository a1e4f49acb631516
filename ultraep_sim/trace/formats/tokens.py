"""From the chosen experts of every token to counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .dump import Observed
from .limits import refuse

_CELLS = 1 << 22
_MAX_COUNTS = 1 << 26


def count_tokens(
    ids: NDArray[np.int64], num_experts: int, observed: Observed, path: Path
) -> NDArray[np.int64]:
    """Count the pairs of every layer and expert.

    Parameters
    ----------
    ids : ndarray of int64, shape [tokens, layers, k]
        Experts of every token; -1 where it chose none (padding).
    num_experts : int
    observed : Counter
        Is told of ``"masked tokens"``, ``"partly masked tokens"`` and ``"repeated experts"``
        (each counted once a layer).
    path : Path
        Named in errors.

    Returns
    -------
    ndarray of int64, shape [layers, num_experts]

    Raises
    ------
    TraceError
        If an id is out of range.
    """
    layers = ids.shape[1]
    if layers * num_experts > _MAX_COUNTS:
        refuse("has more layers and experts than any model", path, "layers", layers)
    out = np.zeros(layers * num_experts, dtype=np.int64)
    for part in _parts(ids):
        low, high = int(part.min()), int(part.max())
        if low < -1 or high >= num_experts:
            at = np.argwhere((part < -1) | (part >= num_experts))[0]
            refuse(
                f"an expert id lies outside 0..{num_experts - 1}",
                path,
                f"layer {int(at[1])}",
                int(part[tuple(at)]),
                "correct --experts, --top-k or --layers; the file may be damaged",
            )
        if low < 0:
            gaps = (part < 0).sum(axis=2)
            observed["masked tokens"] += int((gaps == part.shape[2]).sum())
            observed["partly masked tokens"] += int(((gaps > 0) & (gaps < part.shape[2])).sum())
        ranked = np.sort(part, axis=2)
        same = ((np.diff(ranked, axis=2) == 0) & (ranked[:, :, 1:] >= 0)).any(axis=2)
        observed["repeated experts"] += int(same.sum())
        flat = part + (np.arange(layers) * num_experts)[None, :, None]
        out += np.bincount(flat[part >= 0], minlength=len(out))
    return out.reshape(layers, num_experts)


def _parts(ids: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    rows = max(1, _CELLS // max(ids[0].size, 1)) if len(ids) else 1
    for first in range(0, len(ids), rows):
        yield ids[first : first + rows]
