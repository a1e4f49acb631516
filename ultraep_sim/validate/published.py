"""Our planners beside the published planner table, on loads like its own.

The published table names neither its loads nor its layout fully: power-law loads at EP64 with
initial imbalance 1.5 to 8; its README adds 256 experts, 2 slots, top-8 and 8192 tokens a rank. Ours
are Zipf over ranks with exponent 4.0 inside a rank. Published figures are read from
``anchors/planner.csv`` and only shown; the simulated ones are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..policies import get_policy
from .draws import Shape, zipf_loads
from .families import TARGETS
from .tables import load_tables, number

SHAPE = Shape(256, 64, 2)
METRICS = ("final_imbalance", "slots_used", "max_fanout", "in_flight_token_fraction")
#: A policy whose tokens do not prefer the instance on their own rank.
WITHOUT_LOCALITY = "_without_locality"
_DRAWS = 8


def published_rows() -> Iterator[dict[str, Any]]:
    """Yield ``case``, ``policy``, ``metric``, ``published`` (or None) and ``simulated``."""
    for row in load_tables()["planner"]:
        if row["policy"].endswith(WITHOUT_LOCALITY):
            continue
        at = number(row["initial_imbalance"])
        found = simulate(row["policy"], TARGETS if at is None else (at,))
        for metric in METRICS:
            yield {
                "case": "mean of 1.5 to 8" if at is None else f"256 experts, {at:g}",
                "policy": row["policy"],
                "metric": metric,
                "published": number(row[metric]),
                "simulated": found[metric],
            }


def simulate(
    policy: str, targets: Sequence[float], seed: int = 0, shape: Shape = SHAPE
) -> dict[str, float]:
    """Return the mean of every metric over draws at each initial imbalance.

    Parameters
    ----------
    policy : str
        A registered one, or one followed by `WITHOUT_LOCALITY`.
    targets : sequence of float
        Initial max over mean rank load.
    seed : int
    shape : Shape

    Returns
    -------
    dict of str to float
        `METRICS`, and ``solve_ms``: the price of the decision in the time model, never the time of
        this machine. Empty where no draw reaches a target.
    """
    name = policy.removesuffix(WITHOUT_LOCALITY)
    solver = get_policy(name, shape.layout())
    rows = []
    for target in targets:
        for loads in _draws(shape, target, seed):
            plan = solver.plan(loads, solver.new_state())
            if name != policy:
                plan = replace(plan, locality=False)
            used = int(np.count_nonzero(plan.quota[plan.is_replica]))
            rows.append((plan.imbalance, used, plan.max_fanout, plan.remote_fraction))
    if not rows:
        return {}
    found = dict(zip(METRICS, np.mean(rows, axis=0).tolist(), strict=True))
    return found | {"solve_ms": solver.price().solve.si * 1e3}


@cache
def _draws(shape: Shape, target: float, seed: int) -> tuple[NDArray[np.int64], ...]:
    rng = np.random.default_rng([seed, round(target * 100)])
    drawn = (zipf_loads(rng, shape, target) for _ in range(_DRAWS))
    return tuple(loads for loads in drawn if loads is not None)


def markdown() -> str:
    """Return the comparison as a Markdown table."""
    lines = [
        "| case | policy | metric | published | simulated | difference |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in published_rows():
        published, simulated = row["published"], row["simulated"]
        shown = "-" if published is None else f"{published:g}"
        error = "-" if published is None else f"{simulated / published - 1:+.1%}"
        lines.append(
            f"| {row['case']} | {row['policy']} | {row['metric']} | {shown} | {simulated:.3f} "
            f"| {error} |"
        )
    return "\n".join(lines)
