"""Attention of one layer of a prefill step, where every rank has chunks of different prompts.

A rank takes a chunk of each of several requests. Its projections and elementwise passes depend on
the tokens of all of them together, its core on how far into its prompt each chunk begins: the
ranks of a step are uneven even where all have the same number of tokens.

The core of a chunk takes the longer of its arithmetic (causal, unmasked part only) and one read of
the keys and values of earlier chunks, or of a prefix that was found, from HBM. Left out is that MLA
expands those from their latent form again in every chunk: two operations for each of
``kv_rank x heads x (head_dim + v_dim)`` weights and earlier token, as much as the scores of about
400 queries of DeepSeek-V3, so a tenth of the core where chunks have 4096 tokens.

Sparse attention follows SampleAttention (arXiv 2406.15486): some query rows are scored in full to
find what each head must keep, and only that is computed. Its kernels are taken to reach the rate of
dense ones. Selecting costs memory traffic for each query row and head besides, and launches for
each chunk; the published gains vanish below about 32k tokens, and the traffic is set so that they
do, for a whole prompt and for a chunked one alike. A shorter prompt loses: nothing falls back to
dense attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.compute.attention import elementwise_time, projections_time, score_flops
from ultraep_sim.model.attention import AttentionShape, in_reach, visible_keys
from ultraep_sim.model.dtypes import activation_bytes
from ultraep_sim.model.profiles import GpuProfile
from ultraep_sim.model.provenance import assumed
from ultraep_sim.model.shapes import ModelShape

if TYPE_CHECKING:
    from ultraep_sim.scenario.serving import SparseSpec

Seconds = NDArray[np.float64]
Counts = NDArray[np.int64]

#: HBM traffic of selecting (softmax and column sums of sampled rows, top-k, index lists), for each
#: query row and sparse head. Traffic and not seconds, so that faster GPUs select faster.
SELECT_TRAFFIC = assumed(
    36,
    "KiB",
    "set so that SampleAttention's gains vanish below about 32k tokens on an H100 (range: 16k-64k)",
    18,
    72,
)

#: Launching the kernels that select, for each chunk and layer.
SELECT_LAUNCH = assumed(50, "us", "about ten small kernels, one after the other", 10, 200)


def prefill_attention_time(
    shape: ModelShape,
    gpu: GpuProfile,
    rank: Counts,
    start: Counts,
    count: Counts,
    ranks: int,
    *,
    kv_dtype: str = "bf16",
    sparse: SparseSpec | None = None,
) -> Seconds:
    """Time of projections, attention core, norms and residuals of one layer, on every rank.

    Parameters
    ----------
    shape, gpu : ModelShape, GpuProfile
        What runs on what.
    rank, start, count : int64 [S]
        Of every chunk: its rank, the tokens of its prompt whose keys and values are there already,
        and its own tokens, at least one.
    ranks : int
        Ranks of the step, R.
    kv_dtype : {"bf16", "fp8"}
        Of the KV cache.
    sparse : SparseSpec, optional
        Sparse attention in the layers without a sliding window; by default dense.

    Returns
    -------
    float64 [R]
        Seconds, the mean over the layers where only some have a window; 0 for a rank without
        tokens. One prompt in one chunk takes what `attention_time` says.
    """
    tokens = np.bincount(rank, count, minlength=ranks)
    core = chunk_core_time(shape.attention, gpu, start, count, kv_dtype=kv_dtype, sparse=sparse)
    # In the order of `attention_time`, so that sums are equal to the last bit.
    seconds: Seconds = projections_time(shape, gpu, tokens) + np.bincount(
        rank, core, minlength=ranks
    )
    seconds += elementwise_time(shape, gpu, tokens)
    return seconds


def chunk_core_flops(attention: AttentionShape, start: Counts, count: Counts) -> Seconds:
    """Operations of dense scores and weighted sum of chunks, mean over the layers, float64 [S]."""
    keys = np.zeros(len(count))
    for share, window in attention.layer_kinds:
        keys += share * visible_keys(start, count, window)
    return score_flops(attention, keys)


def chunk_core_time(
    attention: AttentionShape,
    gpu: GpuProfile,
    start: Counts,
    count: Counts,
    *,
    kv_dtype: str = "bf16",
    sparse: SparseSpec | None = None,
) -> Seconds:
    """Time of the attention core of chunks, mean over the layers.

    Parameters
    ----------
    attention, gpu : AttentionShape, GpuProfile
        What runs on what.
    start, count, kv_dtype, sparse
        As in `prefill_attention_time`.

    Returns
    -------
    float64 [S]
        Seconds.
    """
    read_s = attention.cache_elements * activation_bytes(kv_dtype) / gpu.memory_rate
    rate = gpu.rate("attention", "forward")
    total = np.zeros(len(count))
    for share, window in attention.layer_kinds:
        flops = score_flops(attention, visible_keys(start, count, window))
        if sparse is not None and not window:
            flops *= _computed_share(attention, sparse)
        busy = np.maximum(flops / rate, in_reach(start, window) * read_s)
        if sparse is not None and not window:
            busy += _selecting(attention, gpu, count, sparse)
        total += share * busy
    return total


def _computed_share(attention: AttentionShape, sparse: SparseSpec) -> float:
    """Operations over those of dense attention; sampled rows are scored, and no values summed."""
    scoring = attention.qk_dim / (attention.qk_dim + attention.value_dim)
    of_sparse_heads = sparse.kept + sparse.sampled_rows * scoring
    return sparse.dense_heads + (1.0 - sparse.dense_heads) * of_sparse_heads


def _selecting(
    attention: AttentionShape, gpu: GpuProfile, count: Counts, sparse: SparseSpec
) -> Seconds:
    """Seconds of choosing what to keep, beyond scoring the sampled rows, float64 [S]."""
    heads = attention.heads * (1.0 - sparse.dense_heads)
    launches = SELECT_LAUNCH.si if heads else 0.0
    row = heads * SELECT_TRAFFIC.si / gpu.memory_rate
    return sparse.overhead * (launches + count.astype(np.float64) * row)
