"""The loads the planners are judged on: Zipf at given imbalances, a taxonomy, recorded traces.

Every case is drawn from its own random stream, named by family, shape and index: adding a family
or a shape changes no other case. A token takes top-k different experts, so no expert load is above
the number of tokens.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..trace import load_trace
from .draws import TOKENS_PER_RANK, Shape, zipf_loads
from .taxonomy import TAXONOMY

TARGETS = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Rank imbalances of the Zipf families."""

SHAPES = (
    Shape(128, 64, 1),
    Shape(128, 64, 2),
    Shape(256, 64, 2),
    Shape(160, 40, 4),
    Shape(256, 72, 2),
    Shape(32, 8, 2),
)
"""The arena's group sizes."""

QUICK_SHAPES = (SHAPES[0], SHAPES[2], SHAPES[5])

_TRACE_CASES = 4


@dataclass(frozen=True)
class Case:
    """One load matrix to plan.

    Attributes
    ----------
    family : str
    index : int
        Position in its family, counted over its seeds and micro-batches.
    shape : Shape
    loads : ndarray of int64, shape [ranks, experts]
    """

    family: str
    index: int
    shape: Shape
    loads: NDArray[np.int64]


def cases(
    shape: Shape, *, seeds: int = 3, seed: int = 0, traces: Path | None = None
) -> Iterator[Case]:
    """Yield every case of a shape.

    Parameters
    ----------
    shape : Shape
    seeds : int
        Draws of each Zipf target and each one-shot taxonomy family.
    seed : int
        Root of all random streams.
    traces : Path, optional
        Folder of recorded traces; those with the shape's number of experts are sampled.
    """
    for target in TARGETS:
        for index in range(seeds):
            loads = zipf_loads(_stream(seed, f"zipf-{target:g}", shape, index), shape, target)
            if loads is not None:
                yield Case(f"zipf-{target:g}", index, shape, loads)
    for draw in TAXONOMY:
        family, index = draw.__name__, 0
        for repeat in range(1 if family == "zero_load" else seeds):
            for loads in draw(_stream(seed, family, shape, repeat), shape):
                yield Case(family, index, shape, loads)
                index += 1
    for path in sorted(traces.glob("*.parquet")) if traces is not None else ():
        yield from _trace_cases(path, shape)


def _trace_cases(path: Path, shape: Shape) -> Iterator[Case]:
    """Yield a few records of a trace, spread over its steps and layers, rescaled to full batches.

    Sources are merged or spread to the ranks; both keep the rank imbalance of the record.
    """
    trace = load_trace(path)
    if trace.meta.num_experts != shape.experts:
        return
    trace = trace.with_sources(shape.ranks).rescaled(TOKENS_PER_RANK)
    steps, layers = trace.steps, trace.layers
    for index in range(_TRACE_CASES):
        step = int(steps[(2 * index + 1) * len(steps) // (2 * _TRACE_CASES)])
        layer = int(layers[index * len(layers) // _TRACE_CASES])
        part = trace.select(steps=slice(step, step + 1), layers=slice(layer, layer + 1))
        for record in part:
            yield Case(f"trace:{path.stem}", index, shape, record.loads.astype(np.int64))
            break


def _stream(seed: int, family: str, shape: Shape, index: int) -> np.random.Generator:
    key = (zlib.crc32(family.encode()), shape.experts, shape.ranks, index)
    # Without the slots: the same loads at one slot and at two, so that they can be compared.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
