"""Our ``ultraep`` and ``eplb_plus`` beside the published planner table, on loads like its own.

The published table names neither its loads nor its layout fully: power-law loads at EP64 with
initial imbalance 1.5 to 8; its README adds 256 experts, 2 slots, top-8 and 8192 tokens a rank. Ours
are Zipf over ranks with exponent 4.0 inside a rank. Published figures are read from
``published_planner.csv`` and only shown; the simulated ones are computed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..planning import EPLayout
from ..policies import get_policy
from .draws import Shape, zipf_loads
from .families import TARGETS

SHAPE = Shape(256, 64, 2)
METRICS = ("final_imbalance", "slots_used", "max_fanout", "in_flight_token_fraction")
_DRAWS = 8


def published_rows() -> Iterator[dict[str, Any]]:
    """Yield ``case``, ``policy``, ``metric``, ``published`` (or None) and ``simulated``."""
    table = Path(__file__).with_name("published_planner.csv")
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            at = float(row["initial_imbalance"]) if row["initial_imbalance"] else None
            found = simulate(row["policy"], TARGETS if at is None else (at,))
            for metric in METRICS:
                yield {
                    "case": row["case"] if at is None else f"{row['case']}, {at:g}",
                    "policy": row["policy"],
                    "metric": metric,
                    "published": float(row[metric]) if row[metric] else None,
                    "simulated": found[metric],
                }


def simulate(policy: str, targets: tuple[float, ...], seed: int = 0) -> dict[str, float]:
    """Return the mean of every metric over draws at each initial imbalance."""
    layout = EPLayout(SHAPE.ranks, SHAPE.experts, SHAPE.slots)
    solver = get_policy(policy, layout)
    rows = []
    for target in targets:
        rng = np.random.default_rng([seed, round(target * 100)])
        for _ in range(_DRAWS):
            loads = zipf_loads(rng, SHAPE, target)
            if loads is None:
                continue
            plan = solver.plan(loads, solver.new_state())
            used = int(np.count_nonzero(plan.quota[plan.is_replica]))
            rows.append((plan.imbalance, used, plan.max_fanout, plan.remote_fraction))
    return dict(zip(METRICS, np.mean(rows, axis=0).tolist(), strict=True))


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
