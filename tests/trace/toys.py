"""Small valid traces, and Parquet files that break one rule each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ultraep_sim.trace import Trace, TraceMeta


def toy_meta(**changes: Any) -> TraceMeta:
    fields: dict[str, Any] = {
        "model": "toy",
        "num_experts": 8,
        "top_k": 2,
        "num_layers": 2,
        "source_ranks": 4,
        "tokens_per_rank": 6,
        "phase": "training",
        "recorded": "dealt at random for a test",
        "synthetic": True,
    }
    return TraceMeta(**{**fields, **changes})


def deal(
    rng: np.random.Generator, tokens: int, num_experts: int, top_k: int, skew: float = 1.0
) -> NDArray[np.int32]:
    """One row: every token takes top_k different experts, low ids more often."""
    taste = -skew * np.log(np.arange(1, num_experts + 1))
    keys = taste + rng.gumbel(size=(tokens, num_experts))
    chosen = np.argsort(-keys, axis=1)[:, :top_k]
    return np.bincount(chosen.ravel(), minlength=num_experts).astype(np.int32)


def toy_arrays(
    meta: TraceMeta, steps: int = 3, micro_batches: int = 2, seed: int = 0
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Keys [records, 3] and loads [records, sources, experts] of full steps."""
    rng = np.random.default_rng(seed)
    keys = np.indices((steps, micro_batches, meta.num_layers)).reshape(3, -1).T
    loads = [
        [
            deal(rng, meta.tokens_per_rank, meta.num_experts, meta.top_k)
            for _ in range(meta.source_ranks)
        ]
        for _ in keys
    ]
    return keys.astype(np.int32), np.array(loads, dtype=np.int32)


def toy_trace(meta: TraceMeta | None = None, **shape: int) -> Trace:
    meta = meta or toy_meta()
    keys, loads = toy_arrays(meta, **shape)
    return Trace.from_arrays(meta, keys[:, 0], keys[:, 1], keys[:, 2], loads)


def same(one: Trace, other: Trace) -> bool:
    """Whether two traces hold the same records."""
    a, b = list(one), list(other)
    return len(a) == len(b) and all(
        x[:3] == y[:3] and np.array_equal(x.loads, y.loads) for x, y in zip(a, b, strict=True)
    )


def rows_of(meta: TraceMeta, **shape: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Index rows [n, 4] and counts [n, experts], to be broken by a test."""
    keys, loads = toy_arrays(meta, **shape)
    rows = np.empty((len(keys) * meta.source_ranks, 4), dtype=np.int32)
    rows[:, :3] = np.repeat(keys, meta.source_ranks, axis=0)
    rows[:, 3] = np.tile(np.arange(meta.source_ranks), len(keys))
    return rows, loads.reshape(len(rows), meta.num_experts)


def write_raw(
    path: Path,
    meta_json: str | bytes | None,
    rows: NDArray[np.int32],
    counts: Any,
    *,
    index_type: pa.DataType | None = None,
    drop: str | None = None,
    row_group_size: int | None = None,
) -> Path:
    """Write a Parquet file as another tool could: no checksums, any types, any content."""
    names = ("step", "micro_batch", "layer", "source_rank")
    columns = {
        name: pa.array(rows[:, at], type=index_type or pa.int32()) for at, name in enumerate(names)
    }
    if isinstance(counts, pa.Array):
        columns["counts"] = counts
    else:
        flat = pa.array(np.ascontiguousarray(counts).reshape(-1))
        columns["counts"] = pa.FixedSizeListArray.from_arrays(flat, counts.shape[1])
    if drop:
        del columns[drop]
    table = pa.table(columns)
    if meta_json is not None:
        table = table.replace_schema_metadata({b"ultraep_sim.trace": meta_json})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path
