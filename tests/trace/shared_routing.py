"""Real recorded routing of public models as Traces, for tests.

The data lies beside the repository and is never part of it; where it is absent, the functions
skip the test that calls them, with the reason.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ultraep_sim.trace import Trace, TraceMeta

ROUTING = Path(__file__).resolve().parents[3] / "shared" / "data" / "routing"

PER_TOKEN = {
    "deepseek-v2-lite_esft_law": (64, 6, 26),
    "deepseek-v2-lite_esft_summary": (64, 6, 26),
    "gpt-oss-20b_token_examples": (32, 4, 24),
}
"""File stem -> experts, top-k, MoE layers."""

OLMOE = "olmoe-1b-7b_domains_allenai"
OLMOE_DOMAINS = ("arxiv", "book", "c4", "github", "tulu", "wikipedia")


def per_token_trace(name: str, *, source_ranks: int = 8, tokens_per_rank: int = 128) -> Trace:
    """A per-token recording as steps of ``source_ranks x tokens_per_rank`` tokens.

    Whole sequences go to source ranks, each to the one with the fewest tokens so far (tie:
    lower rank), as a data-parallel front end deals them; step t takes the t-th run of
    ``tokens_per_rank`` tokens of every rank. What is left when the first rank runs out is
    dropped, so that every step is full.
    """
    num_experts, top_k, num_layers = PER_TOKEN[name]
    members = load_members(name)
    topk, sequence = members["topk"], members["seq"]
    assert topk.shape[1:] == (num_layers, top_k)
    streams: list[list[NDArray[np.int16]]] = [[] for _ in range(source_ranks)]
    held = np.zeros(source_ranks, dtype=np.int64)
    for number in np.unique(sequence):
        tokens = topk[sequence == number]
        rank = int(np.argmin(held))
        streams[rank].append(tokens)
        held[rank] += len(tokens)
    steps = int(held.min()) // tokens_per_rank
    assert steps > 0, f"{name}: {held.min()} tokens on a rank, fewer than {tokens_per_rank}"
    used = steps * tokens_per_rank
    by_rank = np.stack([np.concatenate(stream)[:used] for stream in streams])
    # [rank, step, token, layer, k] -> counts [step, layer, rank, expert]
    chosen = by_rank.reshape(source_ranks, steps, tokens_per_rank, num_layers, top_k)
    loads = np.zeros((steps, num_layers, source_ranks, num_experts), dtype=np.int32)
    rank_at, step_at, _, layer_at, _ = np.indices(chosen.shape, sparse=True)
    np.add.at(loads, (step_at, layer_at, rank_at, chosen), 1)
    about = json.loads(str(members["meta"]))
    meta = TraceMeta(
        model=about["model"],
        num_experts=num_experts,
        top_k=top_k,
        num_layers=num_layers,
        source_ranks=source_ranks,
        tokens_per_rank=tokens_per_rank,
        phase="prefill",
        recorded=f"{about['kind']}, from {about['source']}",
        synthetic=False,
        notes={"file": f"{name}.npz", "tokens_used": used * source_ranks, "tokens": len(topk)},
    )
    layers = np.tile(np.arange(num_layers), steps)
    return Trace.from_arrays(
        meta,
        np.repeat(np.arange(steps), num_layers),
        np.zeros_like(layers),
        layers,
        loads.reshape(-1, source_ranks, num_experts),
    )


def olmoe_trace() -> Trace:
    """OLMoE's aggregate counts: 6 domains as steps, layers 0, 7 and 15 of 16, no source."""
    members = load_members(OLMOE)
    about = json.loads(str(members["meta"]))
    loads = members["loads"]
    domains, layers, num_experts = loads.shape
    top_k = int(about["topk"])
    meta = TraceMeta(
        model="OLMoE-1B-7B",
        num_experts=num_experts,
        top_k=top_k,
        num_layers=16,
        source_ranks=1,
        tokens_per_rank=int(loads[0, 0].sum()) // top_k,
        phase="prefill",
        recorded=f"{about['kind']}, from {about['source']}",
        synthetic=False,
        sampling={"layers": list(about["layers"])},
        notes={"file": f"{OLMOE}.npz", "steps": dict(enumerate_text(OLMOE_DOMAINS))},
    )
    return Trace.from_arrays(
        meta,
        np.repeat(np.arange(domains), layers),
        np.zeros(domains * layers, dtype=np.int32),
        np.tile(about["layers"], domains),
        loads.reshape(-1, 1, num_experts),
    )


def enumerate_text(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Number names with text keys, as JSON objects need them."""
    return [(str(number), name) for number, name in enumerate(names)]


def load_members(name: str) -> dict[str, NDArray[np.generic]]:
    """Arrays of one file, without the gate weights."""
    path = ROUTING / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"recorded third-party data is not here: ../shared/data/routing/{path.name}")
    with np.load(path, allow_pickle=False) as members:
        # The gate weights are large and not needed here.
        return {key: members[key] for key in members.files if key != "weights"}
