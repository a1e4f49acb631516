"""Solve time (expert loads to plan, without the split) at EP64, 256 experts, 2 slots, one core.

Read the ratio: `make bench` prints our solver beside the plain transcription in one group.
"""

import numpy as np
import pytest

from tests.benchmarks import plain_ultraep
from tests.benchmarks.zipf import zipf_loads
from ultraep_sim.planning import EPLayout, QuotaOptions, QuotaSolver

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


@pytest.mark.benchmark(group="solve: EP64, 256 experts, 2 slots, 30 Zipf loads")
@pytest.mark.parametrize("which", ["plain transcription (baseline)", "ultraep"])
def test_solve(benchmark, which):
    loads = cases()
    solve = plain if which.startswith("plain") else QuotaSolver(LAYOUT).solve

    def all_cases():
        for case in loads:
            solve(case)

    all_cases()
    benchmark(all_cases)
    benchmark.extra_info["us_per_solve"] = benchmark.stats["median"] / len(loads) * 1e6
