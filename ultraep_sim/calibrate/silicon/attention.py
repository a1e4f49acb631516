"""Attention tables (``context_attention_perf``): causal prefill of whole prompts.

A row times `batch_size` prompts of `isl` tokens; ``window_size`` 0 is full attention and ``step``
the prefix that is cached. ``latency`` is in milliseconds. Key/value caches in fp8 halve the bytes
of keys and values; arithmetic in fp8 has the fp8 peak.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ultraep_sim.calibrate.fit import Parameter, Rows
from ultraep_sim.calibrate.silicon.tables import read_table, table_path
from ultraep_sim.model.attention import visible_keys
from ultraep_sim.model.profiles import GpuProfile

COLUMNS = (
    "batch_size",
    "isl",
    "num_heads",
    "num_key_value_heads",
    "head_dim",
    "window_size",
    "attn_dtype",
    "kv_cache_dtype",
    "step",
    "latency",
)
HEAD_DIM = 128
#: Below, a row times a launch, not attention.
MIN_TOKENS = 256


def context_rows(root: Path, system: str, framework: str = "trtllm") -> Rows:
    """Return bf16 full attention of the tables, heads of 128, at least `MIN_TOKENS` tokens.

    Raises
    ------
    CalibrationError
        The system has no such table.
    """
    path = table_path(root, system, "attention", framework, "context_attention_perf")
    table = read_table(root, path, COLUMNS)
    found = table.where(
        window_size=0, step=0, head_dim=HEAD_DIM, attn_dtype="bfloat16", kv_cache_dtype="bfloat16"
    )
    found = found.mask(found.columns["batch_size"] * found.columns["isl"] >= MIN_TOKENS)
    c = found.columns
    batch, length = c["batch_size"].astype(np.int64), c["isl"].astype(np.int64)
    heads, shared = c["num_heads"], c["num_key_value_heads"]
    keys = tuple(
        f"{system}/{framework}/{b}x{n}/heads{h}/kv{k}"
        for b, n, h, k in zip(batch, length, heads, shared, strict=True)
    )
    _, first = np.unique(np.array(keys), return_index=True)
    rows = Rows(
        {
            "flops": 4.0 * batch * heads * HEAD_DIM * visible_keys(0 * length, length),
            "bytes": 2.0 * batch * length * HEAD_DIM * (2 * heads + 2 * shared),
            "length": length.astype(np.float64),
        },
        c["latency"] * 1e-3,
        keys,
        (found.source,),
    )
    return rows.take(np.sort(first))


def parameters(gpu: GpuProfile) -> list[Parameter]:
    """Return what is fitted of attention, bounded by the GPU's datasheet."""
    peak, hbm = gpu.peak("bf16") / 1e12, gpu.hbm_TBps.value
    return [
        Parameter("launch_us", "us", 10, 0.5, 200),
        Parameter("rate_TFLOPs", "TFLOP/s", 0.55 * peak, 0.1 * peak, peak),
        Parameter("hbm_TBps", "TB/s", 0.6 * hbm, 0.1 * hbm, hbm),
        Parameter("ramp_tokens", "1", 300, 1, 5000),
        Parameter("sharpness", "1", 3, 1, 30),
    ]
