"""Our planner against the published one over the whole arena: quality asserted, time reported.

Solve times go to the extra info of `make bench`, as ratios to the plain transcription of the
published planner on the same loads; nothing here fails because a machine is slow.
"""

import numpy as np
import pytest

from tests.benchmarks import plain_ultraep
from ultraep_sim.planning import EPLayout, MosaicOptions, MosaicSolver, QuotaOptions, QuotaSolver
from ultraep_sim.validate.arena import run_arena
from ultraep_sim.validate.draws import Shape
from ultraep_sim.validate.families import cases
from ultraep_sim.validate.summary import summarise

SHAPE = Shape(256, 64, 2)

# Largest ratio of replicas to ultraep's at equal tau, and to the proven floor of that ratio.
REPLICAS = {"mosaic-fast": (0.90, 1.05), "mosaic-thorough": (0.88, 1.03)}


@pytest.fixture(scope="module")
def arena():
    rows = run_arena(policies=["mosaic"], seeds=1)
    return rows, {entry["policy"]: entry for entry in summarise(rows)}


@pytest.mark.parametrize("policy", REPLICAS)
def test_fewer_replicas_at_equal_tau(arena, policy):
    entry = arena[1][policy]
    assert entry["equal_tau_cases"] == arena[1]["ultraep"]["equal_tau_cases"]
    assert entry["replicas_ratio"] <= REPLICAS[policy][0]
    assert entry["replicas_ratio"] / entry["floor_ratio"] <= REPLICAS[policy][1]
    assert entry["counting_floor_ratio"] <= entry["floor_ratio"]
    assert entry["max_fanout_ratio"] <= 1.05
    assert entry["max_home_sends_ratio"] <= 1.0


@pytest.mark.parametrize("policy", REPLICAS)
def test_no_imbalance_is_worse(arena, policy):
    assert arena[1][policy]["worst_imbalance_difference"] <= 0.002


@pytest.mark.benchmark(group="solve: EP64, 256 experts, 2 slots, the arena's families")
@pytest.mark.parametrize("which", ["plain (baseline)", "ultraep", "mosaic-fast", "mosaic-thorough"])
def test_solve(benchmark, which):
    layout = SHAPE.layout()
    loads = [case.loads.sum(axis=0) for case in cases(SHAPE, seeds=1)]
    solve = _solver(which, layout)

    def every_case():
        for total in loads:
            solve(total)

    every_case()
    benchmark(every_case)
    benchmark.extra_info["us_per_solve"] = benchmark.stats["median"] / len(loads) * 1e6


def _solver(which: str, layout: EPLayout):
    if which == "ultraep":
        return QuotaSolver(layout).solve
    if which.startswith("mosaic"):
        solver, options = MosaicSolver(layout), MosaicOptions(effort=which.partition("-")[2])
        return lambda total: solver.solve(total, options)
    scaled = QuotaOptions().target_scaled
    return lambda total: plain_ultraep.solve(
        np.ascontiguousarray(total), layout.home, layout.num_ranks, layout.slots_per_rank, scaled
    )
