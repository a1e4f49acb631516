"""Solve time (expert loads to plan, without the split) at EP64, 256 experts, 2 slots, one core.

Read the ratio: `make bench` prints our solver beside the plain transcription in one group.
"""

import numpy as np
import pytest

from tests.benchmarks import plain_ultraep
from tests.benchmarks.zipf import zipf_loads
from ultraep_sim.planning import EPLayout, MosaicOptions, MosaicSolver, QuotaOptions, QuotaSolver
from ultraep_sim.policies.eplb import place_globally

LAYOUT = EPLayout(64, 256, 2)
IMBALANCES = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def cases():
    rng = np.random.default_rng(0)
    return [zipf_loads(rng, 64, 256, x) for x in IMBALANCES for _ in range(5)]


def plain(loads):
    return plain_ultraep.solve(loads, LAYOUT.home, 64, 2, QuotaOptions().target_scaled)


def test_plain_transcription_gives_the_same_plans():
    solver = QuotaSolver(LAYOUT)
    for loads in cases():
        tau, replicas = plain(loads)
        ours = solver.solve(loads)
        assert tau == ours.tau
        assert np.array_equal(replicas, np.stack(ours[1:], axis=1))


def solvers():
    mosaic, fast, thorough = MosaicSolver(LAYOUT), MosaicOptions(), MosaicOptions(effort="thorough")
    return {
        "plain transcription (baseline)": plain,
        "ultraep": QuotaSolver(LAYOUT).solve,
        "mosaic fast": lambda loads: mosaic.solve(loads, fast),
        "mosaic thorough": lambda loads: mosaic.solve(loads, thorough),
        "eplb (placement from these loads)": lambda loads: place_globally(LAYOUT, loads),
    }


@pytest.mark.benchmark(group="solve: EP64, 256 experts, 2 slots, 30 Zipf loads")
@pytest.mark.parametrize(
    "which",
    [
        "plain transcription (baseline)",
        "ultraep",
        "mosaic fast",
        "mosaic thorough",
        "eplb (placement from these loads)",
    ],
)
def test_solve(benchmark, which):
    loads = cases()
    solve = solvers()[which]

    def all_cases():
        for case in loads:
            solve(case)

    all_cases()
    benchmark(all_cases)
    benchmark.extra_info["us_per_solve"] = benchmark.stats["median"] / len(loads) * 1e6


@pytest.mark.benchmark(group="solve: growth of mosaic fast with the group")
@pytest.mark.parametrize(
    ("ranks", "experts"), [(64, 256), (128, 512), (256, 1024), (512, 2048)], ids=str
)
def test_growth(benchmark, ranks, experts):
    """Domains of 64 ranks; EP64 is the baseline of the group."""
    rng = np.random.default_rng(1)
    loads = [
        np.concatenate([zipf_loads(rng, 64, 256, x) for _ in range(ranks // 64)])
        for x in IMBALANCES
    ]
    solver, options = MosaicSolver(EPLayout(ranks, experts, 2, domain_size=64)), MosaicOptions()

    def all_cases():
        for case in loads:
            solver.solve(case, options)

    all_cases()
    benchmark(all_cases)
    benchmark.extra_info["us_per_solve"] = benchmark.stats["median"] / len(loads) * 1e6


@pytest.mark.benchmark(group="solve_many: EP64, 256 experts, 3000 plans, all threads")
def test_many(benchmark):
    loads = np.stack(cases() * 100)
    solver, options = MosaicSolver(LAYOUT), MosaicOptions()
    solver.solve_many(loads, options)
    benchmark(solver.solve_many, loads, options)
    benchmark.extra_info["plans_per_s"] = round(len(loads) / benchmark.stats["median"])
