"""Reroute conserves tokens: every source sends each of its tokens to exactly one instance."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from ultraep_sim.planning import EPLayout, Plan

from ..reroute import choose_topk
from . import cases
from .suite import Case, Context, Mismatch

PLANS = 50
DEALT = 4
"""Plans whose tokens are dealt out one by one."""


def suite(context: Context) -> Iterator[Case]:
    """Yield a case for every layout."""
    for number, layout in enumerate((EPLayout(8, 32, 2), EPLayout(64, 256, 2), EPLayout(16, 8, 3))):
        name = f"{layout.num_ranks} ranks, {layout.num_experts} experts"
        yield name, partial(_conserves, context, layout, number)


def _conserves(context: Context, layout: EPLayout, number: int) -> tuple[int, str]:
    rng = cases.stream(context.seed, 9, number)
    tokens = 0
    for at in range(PLANS):
        loads = cases.random_loads(rng, layout, int(rng.integers(1, 4096)))
        plan = cases.solved_plan(layout, loads)
        split = plan.split
        if split.size and int(split.min()) < 0:
            raise Mismatch(f"loads {at}: a negative number of tokens")
        rows = np.add.reduceat(split, plan.offsets[:-1], axis=1)
        if not np.array_equal(rows, loads):
            source, expert = np.argwhere(rows != loads)[0]
            raise Mismatch(f"loads {at}: source {source} lost or made tokens of expert {expert}")
        if not np.array_equal(split.sum(axis=0), plan.quota):
            raise Mismatch(f"loads {at}: an instance gets other tokens than its quota")
        tokens += int(loads.sum())
        if at < DEALT:
            _deal(rng, plan, at)
    return tokens, "tokens, each sent to exactly one instance"


def _deal(rng: np.random.Generator, plan: Plan, at: int) -> None:
    """Deal every source's pairs to instances: each of its own expert, counts as the split says."""
    got = np.zeros_like(plan.split)
    for source, loads in enumerate(plan.loads):
        ids = rng.permutation(np.repeat(np.arange(len(loads)), loads)).reshape(-1, 1)
        chosen = choose_topk(ids, plan.offsets, plan.split[source])
        if not np.array_equal(plan.expert[chosen], ids):
            raise Mismatch(f"loads {at}: source {source} sends a token to another expert")
        got[source] = np.bincount(chosen.reshape(-1), minlength=len(plan.rank))
    if not np.array_equal(got, plan.split):
        raise Mismatch(f"loads {at}: tokens dealt out differ from the split")
