"""The published ideal throughput predicted with nothing taken from it: whole iterations.

Everything the other comparison takes as given is computed here: attention, head, optimizer, data
sync, pipeline. Micro-batches of an iteration and recomputation are not published, so both are
varied. A combination that our memory model says cannot fit is told, not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engine.run import run_scenario
from ..errors import InputError
from ..scenario.load import scenario_from_dict
from .training_cases import TOKENS, Case, cases

Row = dict[str, Any]
Progress = Callable[[str, int, int], None]

MICRO_BATCHES = (4, 16, 64)
SEQUENCE = 8192
RACK = "paper-rack64"


def ideal_rows(progress: Progress | None = None) -> list[Row]:
    """Compute ``ideal`` for every published run.

    Returns
    -------
    list of dict
        ``model``, ``recompute``, ``micro_batches``, ``published``, ``simulated`` (TFLOPS per GPU,
        None where the model does not fit), ``error`` and ``problem``.
    """
    every = [
        (case, recompute, count)
        for case in cases()
        for recompute in ("none", "full")
        for count in MICRO_BATCHES
    ]
    rows = []
    for done, (case, recompute, count) in enumerate(every, start=1):
        simulated, problem = _simulate(case, recompute, count)
        rows.append(
            {
                "model": case.shape.name,
                "recompute": recompute,
                "micro_batches": count,
                "published": case.ideal_tflops,
                "simulated": simulated,
                "error": None if simulated is None else simulated / case.ideal_tflops - 1,
                "problem": problem,
            }
        )
        if progress is not None:
            progress("ideal runs", done, len(every))
    return rows


def iteration_tflops(case: Case, micro_batches: int = 16) -> float | None:
    """Return the throughput of forced balance with nothing given, TFLOPS per GPU.

    Without recomputation where that fits the memory, else with all of it; None where neither does.
    """
    for recompute in ("none", "full"):
        found, _ = _simulate(case, recompute, micro_batches)
        if found is not None:
            return found
    return None


def _simulate(case: Case, recompute: str, count: int) -> tuple[float | None, str | None]:
    scenario = scenario_from_dict(
        {
            "name": "ideal",
            "model": case.shape.name,
            "rack": RACK,
            "ep": {
                "ranks": case.ranks,
                "slots_per_rank": case.slots,
                "data_parallel": case.replicas,
                "pipeline_stages": case.stages,
            },
            # Forced balance sees the total only: any imbalance and one layer will do.
            "workload": {
                "synthetic": {"imbalance": 2.0, "layers": 1, "steps": 1},
                "tokens_per_rank": TOKENS,
                "sequence_length": SEQUENCE,
            },
            "policies": ["ideal"],
            "engine": {"recompute": recompute},
            "training": {"micro_batches": count, "replica_loads": "shared"},
        }
    )
    try:
        (row,) = run_scenario(scenario).rows
    except InputError as error:
        return None, error.problem
    return float(row["tflops_per_gpu"]), None
