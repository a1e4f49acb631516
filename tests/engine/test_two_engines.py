"""Invariant 6: both engines say the same wherever the fast path's assumptions hold.

They share the kernel times of a job and nothing else.
"""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings

from tests.engine.hand_case import one
from tests.engine.hand_cases import CASES, EPISODE_CASES
from tests.engine.jobs import OVERLAPS, jobs, scaled
from ultraep_sim.engine.event import run_event
from ultraep_sim.engine.fast import run_fast
from ultraep_sim.engine.job import PHASE_PART, IterationTimes
from ultraep_sim.errors import InputError

ANSWERS = [field.name for field in fields(IterationTimes) if field.name != "events"]
ARRAYS = ["extra_forward", "extra_backward", "hop_s", "bucket_s", "extra_bucket_s", "finish_s"]


def differences(event, fast, rtol=1e-9):
    """Names of the answers that differ by more than `rtol` of their value or of the iteration."""
    small = rtol * event.iteration_s
    return [
        name
        for name in ANSWERS
        if not np.allclose(getattr(event, name), getattr(fast, name), rtol=rtol, atol=small)
    ]


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_equal(overlap):
    @settings(max_examples=60, deadline=None)
    @given(job=jobs(overlaps=(overlap,)))
    def equal(job):
        assert differences(run_event(job), run_fast(job)) == []

    equal()


@pytest.mark.parametrize("coefficient", [*PHASE_PART, *ARRAYS])
def test_one_coefficient_changed_in_one_engine_shows(coefficient):
    """The jobs drawn for `test_equal` find it: `find` fails if none does."""

    def change(job):
        if coefficient in PHASE_PART:
            return scaled(job, coefficient, 1.01)
        return replace(job, **{coefficient: getattr(job, coefficient) * 1.01})

    find(
        jobs(),
        lambda job: differences(run_event(job), run_fast(change(job))) != [],
        settings=settings(
            max_examples=100,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
        ),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fast_path_as_computed_by_hand(case):
    times = run_fast(case.job)
    assert times.iteration_s == pytest.approx(case.iteration_s, rel=1e-12)
    for name, expected in case.expected.items():
        np.testing.assert_allclose(getattr(times, name), expected, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("case", EPISODE_CASES, ids=lambda case: case.name)
def test_where_its_assumptions_do_not_hold_the_fast_path_says_so(case):
    """Episodes are the named effect by which the engines differ: only one of them runs them."""
    with pytest.raises(InputError, match="event"):
        run_fast(case.job)
    without = replace(case.job, episodes=())
    assert differences(run_event(without), run_fast(without)) == []


@pytest.mark.parametrize("engine", [run_fast, run_event])
@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("phase", PHASE_PART)
def test_weights_sent_ahead_and_a_slower_kernel(engine, overlap, recompute, phase):
    """Invariant 7 where the communication stream is the bottleneck: a window cannot pay twice."""
    weights = {"fwd_distribute": 500, "bwd_distribute": 600}
    choices = {"overlap": overlap, "recompute": recompute, "prefetched": True}
    job = one(weights, micro_batches=4, layers=2, **choices)
    plain, slow = engine(job), engine(scaled(job, phase, 2.0))
    assert slow.iteration_s >= plain.iteration_s
