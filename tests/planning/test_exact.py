"""The mixed-integer programs against brute force, their plans, statuses and refusals."""

import sys

import numpy as np
import pytest

from ultraep_sim.errors import PolicyError
from ultraep_sim.planning import EPLayout, QuotaOptions, QuotaSolver
from ultraep_sim.planning.assemble import plan_from_replicas
from ultraep_sim.planning.exact import minimum_max_load, minimum_replicas

from .brute_force import all_optima

TINY_LAYOUTS = [
    EPLayout(3, 3, 1),
    EPLayout(2, 5, 2),
    EPLayout(4, 4, 1, domain_size=2),
    EPLayout(3, 4, 1, home=[0, 0, 0, 2]),
    EPLayout(3, 3, 0),
    EPLayout(1, 3, 1),
]


def checked_plan(found, loads, layout):
    plan = plan_from_replicas(
        layout, np.atleast_2d(loads), found.expert, found.rank, found.quota, policy="exact"
    )
    plan.validate()
    assert plan.rank_loads.max() == found.tau
    assert (plan.quota[plan.is_replica] > 0).all()
    assert (plan.quota[plan.offsets[:-1]][np.asarray(loads) > 0] >= 1).all()
    return plan


@pytest.mark.parametrize("layout", TINY_LAYOUTS, ids=str)
def test_both_programs_agree_with_brute_force(layout):
    rng = np.random.default_rng(1)
    for _ in range(10):
        loads = rng.integers(0, 30, layout.num_experts) * rng.integers(0, 2, layout.num_experts)
        fewest = all_optima(loads, layout)
        found = minimum_max_load(loads, layout)
        assert (found.value, found.status, found.gap) == (min(fewest), "optimal", 0.0)
        checked_plan(found, loads, layout)
        for tau in {min(fewest), (min(fewest) + max(fewest)) // 2, max(fewest)}:
            found = minimum_replicas(loads, layout, tau)
            assert found.value == min(n for load, n in fewest.items() if load <= tau)
            assert found.status == "optimal"
            assert found.tau <= tau
            assert checked_plan(found, loads, layout).num_replicas == found.value


def test_empty_ranks_are_interchangeable():
    """The ordering of ranks without load must not cut off the optimum: one expert over eight."""
    layout = EPLayout(8, 8, 1)
    loads = [800, 0, 0, 0, 0, 0, 0, 0]
    assert minimum_max_load(loads, layout).value == 100
    assert minimum_replicas(loads, layout, 300).value == 2


def test_a_medium_case_holds_and_beats_the_published_planner():
    rng = np.random.default_rng(3)
    layout = EPLayout(8, 32, 2, domain_size=4)
    loads = rng.multinomial(32_768, rng.dirichlet(np.full(32, 0.3))).astype(np.int64)
    greedy = QuotaSolver(layout).solve(loads, QuotaOptions(target=1.0))
    best = minimum_max_load(loads, layout)
    checked_plan(best, loads, layout)
    assert best.value <= greedy.tau
    fewest = minimum_replicas(loads, layout, greedy.tau)
    checked_plan(fewest, loads, layout)
    assert fewest.value <= len(greedy.expert)


def test_a_time_limit_gives_a_plan_and_an_honest_gap():
    rng = np.random.default_rng(0)
    layout = EPLayout(32, 128, 1)
    loads = rng.multinomial(524_288, rng.dirichlet(np.full(128, 0.2))).astype(np.int64)
    found = minimum_max_load(loads, layout, time_limit_s=0.2)
    checked_plan(found, loads, layout)
    assert found.bound <= found.value
    assert (found.status == "optimal") == (found.gap == 0.0) == (found.bound == found.value)


def test_loads_at_the_limit_are_exact():
    """Tolerances of the solver are relative: 2^31 tokens still come out to the token."""
    layout = EPLayout(3, 3, 1)
    found = minimum_max_load([2**31 - 3, 1, 1], layout)
    assert found.value == -(-(2**31 - 1) // 3)
    assert found.quota.sum() == 2**31 - 3 - found.value


def test_impossible_and_bad_requests_are_refused():
    layout = EPLayout(2, 10, 1, home=[0] * 10)
    with pytest.raises(PolicyError, match="max rank load"):
        minimum_replicas([10] * 10, layout, 60)
    with pytest.raises(PolicyError, match="time limit"):
        minimum_max_load([10] * 10, layout, time_limit_s=0)


def test_without_scipy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(PolicyError, match="pip install scipy"):
        minimum_max_load([3, 1], EPLayout(2, 2, 1))


def test_importing_it_does_not_import_scipy():
    import subprocess

    code = "import sys, ultraep_sim.planning.exact; sys.exit('scipy.optimize' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
