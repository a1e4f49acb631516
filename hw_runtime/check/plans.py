"""Plans are those of the CPU planners, bit for bit, and keep every invariant."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import PlanError
from ultraep_sim.planning import (
    EPLayout,
    MosaicOptions,
    QuotaOptions,
    Solution,
    expert_loads,
)
from ultraep_sim.planning.assemble import plan_from_replicas

from . import cases
from .suite import Case, Context, Mismatch, require_equal

BATCH = 64
LAYOUTS = (
    EPLayout(8, 32, 2),
    EPLayout(16, 128, 1),
    EPLayout(64, 256, 2),
    EPLayout(72, 256, 2),
    EPLayout(16, 8, 3),
    EPLayout(6, 12, 0),
)


OPTIONS: dict[str, cases.Options] = {
    "ultraep": QuotaOptions(),
    "mosaic": MosaicOptions(),
    "mosaic, target 1, whole tiles": MosaicOptions(1.0, tile_rows=16),
}
"""The last is met by few passes: it is where chains, the greedy and the search decide."""


def suite(context: Context) -> Iterator[Case]:
    """Yield a case for every layout and planner."""
    each = -(-context.plans // len(LAYOUTS))
    for number, layout in enumerate(LAYOUTS):
        shape = (
            f"{layout.num_ranks} ranks, {layout.num_experts} experts, {layout.slots_per_rank} slots"
        )
        for name, options in OPTIONS.items():
            yield f"{name}: {shape}", partial(_plans, context, layout, options, number, each)


def _plans(
    context: Context, layout: EPLayout, options: cases.Options, number: int, count: int
) -> tuple[int, str]:
    """Plan in batches where the fabric's memory is, and compare with one solve each on the CPU."""
    import torch

    from ..planners import open_planner

    rng = cases.stream(context.seed, 8, number)
    device = "cpu" if context.fabric == "host" else context.device
    planner = open_planner(layout, options, device=device)
    for begin in range(0, count, BATCH):
        size = min(BATCH, count - begin)
        tokens = rng.integers(0, 4096, size)
        if begin == 0:
            tokens[0] = 0  # no tokens at all, too
        loads = np.stack([cases.random_loads(rng, layout, int(n)) for n in tokens])
        made = planner.plan(torch.from_numpy(loads.astype(np.int32)).to(planner.device))
        for at in range(size):
            want = cases.solve(layout, options, expert_loads(loads[at]))
            _compare(layout, loads[at], made.solution(at), want, begin + at)
    return count, "plans, bit for bit those of the CPU planner; every fourth validated"


def _compare(
    layout: EPLayout, loads: NDArray[np.int64], got: Solution, want: Solution, at: int
) -> None:
    if got.tau != want.tau:
        raise Mismatch(f"loads {at}: threshold {got.tau}, expected {want.tau}")
    for name in ("expert", "rank", "quota"):
        require_equal(getattr(got, name), getattr(want, name), f"loads {at}, {name}")
    if at % 4 == 0:
        plan = plan_from_replicas(layout, loads, got.expert, got.rank, got.quota, tau=got.tau)
        try:
            plan.validate(loads)
        except PlanError as error:
            raise Mismatch(f"loads {at}: {error}") from error
        if int(plan.rank_loads.max()) > max(got.tau, 0):
            raise Mismatch(f"loads {at}: a rank is above the threshold {got.tau}")
