"""Reroute conserves tokens: every source sends each of its tokens to exactly one instance.

Histogram, plan, split and choice also run where the fabric's memory is, one after another with no
host in between, and give the same integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.planning import EPLayout, Plan

from ..fabrics import Geometry
from ..reroute import choose_topk, instances
from . import cases
from .suite import Case, Context, Mismatch, require_equal

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
            ids = _deal(rng, plan, at)
            _deal_there(context, plan, ids, at)
    return tokens, "tokens, each sent to exactly one instance"


def _deal(rng: np.random.Generator, plan: Plan, at: int) -> list[NDArray[np.int64]]:
    """Deal every source's pairs to instances: each of its own expert, counts as the split says."""
    got = np.zeros_like(plan.split)
    dealt = []
    for source, loads in enumerate(plan.loads):
        ids = rng.permutation(np.repeat(np.arange(len(loads)), loads)).reshape(-1, 1)
        dealt.append(ids)
        chosen = choose_topk(ids, plan.offsets, plan.split[source])
        if not np.array_equal(plan.expert[chosen], ids):
            raise Mismatch(f"loads {at}: source {source} sends a token to another expert")
        got[source] = np.bincount(chosen.reshape(-1), minlength=len(plan.rank))
    if not np.array_equal(got, plan.split):
        raise Mismatch(f"loads {at}: tokens dealt out differ from the split")
    return dealt


def _deal_there(context: Context, plan: Plan, dealt: list[NDArray[np.int64]], at: int) -> None:
    """Do the same where the fabric's memory is, from ids to physical experts."""
    import torch

    from ..counting import LoadCounter, Receivers
    from ..planner import QuotaPlanner
    from ..rerouter import Rerouter

    layout, device = plan.layout, "cpu" if context.fabric == "host" else context.device
    matrix = torch.empty(plan.loads.shape, dtype=torch.int32, device=device)
    counter = LoadCounter(layout.num_experts, device=device)
    ids = [torch.from_numpy(one.astype(np.int32)).to(device) for one in dealt]
    counts = [
        counter.topk(one, Receivers([row], device)) for one, row in zip(ids, matrix, strict=True)
    ]
    made = QuotaPlanner(layout, device=device).plan(matrix)
    rerouter = Rerouter(layout, device=device)
    split = rerouter.split(matrix, made)
    require_equal(context.get(matrix), plan.loads.astype(np.int32), f"loads {at}, histogram")
    width = plan.split.shape[1]
    require_equal(context.get(split)[:, :width], plan.split.astype(np.int32), f"loads {at}, split")
    row = Geometry(layout, 1).main_row
    table = instances(plan, row)
    for source, one in enumerate(ids):
        chosen, physical = rerouter.topk(one, counts[source], made, split[source])
        want = choose_topk(dealt[source], plan.offsets, plan.split[source])
        require_equal(context.get(chosen), want, f"loads {at}, source {source}, instances")
        place = f"loads {at}, source {source}, physical experts"
        require_equal(context.get(physical), table.physical[want], place)
