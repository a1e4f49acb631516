"""Laws of single kernels, as they are fitted to tables of measured times.

Every law takes its parameters by name (units stand in the names) and columns of rows, and returns
seconds: what `ultraep_sim.calibrate.fit` wants. The simulator's own laws (`compute.gemm`,
`compute.attention`, `fabric.alltoall`) are their limits for a sharp roofline and whole tiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Values = Mapping[str, float]
Columns = Mapping[str, NDArray[Any]]

#: Rows of a GEMM tile.
TILE_ROWS = 128
#: Queries of one block of attention.
QUERY_ROWS = 128
#: Hidden size at which the time of one pair is stated, as in `GpuProfile.expert_pair_ns`.
PAIR_HIDDEN = 4096


def roofline(memory_s: Floats, math_s: Floats, sharpness: float = math.inf) -> Floats:
    """Time of work bound by memory or arithmetic: their maximum, rounded at the corner.

    The `sharpness`-norm of both: 1 adds them (nothing overlaps), infinity is the maximum.
    """
    top = np.maximum(memory_s, math_s)
    if math.isinf(sharpness):
        return np.asarray(top)
    low = np.minimum(memory_s, math_s)
    share = np.divide(low, top, out=np.zeros_like(top), where=top > 0)
    return np.asarray(top * (1 + share**sharpness) ** (1 / sharpness))


def grouped_gemm(values: Values, columns: Columns) -> Floats:
    """Time the grouped GEMM of a rank's experts, instance by instance.

    ``t0 + sum over instances of roofline(weights / B, padded rows x 6 H I / P) + c x pairs
    + d x tokens``. The sum is over instances because a hot expert is bound by arithmetic while a
    cold one of the same rank waits for its weights. Sharp, with whole tiles and nothing by token or
    expert it is the law of `compute.gemm`.

    Parameters
    ----------
    values : mapping
        launch_us (t0), hbm_TBps (B), rate_TFLOPs (P), pair_ns (c at hidden 4096), token_ns (d, of
        a kernel that passes over all tokens of the group, hosted or not), sharpness, padding (the
        share of a tile's empty rows that costs time), expert_us (of every hosted expert).
    columns : mapping
        pairs [N, G]: pairs of an instance; instances [N, G]: how many instances are like it;
        hosted [N]: experts of the rank; tokens [N]; weight_bytes, flops_per_pair, hidden [N];
        optionally work_rows [N, G]: rows whose arithmetic an instance costs, where not its pairs.
    """
    pairs, instances = columns["pairs"], columns["instances"]
    real = columns.get("work_rows", pairs)
    padded = np.ceil(real / TILE_ROWS) * TILE_ROWS
    padding = values.get("padding", 1.0)
    rows = padding * padded + (1 - padding) * real
    weights_s = columns["weight_bytes"] / (values["hbm_TBps"] * 1e12)
    math_s = rows * (columns["flops_per_pair"] / (values["rate_TFLOPs"] * 1e12))[:, None]
    memory_s = np.broadcast_to(weights_s[:, None], math_s.shape)
    busy = (instances * roofline(memory_s, math_s, values.get("sharpness", math.inf))).sum(axis=1)
    total_pairs = (instances * pairs).sum(axis=1)
    per_pair = values["pair_ns"] * 1e-9 * columns["hidden"] / PAIR_HIDDEN
    return np.asarray(
        values["launch_us"] * 1e-6
        + busy
        + per_pair * total_pairs
        + values.get("token_ns", 0.0) * 1e-9 * columns["tokens"]
        + values.get("expert_us", 0.0) * 1e-6 * columns["hosted"]
    )


def attention_core(values: Values, columns: Columns) -> Floats:
    """Causal attention of whole prompts: launch, blocks, and a roofline of arithmetic and traffic.

    ``t0 + waves x block + roofline(bytes / B, flops (1 + ramp / length) / P + tail x longest)``. A
    block takes a tile of one head's queries. Blocks start in waves over the SMs, whatever they
    compute. A causal head's last block sees all keys, twice the mean, and an SM may begin it when
    the others are nearly done: list scheduling ends at most that block after the mean (Graham,
    1966).

    Parameters
    ----------
    values : mapping
        launch_us, block_us (of a wave), rate_TFLOPs, hbm_TBps, sharpness, ramp_tokens (a prompt
        of so many tokens reaches half the rate: short ones do not fill the pipeline), tail (how
        much of the longest block is waited for).
    columns : mapping
        flops (of the unmasked part), bytes (queries, keys, values, output), length, blocks,
        longest_flops (of one block), sms [N].
    """
    rate = values["rate_TFLOPs"] * 1e12
    spread = columns["flops"] * (1 + values["ramp_tokens"] / columns["length"])
    waited = values.get("tail", 0.0) * columns["longest_flops"] * columns["sms"]
    busy = roofline(
        columns["bytes"] / (values["hbm_TBps"] * 1e12),
        (spread + waited) / rate,
        values.get("sharpness", math.inf),
    )
    waves = np.ceil(columns["blocks"] / columns["sms"])
    start = values["launch_us"] + values.get("block_us", 0.0) * waves
    return np.asarray(start * 1e-6 + busy)


def exchange(values: Values, columns: Columns) -> Floats:
    """Dispatch or combine inside a scale-up domain, by payload, ranks and SM budget.

    ``floor + step x (ranks - 1) + token x tokens / SMs + bytes / rate``, where the rate is bound
    by the link or by the SMs that copy, whichever is slower, rounded at the corner.

    Parameters
    ----------
    values : mapping
        floor_us, step_us, link_GBps, sm_GBps (of one SM), token_sm_ns, sharpness.
    columns : mapping
        bytes (sent or received by a rank, to other ranks), ranks, tokens, sms [N]; sms 0 means
        that the library chose and only the link binds.
    """
    sms = columns["sms"]
    budget = np.where(sms > 0, sms, np.inf)
    moved = columns["bytes"] / 1e9
    busy = roofline(
        moved / values["link_GBps"],
        moved / (values["sm_GBps"] * budget),
        values.get("sharpness", math.inf),
    )
    per_token = values.get("token_sm_ns", 0.0) * 1e-9 * columns["tokens"] / budget
    start = values["floor_us"] + values["step_us"] * (columns["ranks"] - 1)
    return np.asarray(start * 1e-6 + per_token + busy)


def rack_exchange(values: Values, columns: Columns) -> Floats:
    """Dispatch or combine inside a scale-up domain, by payload and number of ranks.

    ``floor + step x log2(ranks) + roofline(tokens x token, bytes x (1 + ranks / half) / link)``:
    every token is read, split and written whoever gets it, while the link carries what others get;
    more peers mean smaller pieces for each. Without the last four values it is the law of
    `fabric.alltoall`; without `link_GBps`, a pass over the tokens.

    Parameters
    ----------
    values : mapping
        floor_us, link_GBps, step_us (of a doubling of the group), token_ns, sharpness, half_ranks
        (group in which the link has half its rate).
    columns : mapping
        bytes (sent by a rank to other ranks), tokens (of a rank), ranks [N].
    """
    ranks = columns["ranks"]
    start = values["floor_us"] + values.get("step_us", 0.0) * np.log2(ranks)
    copied = values.get("token_ns", 0.0) * 1e-9 * columns["tokens"]
    slower = 1 + ranks / values.get("half_ranks", math.inf)
    carried = columns["bytes"] * slower / (values.get("link_GBps", math.inf) * 1e9)
    return np.asarray(start * 1e-6 + roofline(copied, carried, values.get("sharpness", math.inf)))


def collective(values: Values, columns: Columns) -> Floats:
    """NCCL collective: ``floor + step x (ranks - 1) + wire bytes / rate``, rounded at the corner.

    Parameters
    ----------
    values : mapping
        floor_us, step_us, link_GBps, half_MiB (message that reaches half the rate: the library
        changes protocol with size).
    columns : mapping
        wire_bytes (through a rank's port), ranks [N].
    """
    wire = columns["wire_bytes"]
    rate = values["link_GBps"] * 1e9
    start = (values["floor_us"] + values["step_us"] * (columns["ranks"] - 1)) * 1e-6
    # Extra of small messages, which saturates: sqrt rises at first as the pipeline fills.
    fill = np.sqrt(wire * values["half_MiB"] * 2**20) / rate
    return np.asarray(start + fill + wire / rate)
