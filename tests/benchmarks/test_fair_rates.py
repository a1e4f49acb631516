"""Fair rates of 2,500 flows in a rack: our filling beside progressive filling in plain NumPy.

Read the ratio in `make bench`. A run of flows pays one solve an event, so this is what bounds how
many events a study can have.
"""

import numpy as np
import pytest

from ultraep_sim.fabric.fairshare import FairShare
from ultraep_sim.fabric.flows import flows_of_matrix, simulate
from ultraep_sim.fabric.topology import preset_topology
from ultraep_sim.fabric.topology_arrays import flatten

FLOWS = 2500


def problem():
    """Flows between random pairs of the rack, a few hot receivers among them."""
    rng = np.random.default_rng(0)
    arrays = flatten(preset_topology("paper-rack"))
    src = rng.integers(0, 64, FLOWS)
    dst = (src + 1 + (rng.zipf(1.5, FLOWS) - 1) % 63) % 64
    return arrays, arrays.routes(src, dst)


def plain(capacity, ptr, links):
    """Progressive filling as the textbook has it, vectorised over links and flows."""
    owner = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    rates, growing, left = np.zeros(len(ptr) - 1), np.ones(len(ptr) - 1, bool), capacity.copy()
    while growing.any():
        count = np.bincount(links, weights=growing[owner], minlength=len(capacity))
        step = np.divide(left, count, out=np.full(len(capacity), np.inf), where=count > 0).min()
        rates[growing] += step
        left -= step * count
        full = (count > 0) & (left <= 1e-9 * capacity)
        growing[owner[full[links]]] = False
    return rates


def solvers():
    arrays, routes = problem()
    solver = FairShare(arrays.num_links, routes.ptr, routes.links)
    return {
        "plain NumPy (baseline)": lambda: plain(arrays.capacity, routes.ptr, routes.links),
        "heap of links, compiled": lambda: solver.rates(arrays.capacity),
    }


def test_both_give_the_same_rates():
    one, other = (solve() for solve in solvers().values())
    np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.benchmark(group="fair rates: 2,500 flows on 64 GPUs")
@pytest.mark.parametrize("which", ["plain NumPy (baseline)", "heap of links, compiled"])
def test_solve(benchmark, which):
    solve = solvers()[which]
    solve()
    benchmark(solve)
    benchmark.extra_info["us_per_call"] = benchmark.stats["median"] * 1e6


@pytest.mark.benchmark(group="flows in time: an uneven all-to-all of 64 GPUs, 4,032 flows")
@pytest.mark.parametrize("which", ["exact (baseline)", "solved every 2 us at most"])
def test_run(benchmark, which):
    matrix = np.random.default_rng(0).pareto(2, (64, 64)) * 1e6
    sent, topology = flows_of_matrix(matrix, np.arange(64)), preset_topology("paper-rack")
    resolution = 0.0 if "exact" in which else 2e-6
    simulate(topology, flows_of_matrix(np.ones((2, 2)), np.arange(2)))
    result = benchmark.pedantic(
        simulate, (topology, sent), {"resolution_s": resolution, "timeline": False}, rounds=1
    )
    benchmark.extra_info["us_per_call"] = benchmark.stats["median"] * 1e6
    benchmark.extra_info["solves"] = result.solves


@pytest.mark.benchmark(group="fabric: graph and arrays")
@pytest.mark.parametrize("name", ["paper-rack (baseline)", "paper-40-racks"])
def test_build(benchmark, name):
    preset = name.partition(" ")[0]
    benchmark.pedantic(lambda: flatten(preset_topology(preset)), rounds=3)
    benchmark.extra_info["us_per_call"] = benchmark.stats["median"] * 1e6
