"""Gradients are bitwise equal to an ordered sum on the CPU, whatever the timing; replicas are 0."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.planning import EPLayout, Plan

from ..bf16 import from_float, to_float
from ..fabrics import Geometry
from ..reduction import gradient_list
from . import cases
from .suite import Case, Context, require_equal

ORDERS = 8
ELEMENTS = (256, 1031, 7)
"""Elements of a gradient: whole vectors, an odd tail, less than a vector."""


def suite(context: Context) -> Iterator[Case]:
    """Yield a case for both dtypes of mains and replicas, each size."""
    ranks = context.ranks(16)
    layout = EPLayout(ranks, 2 * ranks, 3)
    rng = cases.stream(context.seed, 3)
    plans = [
        cases.solved_plan(layout, cases.random_loads(rng, layout, 4096)),
        cases.fanout_plan(layout, ranks - 1, expert=ranks // 2),
    ]
    for main in ("fp32", "bf16"):
        for replica in ("fp32", "bf16"):
            for elements in ELEMENTS:
                yield (
                    f"{replica} into {main}, {elements} elements",
                    partial(_reduce, context, plans, main, replica, elements),
                )


def _reduce(
    context: Context, plans: list[Plan], main: str, replica: Any, elements: int
) -> tuple[int, str]:
    checked = 0
    for number, plan in enumerate(plans):
        geometry = Geometry(plan.layout, 64, elements, replica)
        work = gradient_list(plan, geometry.main_row)
        rng = cases.stream(context.seed, 4, number)
        mains = [values(rng, (int(n), elements), main) for n in plan.layout.mains_per_rank]
        replicas = {
            (int(plan.rank[i]), int(plan.slot[i])): values(rng, (elements,), replica)
            for i in np.flatnonzero(plan.is_replica)
        }
        want = reference(plan, mains, replicas, geometry.main_row)
        for order in range(ORDERS if context.fabric == "host" else 2):
            with context.open(geometry, order) as fabric:
                rows = [context.put(array.copy()) for array in mains]
                for (r, slot), array in replicas.items():
                    if r in fabric.local_ranks:
                        fabric.gradients(r)[slot] = context.put(array)
                fabric.reduce(work, rows, sms=None if order == 0 else 3)
                fabric.synchronize()
                for r in fabric.local_ranks:
                    require_equal(context.get(rows[r]), want[r], f"plan {number}, rank {r}")
                    left = context.get(fabric.gradients(r))
                    place = f"plan {number}, replicas of rank {r}"
                    require_equal(left, np.zeros_like(left), place)
                    checked += want[r].size + left.size
    return checked, "elements equal the ordered sum, replicas are zero"


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Draw gradients over eight orders of magnitude, so that the order of a sum shows."""
    out = rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 4, shape)
    wide = out.astype(np.float32)
    return from_float(wide) if dtype == "bf16" else wide


def reference(
    plan: Plan,
    mains: list[NDArray[Any]],
    replicas: dict[tuple[int, int], NDArray[Any]],
    main_row: NDArray[np.int32],
) -> list[NDArray[Any]]:
    """Add in order, straight from the plan and one by one: independent of `reduction`."""
    out = [rows.copy() for rows in mains]
    for expert in range(plan.layout.num_experts):
        begin, end = int(plan.offsets[expert]), int(plan.offsets[expert + 1])
        if end == begin + 1:
            continue
        target = out[int(plan.layout.home[expert])][int(main_row[expert])]
        total = to_float(target) if target.dtype == np.uint16 else target.copy()
        for r, slot in sorted(
            zip(
                plan.rank[begin + 1 : end].tolist(),
                plan.slot[begin + 1 : end].tolist(),
                strict=True,
            )
        ):
            part = replicas[r, slot]
            total += to_float(part) if part.dtype == np.uint16 else part
        target[...] = from_float(total) if target.dtype == np.uint16 else total
    return out
