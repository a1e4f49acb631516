"""Plans are those of the CPU planner, bit for bit, and keep every invariant."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from ultraep_sim.errors import PlanError
from ultraep_sim.planning import EPLayout, QuotaSolver, expert_loads
from ultraep_sim.planning.assemble import plan_from_replicas

from . import cases
from .suite import Case, Context, Mismatch

LAYOUTS = (
    EPLayout(8, 32, 2),
    EPLayout(16, 128, 1),
    EPLayout(64, 256, 2),
    EPLayout(72, 256, 2),
    EPLayout(16, 8, 3),
    EPLayout(6, 12, 0),
)


def suite(context: Context) -> Iterator[Case]:
    """Yield a case for every layout."""
    each = -(-context.plans // len(LAYOUTS))
    for number, layout in enumerate(LAYOUTS):
        name = (
            f"{layout.num_ranks} ranks, {layout.num_experts} experts, {layout.slots_per_rank} slots"
        )
        yield name, partial(_plans, context, layout, number, each)


def _plans(context: Context, layout: EPLayout, number: int, count: int) -> tuple[int, str]:
    """Solve twice, with a warm and with a new solver, and validate: nothing may be left behind."""
    rng = cases.stream(context.seed, 8, number)
    warm = QuotaSolver(layout)
    for at in range(count):
        tokens = int(rng.integers(0, 4096)) if at else 0  # no tokens at all, too
        loads = cases.random_loads(rng, layout, tokens)
        total = expert_loads(loads)
        got = warm.solve(total)
        want = QuotaSolver(layout).solve(total) if at % 16 == 0 else got
        for name in ("expert", "rank", "quota"):
            if not np.array_equal(getattr(got, name), getattr(want, name)):
                raise Mismatch(f"loads {at}: {name} differs between two solvers")
        if at % 4 == 0:
            plan = plan_from_replicas(layout, loads, got.expert, got.rank, got.quota, tau=got.tau)
            try:
                plan.validate(loads)
            except PlanError as error:
                raise Mismatch(f"loads {at}: {error}") from error
            if int(plan.rank_loads.max()) > max(got.tau, 0):
                raise Mismatch(f"loads {at}: a rank is above the threshold {got.tau}")
    return count, "plans, each valid and the same from a used and a new solver"
