"""Attention tables (``context_attention_perf``, ``context_mla_perf``): prefill of whole prompts.

A row times `batch_size` prompts of `isl` tokens, causal; ``window_size`` 0 is full attention and
``step`` the prefix that is cached. ``latency`` is in milliseconds. Key/value caches in fp8 halve
the bytes of keys and values; arithmetic in fp8 has the fp8 peak. MLA rows time the core alone, on
expanded keys and values; ``num_heads`` are those of one rank (tensor parallelism took the others).
``mla_context_module_perf`` times the whole block of a layer, projections and norms included.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.calibrate.fit import Columns, Parameter, Rows
from ultraep_sim.calibrate.silicon.tables import Table, read_table, table_path
from ultraep_sim.compute.attention import score_flops
from ultraep_sim.compute.kernel_laws import QUERY_ROWS
from ultraep_sim.model.attention import AttentionShape, visible_keys
from ultraep_sim.model.hardware import GPUS
from ultraep_sim.model.profiles import GpuProfile
from ultraep_sim.model.shapes import MODELS

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
MLA_COLUMNS = (
    "mla_dtype",
    "kv_cache_dtype",
    "num_heads",
    "batch_size",
    "isl",
    "step",
    "latency",
)
BLOCK_COLUMNS = ("model", "gemm_type", *MLA_COLUMNS)
HEAD_DIM = 128
#: Whose latent attention the MLA rows have (Kimi-K2's is the same with fewer heads).
MLA_MODEL = MODELS["deepseek-v3-671b"]
MLA = MLA_MODEL.attention
#: Below, a row times a launch, not attention.
MIN_TOKENS = 256
#: Below, a block is a chain of launches, which the simulator's law does not have.
MIN_BLOCK_TOKENS = 1024


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
    found = _at_least(MIN_TOKENS, found)
    c = found.columns
    heads, shared = c["num_heads"], c["num_key_value_heads"]
    keys = tuple(
        f"{system}/{framework}/{b}x{n}/heads{h}/kv{k}"
        for b, n, h, k in zip(c["batch_size"], c["isl"], heads, shared, strict=True)
    )
    shape = AttentionShape(heads=1, kv_heads=1, head_dim=HEAD_DIM)
    elements = HEAD_DIM * (2 * heads + 2 * shared)
    columns = _work(system, shape, c, elements)
    return _once(Rows(columns, c["latency"] * 1e-3, keys, (found.source,)))


def mla_rows(root: Path, system: str, framework: str = "trtllm") -> Rows:
    """Return bf16 latent attention of the tables, at least `MIN_TOKENS` tokens.

    Raises
    ------
    CalibrationError
        The system has no such table.
    """
    path = table_path(root, system, "mla", framework, "context_mla_perf")
    found = read_table(root, path, MLA_COLUMNS)
    found = found.where(step=0, mla_dtype="bfloat16", kv_cache_dtype="bfloat16")
    found = _at_least(MIN_TOKENS, found)
    c = found.columns
    heads = c["num_heads"]
    keys = tuple(
        f"{system}/{framework}/mla/{b}x{n}/heads{h}"
        for b, n, h in zip(c["batch_size"], c["isl"], heads, strict=True)
    )
    columns = _work(system, MLA, c, heads * 2 * (MLA.qk_dim + MLA.value_dim))
    return _once(Rows(columns, c["latency"] * 1e-3, keys, (found.source,)))


def mla_block_rows(root: Path, system: str) -> Rows:
    """Return whole MLA blocks of DeepSeek-V3 in bf16, all heads, at least `MIN_BLOCK_TOKENS`.

    Raises
    ------
    CalibrationError
        The system has no such table.
    """
    path = table_path(root, system, "mla", "trtllm", "mla_context_module_perf")
    found = read_table(root, path, BLOCK_COLUMNS)
    found = found.where(
        model="deepseek-ai/DeepSeek-V3",
        mla_dtype="bfloat16",
        kv_cache_dtype="bfloat16",
        gemm_type="bfloat16",
        num_heads=MLA.heads,
        step=0,
    )
    found = _at_least(MIN_BLOCK_TOKENS, found)
    c = found.columns
    keys = tuple(
        f"{system}/trtllm/mla_block/{b}x{n}" for b, n in zip(c["batch_size"], c["isl"], strict=True)
    )
    columns = {"tokens": c["batch_size"] * c["isl"], "length": c["isl"]}
    return _once(Rows(columns, c["latency"] * 1e-3, keys, (found.source,)))


def _at_least(tokens: int, table: Table) -> Table:
    return table.mask(table.columns["batch_size"] * table.columns["isl"] >= tokens)


def _work(
    system: str, shape: AttentionShape, c: Columns, elements: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Columns of `kernel_laws.attention_core`; `elements` of a token are read or written."""
    batch, length, heads = c["batch_size"], c["isl"], c["num_heads"]
    of_key = score_flops(shape, 1.0) / shape.heads
    return {
        "flops": of_key * batch * heads * visible_keys(0 * length, length),
        "bytes": 2.0 * batch * length * elements,
        "length": length.astype(np.float64),
        "blocks": batch * heads * np.ceil(length / QUERY_ROWS),
        "longest_flops": of_key * np.minimum(length, QUERY_ROWS) * length,
        "sms": np.full(len(length), GPUS[system].sms.value),
    }


def _once(rows: Rows) -> Rows:
    """Drop repeated measurements of a setting."""
    _, first = np.unique(np.array(rows.keys), return_index=True)
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
        Parameter("block_us", "us", 1, 1e-3, 50),
        Parameter("tail", "1", 0.5, 1e-3, 3),
    ]
