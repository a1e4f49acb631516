"""What the arena's rows say about each policy, as ratios to the published planner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .arena import BASELINE, EQUAL_TAU, MORE_SLOTS, NOT_APPLICABLE, OK, Row

_RATIOS = {
    "replicas_ratio": "replicas",
    "max_fanout_ratio": "max_fanout",
    "max_home_sends_ratio": "max_home_sends",
}


def summarise(rows: list[Row]) -> list[dict[str, Any]]:
    """Sum up each policy over all cases, at equal slots and (its own entry) at the slots it needs.

    Parameters
    ----------
    rows : list of dict
        From `ultraep_sim.validate.arena.run_arena`, with the baseline ``ultraep`` among them.

    Returns
    -------
    list of dict
        For each policy and status:

        - ``cases``, ``mean_imbalance``, ``worst_imbalance_difference`` to the baseline's;
        - ``equal_tau_cases``: the baseline opened replicas and both reach the same imbalance
          within `EQUAL_TAU`, if need be by being asked for it (``at_baseline_tau``);
        - over those ``replicas_ratio``, ``max_fanout_ratio``, ``max_home_sends_ratio`` to the
          baseline's, and what the first could at best be, the lower bound in the place of the
          replicas: ``floor_ratio``, and ``counting_floor_ratio`` with the counting bound;
        - ``bound_ratio``: replicas over the lower bound at the plan's own max rank load;
        - ``kernel_ratio``: solve times where the baseline opened replicas;
        - ``extra_slots``, the most a rank; ``not_applicable``, cases refused at the slots offered.

        Ratios are geometric means in which families and shapes weigh the same; None where there
        is nothing to compare.
    """
    base = {_key(row): row for row in rows if row["policy"] == BASELINE and row["status"] == OK}
    out = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        mine = [row for row in rows if row["policy"] == policy]
        refused = sum(row["status"] == NOT_APPLICABLE for row in mine)
        for status in (OK, MORE_SLOTS):
            chosen = [row for row in mine if row["status"] == status]
            if chosen:
                entry = {"policy": policy, "status": status}
                out.append(entry | _entry(chosen, base) | {"not_applicable": refused})
    return out


def _entry(rows: list[Row], base: dict[Any, Row]) -> dict[str, Any]:
    pairs = [(row, base[_key(row)]) for row in rows if _key(row) in base]
    busy = [(row, other) for row, other in pairs if other["replicas"] > 0]
    comparable = [({**row, **(row["at_baseline_tau"] or {})}, other) for row, other in busy]
    equal = [
        (row, other)
        for row, other in comparable
        if abs(row["imbalance"] - other["imbalance"]) <= EQUAL_TAU and row["replicas"] > 0
    ]
    bounded = [row for row in rows if row["replica_lower_bound"]]
    timed = [(row, other) for row, other in busy if row["solve_us"] and other["solve_us"]]
    floors = [(row, other) for row, other in equal if row["replica_lower_bound"]]
    return {
        "cases": len(rows),
        "mean_imbalance": float(np.mean([row["imbalance"] for row in rows])),
        "worst_imbalance_difference": max(
            (row["imbalance"] - other["imbalance"] for row, other in pairs), default=None
        ),
        "equal_tau_cases": len(equal),
        **{
            name: _mean_ratio((row, row[key] / other[key]) for row, other in equal)
            for name, key in _RATIOS.items()
        },
        "floor_ratio": _mean_ratio(
            (row, row["replica_lower_bound"] / other["replicas"]) for row, other in floors
        ),
        "counting_floor_ratio": _mean_ratio(
            (row, row["counting_lower_bound"] / other["replicas"]) for row, other in floors
        ),
        "bound_ratio": _mean_ratio(
            (row, row["replicas"] / row["replica_lower_bound"]) for row in bounded
        ),
        "kernel_ratio": _mean_ratio(
            (row, row["solve_us"] / other["solve_us"]) for row, other in timed
        ),
        "extra_slots": max(row["extra_slots"] for row in rows),
    }


def _key(row: Row) -> tuple[Any, ...]:
    return (*_cell(row), row["index"])


def _cell(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("family", "experts", "ranks", "slots"))


def _mean_ratio(values: Iterable[tuple[Row, float]]) -> float | None:
    """Geometric mean over families and shapes, each the geometric mean of its draws.

    So a family of long sequences, whose micro-batches are alike, weighs no more than another.
    """
    cells: dict[Any, list[float]] = {}
    for row, value in values:
        cells.setdefault(_cell(row), []).append(float(np.log(value)))
    if not cells:
        return None
    return float(np.exp(np.mean([np.mean(logs) for logs in cells.values()])))
