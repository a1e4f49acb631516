"""Our planner: valid everywhere, deterministic, never behind the published one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.errors import PolicyError
from ultraep_sim.planning import EPLayout, MosaicOptions, MosaicSolver, QuotaOptions, QuotaSolver
from ultraep_sim.planning.assemble import plan_from_replicas

from . import optima
from .strategies import load_matrices, problems

efforts = st.sampled_from(["fast", "thorough"])
targets = st.sampled_from([1.0, 1.01, 1.2])


def plan_of(layout, loads, solution, **fields):
    matrix = np.atleast_2d(loads)
    return plan_from_replicas(
        layout, matrix, solution.expert, solution.rank, solution.quota, tau=solution.tau, **fields
    )


@given(problems(), efforts, targets, st.sampled_from([1, 16, 128]), st.booleans())
@settings(max_examples=250, deadline=None)
def test_plans_are_valid_and_keep_their_threshold(problem, effort, target, tile, cross):
    layout, loads = problem
    options = MosaicOptions(target, effort, tile, cross)
    found = MosaicSolver(layout).solve(loads.sum(axis=0), options)
    plan = plan_of(layout, loads, found, may_cross=cross)
    plan.validate(loads)
    assert plan.rank_loads.max() <= max(found.tau, 0)
    assert plan.rank_loads.max() <= plan.rank_loads_before.max()
    mains = plan.quota[plan.offsets[:-1]]
    assert (mains[loads.sum(axis=0) > 0] >= 1).all()


@given(problems(), efforts, st.booleans())
@settings(max_examples=200, deadline=None)
def test_never_infeasible_where_the_published_planner_is_feasible(problem, effort, cross):
    layout, loads = problem
    total = loads.sum(axis=0)
    published = QuotaSolver(layout).solve(total)
    solver = MosaicSolver(layout)
    at_its_threshold = solver.solve_at(
        total, published.tau, MosaicOptions(effort=effort, cross=cross)
    )
    assert at_its_threshold is not None
    plan_of(layout, loads, at_its_threshold, may_cross=cross).validate()


@given(problems(), efforts)
@settings(max_examples=60, deadline=None)
def test_same_loads_same_plan_whatever_was_solved_before(problem, effort):
    layout, loads = problem
    total = loads.sum(axis=0)
    options = MosaicOptions(1.0, effort)
    used = MosaicSolver(layout)
    used.solve(total[::-1].copy(), options)
    for left, right in zip(
        used.solve(total, options), MosaicSolver(layout).solve(total, options), strict=True
    ):
        assert np.array_equal(left, right)


@given(st.data(), efforts)
@settings(max_examples=30, deadline=None)
def test_batches_give_the_plans_of_single_solves(data, effort):
    layout = EPLayout(8, 16, 2, domain_size=4)
    loads = np.stack([data.draw(load_matrices(layout)).sum(axis=0) for _ in range(5)])
    solver, options = MosaicSolver(layout), MosaicOptions(effort=effort)
    tau, count, expert, rank, quota = solver.solve_many(loads, options)
    for i, row in enumerate(loads):
        one = solver.solve(row, options)
        n = count[i]
        assert tau[i] == one.tau
        assert n == len(one.expert)
        assert expert[i, :n].tolist() == one.expert.tolist()
        assert rank[i, :n].tolist() == one.rank.tolist()
        assert quota[i, :n].tolist() == one.quota.tolist()


@given(problems(max_ranks=8))
@settings(max_examples=80, deadline=None)
def test_speeds_set_capacities(problem):
    layout, loads = problem
    speeds = np.linspace(0.5, 1.0, layout.num_ranks)
    found = MosaicSolver(layout, speeds).solve(loads.sum(axis=0))
    plan = plan_of(layout, loads, found)
    plan.validate()
    assert (plan.rank_loads <= np.floor(found.tau * np.rint(speeds * 65536) / 65536)).all()


def test_a_straggler_gets_less():
    """One rank at half speed, one at 0.9: within 2 % of the best possible slowest rank."""
    rng = np.random.default_rng(0)
    speeds = np.ones(64)
    speeds[5], speeds[40] = 0.5, 0.9
    layout = EPLayout(64, 256, 2)
    loads = rng.multinomial(64 * 65_536, rng.dirichlet(np.full(256, 1.0))).astype(np.int64)
    aware = plan_of(layout, loads, MosaicSolver(layout, speeds).solve(loads))
    blind = plan_of(layout, loads, MosaicSolver(layout).solve(loads))
    optimum = loads.sum() / speeds.sum()
    assert (aware.rank_loads / speeds).max() <= 1.02 * optimum
    assert (blind.rank_loads / speeds).max() > 1.9 * optimum  # balancing tokens does not help


def test_tiles_make_whole_tiles_and_cost_neither_balance_nor_replicas():
    rng = np.random.default_rng(1)
    layout = EPLayout(64, 256, 2)
    whole, tiles = 0, np.zeros(2, np.int64)
    for _ in range(20):
        loads = rng.multinomial(64 * 65_536, rng.dirichlet(np.full(256, 0.5))).astype(np.int64)
        solver = MosaicSolver(layout)
        plain, tiled = solver.solve(loads), solver.solve(loads, MosaicOptions(tile_rows=128))
        assert tiled.tau <= plain.tau
        assert len(tiled.expert) <= len(plain.expert)
        whole += (tiled.quota % 128 == 0).all()
        quotas = [plan_of(layout, loads, found).quota for found in (plain, tiled)]
        tiles += [int((-(-quota // 128)).sum()) for quota in quotas]
    assert whole >= 5  # in the others whole tiles would have cost a replica
    assert tiles[1] < tiles[0]


def test_crossing_helps_a_hot_domain_and_only_then():
    layout = EPLayout(8, 16, 2, domain_size=4)
    loads = np.full(16, 100)
    loads[:8] = 300
    inside = MosaicSolver(layout).solve(loads)
    across = MosaicSolver(layout).solve(loads, MosaicOptions(cross=True))
    assert inside.tau >= 600  # each hot rank has 600 and its domain no room
    assert across.tau <= 1.01 * 400 + 1
    plan = plan_of(layout, loads, across, may_cross=True)
    plan.validate()
    assert (layout.domain_of[plan.rank] != layout.domain_of[layout.home[plan.expert]]).any()


def test_fewer_replicas_than_published_at_the_same_threshold():
    rng = np.random.default_rng(2)
    layout = EPLayout(64, 256, 2)
    ratios = {"fast": [], "thorough": []}
    for _ in range(12):
        loads = rng.multinomial(64 * 65_536, rng.dirichlet(np.full(256, 0.3))).astype(np.int64)
        published = QuotaSolver(layout).solve(loads)
        for effort, found in ratios.items():
            ours = MosaicSolver(layout).solve_at(loads, published.tau, MosaicOptions(effort=effort))
            found.append(len(ours.expert) / len(published.expert))
    assert np.mean(ratios["fast"]) < 0.95
    assert np.mean(ratios["thorough"]) <= np.mean(ratios["fast"])


def test_one_slot_a_rank_is_enough_when_sources_are_filled_in_turn():
    """Two sources of 1.7, sinks of 0 and 0.6: one gives 1.0 and is filled by the other in turn.

    Direct moves alone cannot do better than 1.15.
    """
    layout = EPLayout(4, 4, 1)
    loads = np.array([1700, 1700, 0, 600])
    assert MosaicSolver(layout).solve(loads, MosaicOptions(1.0)).tau <= 1002
    assert QuotaSolver(layout).solve(loads, QuotaOptions(1.0)).tau >= 1150


@pytest.mark.parametrize(
    "options",
    [{"target": 0.9}, {"effort": "lazy"}, {"tile_rows": 0}, {"target": float("nan")}],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(PolicyError):
        MosaicOptions(**options)


@pytest.mark.parametrize(
    "speeds",
    [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, np.nan], [1.0, 99.0], [1.0, 1e300], [1.0, 1e-6]],
)
def test_impossible_speeds_are_refused(speeds):
    with pytest.raises(PolicyError, match="speed"):
        MosaicSolver(EPLayout(2, 2, 1), speeds)


def test_totals_at_the_limit_do_not_overflow():
    layout = EPLayout(64, 256, 2)
    loads = np.zeros(256, np.int64)
    loads[:3] = [2**30, 2**29, 2**31 - 1 - 2**30 - 2**29]
    speeds = np.linspace(0.01, 16, 64)
    for options in (MosaicOptions(), MosaicOptions(1000.0), MosaicOptions(1.0, "thorough", 128)):
        for given_speeds in (None, speeds):
            found = MosaicSolver(layout, given_speeds).solve(loads, options)
            plan_of(layout, loads, found).validate()


def test_close_to_the_exact_optimum_when_asked_for_it():
    """Target 1.0, thorough: within 0.1 % of the proven optimum on at least 95 % of the table.

    More than half of its 210 seeded cases have an optimum above 1.01 x mean: there slots and whole
    experts bind, not the average.
    """
    options = MosaicOptions(1.0, "thorough")
    close, published = [], []
    for case in optima.read():
        found = MosaicSolver(case.layout).solve(case.loads, options)
        largest = plan_of(case.layout, case.loads, found).rank_loads.max()
        assert largest >= case.max_load_bound, f"{case.name} beats a proven bound"
        close.append(largest <= 1.001 * case.max_load)
        greedy = QuotaSolver(case.layout).solve(case.loads, QuotaOptions(1.0))
        published.append(greedy.tau <= 1.001 * case.max_load)
    assert np.mean(close) >= 0.95
    assert np.mean(published) < 0.5  # the table tells planners apart


def test_crossing_goes_on_after_a_drained_expert():
    layout = EPLayout(4, 6, 2, 2, home=[0, 0, 0, 1, 2, 3])
    loads = np.array([20, 20, 20, 0, 0, 0])
    assert MosaicSolver(layout).solve_at(loads, 20, MosaicOptions(cross=True)) is not None


def test_the_largest_loads_and_speeds_stay_in_range():
    layout = EPLayout(4, 4, 2)
    loads = np.array([2**30, 2**29, 2**28, 0])
    speeds = np.array([2**-10, 1, 1, 16])
    found = MosaicSolver(layout, speeds).solve(loads)
    load = plan_of(layout, loads, found).rank_loads
    mean = loads.sum() / speeds.sum()
    assert (load / speeds).max() <= 2 * mean  # it was 37,000 x where products wrapped
