"""Plans over the whole domain: any layout, any loads, alone and in sequence."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ultraep_sim as us
from tests.planning.strategies import load_matrices, problems
from ultraep_sim.errors import LoadsError
from ultraep_sim.planning import MAX_TOTAL, EPLayout

from . import checks
from .subject import plans, walk

LAYOUT = EPLayout(6, 12, 2)
SLOW_IS_FINE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


@st.composite
def large_problems(draw):
    """Anything up to 576 ranks, 4096 experts and 16 slots; the source is unknown."""
    ranks = draw(st.sampled_from([1, 2, 7, 64, 72, 200, 576]))
    experts = draw(st.sampled_from([1, 3, 60, 256, 1000, 4096]))
    slots = min(draw(st.sampled_from([0, 1, 2, 16])), experts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    home = rng.integers(0, ranks, experts) if draw(st.booleans()) else None
    domain = draw(st.sampled_from([ranks, max(1, ranks // 8)]))
    kind = draw(st.sampled_from(["zipf", "one_hot", "uniform"]))
    loads = np.zeros(experts, np.int64)
    if kind == "one_hot":
        loads[rng.integers(experts)] = draw(st.sampled_from([1, 10**6, MAX_TOTAL]))
    elif kind == "zipf":
        share = rng.permutation(1 / np.arange(1, experts + 1) ** draw(st.floats(0.3, 2)))
        loads += rng.multinomial(min(8192 * 8 * ranks, MAX_TOTAL), share / share.sum())
    else:
        loads += rng.integers(0, 1000, experts)
    return EPLayout(ranks, experts, slots, domain, home), loads


@given(problem=problems())
@settings(max_examples=80, **SLOW_IS_FINE)
def test_plans_are_valid(subject, problem):
    layout, loads = problem
    policy = subject.bind(layout)
    plan = us.plan(loads, layout, policy=policy)
    checks.check_plan(policy, plan, loads)
    checks.check_json(plan)


@given(problem=large_problems())
@settings(max_examples=30, **SLOW_IS_FINE)
def test_plans_are_valid_at_any_size(subject, problem):
    layout, loads = problem
    policy = subject.bind(layout)
    checks.check_plan(policy, us.plan(loads, layout, policy=policy), loads)


@given(data=st.data())
@settings(max_examples=25, **SLOW_IS_FINE)
def test_plans_of_a_sequence_are_valid(subject, data):
    """Six global batches, with the layer below: history policies re-plan in between."""
    batches = draw_batches(data, 6)
    policy = subject.bind(LAYOUT)
    for loads, (plan, _) in zip(batches, walk(policy, batches, below=batches), strict=True):
        checks.check_plan(policy, plan, loads)


@given(data=st.data())
@settings(max_examples=25, **SLOW_IS_FINE)
def test_moved_weights_are_booked(subject, data):
    checks.check_moved(subject, LAYOUT, draw_batches(data, 6))


@given(data=st.data())
@settings(max_examples=15, **SLOW_IS_FINE)
def test_invariant_8_same_loads_same_plans(subject, data):
    checks.check_deterministic(subject, LAYOUT, draw_batches(data, 5))


@given(data=st.data())
@settings(max_examples=15, **SLOW_IS_FINE)
def test_layers_do_not_see_each_other(subject, data):
    checks.check_layers_apart(subject, LAYOUT, draw_batches(data, 5), draw_batches(data, 5))


@given(data=st.data())
@settings(max_examples=15, **SLOW_IS_FINE)
def test_plans_outlive_the_next_one(subject, data):
    checks.check_plans_last(subject, LAYOUT, draw_batches(data, 5))


@given(data=st.data())
@settings(max_examples=30, **SLOW_IS_FINE)
def test_invariant_9_the_future_changes_nothing(subject, data):
    batches = draw_batches(data, 7)
    at = data.draw(st.integers(0, 6))
    changed = batches[:at] + draw_batches(data, 7 - at)
    checks.check_blind_to_the_future(subject, LAYOUT, batches, changed, at)


@given(problem=problems())
@settings(max_examples=15, **SLOW_IS_FINE)
def test_loads_are_not_written(subject, problem):
    layout, loads = problem
    checks.check_loads_untouched(subject.bind(layout), loads)


@pytest.mark.parametrize("layout", [EPLayout(64, 256, 2), EPLayout(3, 2, 1)], ids=str)
def test_totals_at_the_limit_are_planned_and_beyond_it_refused(subject, layout):
    loads = np.zeros(layout.num_experts, np.int64)
    loads[:2] = 2**30, 2**30 - 1
    policy = subject.bind(layout)
    checks.check_plan(policy, us.plan(loads, layout, policy=policy), loads)
    loads[1] += 1
    with pytest.raises(LoadsError, match="2\\^31"):
        us.plan(loads, layout, policy=policy)


def test_no_load_at_all(subject):
    policy = subject.bind(LAYOUT)
    loads = np.zeros((6, 12), np.int64)
    for plan in plans(policy, [loads] * 5):
        checks.check_plan(policy, plan, loads)
        assert plan.imbalance == 1.0
        assert plan.remote_fraction == 0.0


def draw_batches(data, count):
    return [data.draw(load_matrices(LAYOUT, one_row=False)) for _ in range(count)]
