"""The fast path by itself: hand-computed cases, orders, invariant 7."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.hand_cases import CASES
from tests.engine.jobs import jobs, make_job, scaled
from ultraep_sim.engine.fast import run_fast
from ultraep_sim.engine.fast.orders import NONE, orders
from ultraep_sim.engine.job import PHASE_PART, Episode, IterationTimes
from ultraep_sim.errors import InputError

ARRAYS = ["extra_forward", "extra_backward", "hop_s", "bucket_s", "extra_bucket_s", "finish_s"]


@pytest.mark.parametrize("case", [c for c in CASES if not c.job.episodes], ids=lambda c: c.name)
def test_hand_cases(case) -> None:  # type: ignore[no-untyped-def]
    times = run_fast(case.job)
    assert times.iteration_s == pytest.approx(case.iteration_s)
    for name, wanted in case.expected.items():
        np.testing.assert_allclose(getattr(times, name), wanted, err_msg=name)


@settings(max_examples=80, deadline=None)
@given(jobs())
def test_every_unit_runs_once_in_an_order_that_ends(job) -> None:  # type: ignore[no-untyped-def]
    plan = orders(job)
    units = job.micro_batches // (2 if job.overlap == "two_batch" else 1)
    wanted = {(vs, unit) for vs in range(job.virtual_stages) for unit in range(units)}
    for rows in (plan.forward, plan.backward):
        found = [tuple(row) for row in rows.tolist() if row[0] != NONE]
        assert len(found) == len(wanted)
        assert set(found) == wanted
    for stage in range(job.stages):
        mine = plan.of(stage)
        for rows in (plan.forward[mine], plan.backward[mine]):
            assert {vs % job.stages for vs, _ in rows.tolist() if vs != NONE} <= {stage}


@settings(max_examples=60, deadline=None)
@given(jobs())
def test_causes_come_before_effects(job) -> None:  # type: ignore[no-untyped-def]
    t = run_fast(job)
    assert (t.forward_start >= 0).all()
    assert (t.forward_end >= t.forward_start).all()
    assert (t.backward_end >= t.backward_start).all()
    if job.virtual_stages > 1:
        hop = job.hop_s[None, :, None]
        assert (t.forward_start[:, 1:] >= t.forward_end[:, :-1] + hop - 1e-9).all()
        assert (t.backward_start[:, :-1] >= t.backward_end[:, 1:] + hop - 1e-9).all()
    assert (t.backward_start >= t.forward_end - 1e-9).all()
    assert t.iteration_s >= t.backward_end.max()
    assert (t.compute_s <= t.busy_s + 1e-9).all()


@settings(max_examples=60, deadline=None)
@given(jobs(), st.sampled_from([*PHASE_PART, *ARRAYS]), st.floats(0.0, 1.0))
def test_less_work_never_takes_longer(job, what, factor) -> None:  # type: ignore[no-untyped-def]
    """Invariant 7: with order and schedule fixed, making anything faster lengthens nothing."""
    if what in PHASE_PART:
        faster = scaled(job, what, factor)
    else:
        faster = replace(job, **{what: getattr(job, what) * factor})
    before, after = run_fast(job), run_fast(faster)
    # Weights sent ahead hide behind work: less of it may hide less, but never costs more than it
    # saves.
    assert after.iteration_s <= before.iteration_s * (1 + 1e-12) + 1e-12


@settings(max_examples=30, deadline=None)
@given(jobs(), st.floats(1.5, 8.0))
def test_time_scales_with_its_unit(job, factor) -> None:  # type: ignore[no-untyped-def]
    slower = replace(job, **{name: getattr(job, name) * factor for name in ARRAYS})
    for phase in PHASE_PART:
        slower = scaled(slower, phase, factor)
    before, after = run_fast(job), run_fast(slower)
    for field in fields(IterationTimes):
        if field.name != "events":
            wanted = factor * np.asarray(getattr(before, field.name))
            np.testing.assert_allclose(getattr(after, field.name), wanted, atol=1e-9)


def test_the_bubble_of_1f1b_by_its_formula() -> None:
    """Equal units, no hops: M (f + b) of work and (P - 1)(f + b) of bubble."""
    for stages, count in ((1, 3), (2, 4), (4, 8), (4, 2)):
        job = make_job(
            stages=stages,
            micro_batches=count,
            busy={"fwd_compute": 1.0, "bwd_compute": 2.0},
        )
        assert run_fast(job).iteration_s == pytest.approx(3.0 * (count + stages - 1))


def test_interleaving_divides_the_bubble_by_the_chunks() -> None:
    def idle(chunks: int) -> float:
        job = make_job(
            stages=4,
            chunks=chunks,
            micro_batches=8,
            layers=4 // chunks,
            busy={"fwd_compute": 1.0, "bwd_compute": 2.0},
        )
        t = run_fast(job)
        return t.iteration_s - float(t.busy_s.max())

    assert idle(2) == pytest.approx(idle(1) / 2)
    assert idle(4) == pytest.approx(idle(1) / 4)


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
def test_dualpipe_keeps_the_bubble_of_1f1b_and_hides_communication(stages: int) -> None:
    busy = {"fwd_compute": 2.0, "fwd_dispatch": 0.5, "bwd_compute": 2.0, "bwd_dispatch": 0.5}
    plain, pairs = (
        run_fast(make_job(stages=stages, micro_batches=48, busy=busy, overlap=overlap))
        for overlap in ("none", "dualpipe")
    )
    assert pairs.iteration_s < plain.iteration_s
    idle = [1 - float(t.busy_s.mean()) / t.iteration_s for t in (plain, pairs)]
    assert idle[1] == pytest.approx(idle[0], abs=0.03)


def test_imbalance_that_persists_in_a_stage_costs_more_than_what_averages_out() -> None:
    """The same units in both: one slow stage, or the slowness dealt over stages in turn."""
    slow = np.ones((1, 32, 4, 1))
    persists, moves = slow.copy(), slow.copy()
    persists[:, :, 2] = 2.0
    for micro_batch in range(32):
        moves[:, micro_batch, micro_batch % 4] = 2.0
    took = [
        run_fast(make_job(stages=4, micro_batches=32, busy={"fwd_compute": seconds})).iteration_s
        for seconds in (persists, moves)
    ]
    assert took[0] > took[1] * 1.2


def test_episodes_are_refused() -> None:
    spell = Episode(np.array([0]), "compute", 2.0, 0.0, 1.0)
    with pytest.raises(InputError, match=r"engine.mode: event"):
        run_fast(make_job(episodes=(spell,)))


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"stages": 2, "chunks": 2, "schedule": "1f1b", "micro_batches": 2}, "chunks"),
        ({"stages": 2, "chunks": 2, "micro_batches": 3}, "micro_batches"),
        ({"overlap": "two_batch", "micro_batches": 3}, "micro_batches"),
        ({"overlap": "dualpipe", "stages": 2, "chunks": 2, "micro_batches": 2}, "schedule"),
    ],
)
def test_impossible_jobs_are_refused(changes, place) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=place):
        make_job(**changes)
