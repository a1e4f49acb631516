"""What holds of any iteration that the event engine runs."""

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
import simpy
from hypothesis import given, settings

from tests.engine.jobs import jobs, make_job
from ultraep_sim.engine.event import run, run_event
from ultraep_sim.engine.job import Episode, IterationTimes
from ultraep_sim.errors import InputError

FEW = settings(max_examples=40, deadline=None)


def same(one, other):
    for field in fields(IterationTimes):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def timeline(job):
    spans = []
    times = run_event(job, spans=lambda *span: spans.append(span))
    return times, spans


@FEW
@given(job=jobs())
def test_same_bytes_and_a_timeline_changes_nothing(job):
    first, spans = timeline(job)
    second, again = timeline(job)
    same(first, second)
    same(first, run_event(job))
    assert spans == again


@FEW
@given(job=jobs())
def test_time_moves_forward(job):
    times = run_event(job)
    F0, F1 = times.forward_start, times.forward_end
    B0, B1 = times.backward_start, times.backward_end
    assert (F1 >= F0).all()
    assert (B1 >= B0).all()
    assert (B0 >= F0).all()
    assert (times.sync_end >= B1.max(axis=(0, 2)).reshape(job.chunks, job.stages).max(0)).all()
    assert times.iteration_s == pytest.approx((times.sync_end + job.finish_s).max())
    assert (times.compute_s <= times.busy_s * (1 + 1e-12) + 1e-12).all()
    assert (times.busy_s <= times.iteration_s * (1 + 1e-12)).all()
    for vs in range(job.virtual_stages - 1):  # every pass has its cause
        slack = 1e-12 * times.iteration_s
        assert (F0[:, vs + 1] >= F1[:, vs] + job.hop_s[vs] - slack).all()
        assert (B0[:, vs] >= B1[:, vs + 1] + job.hop_s[vs] - slack).all()


@FEW
@given(job=jobs())
def test_spans_of_a_lane_do_not_overlap(job):
    times, spans = timeline(job)
    lanes = {}
    for rank, lane, _, start, end, _, _ in spans:
        assert 0 <= start < end <= times.iteration_s * (1 + 1e-12)
        lanes.setdefault((rank, lane), []).append((start, end))
    slack = 1e-12 * times.iteration_s
    for found in lanes.values():
        found.sort()
        for (_, end), (start, _) in itertools.pairwise(found):
            assert start >= end - slack
    assert {rank for rank, _ in lanes} <= set(range(job.replicas * job.stages * job.ranks))
    assert {lane for _, lane in lanes} <= {"compute", "comm", "plan", "reduce", "sync"}


@FEW
@given(job=jobs(hidden=False, prefetched=False, restore="exposed", recompute="none"))
def test_every_kernel_of_every_rank_is_in_the_timeline_once(job):
    """Also what is hidden: shared experts in up to three pieces."""
    _, spans = timeline(job)
    shape = (job.replicas, job.micro_batches, job.num_layers, job.ranks)
    stage_of = {
        layer: vs % job.stages for vs, (a, b) in enumerate(job.layers) for layer in range(a, b)
    }
    found = {}
    for rank, _, phase, start, end, micro_batch, layer in spans:
        group, r = divmod(rank, job.ranks)
        d, stage = divmod(group, job.stages)
        if phase.startswith(("fwd_", "bwd_")):
            assert stage == stage_of[layer]
            at = found.setdefault(phase, np.zeros(shape))
            at[d, micro_batch, layer, r] += end - start
    for d in range(job.replicas):
        for phase, seconds in job.busy(d).items():
            shown = found.get(phase, np.zeros(shape))[d]
            np.testing.assert_allclose(shown, seconds, rtol=1e-9, atol=1e-10, err_msg=phase)


@FEW
@given(job=jobs())
def test_events_are_what_simpy_processed(job):
    """The tally is every event of the queue but starts and ends of processes, and the first."""
    scheduled = 0

    class Counting(simpy.Environment):
        def schedule(self, *args, **kwargs):
            nonlocal scheduled
            scheduled += 1
            super().schedule(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Environment", Counting)
        times = run_event(job)
    groups = job.replicas * job.stages
    assert scheduled == times.events + 2 * groups * job.ranks + 2 * job.stages + 1


@pytest.mark.parametrize("part", ["compute", "link"])
def test_a_slower_gpu_never_shortens(part):
    """Invariant 7: a GPU that is slow for ever makes no pass start or end sooner."""

    @FEW
    @given(job=jobs())
    def never(job):
        spell = Episode(np.array([0]), part, 2.0, 0.0, np.inf)
        plain, slow = run_event(job), run_event(replace(job, episodes=(spell,)))
        for field in fields(IterationTimes):
            if field.name not in ("busy_s", "compute_s", "events"):
                least = getattr(plain, field.name)
                assert np.all(getattr(slow, field.name) >= least - 1e-12 * plain.iteration_s)
        same(plain, run_event(replace(job, episodes=(replace(spell, end_s=0.0),))))

    never()


def test_an_episode_acts_on_its_gpus_alone():
    job = make_job(busy={"fwd_compute": 1, "bwd_compute": 2}, replicas=2, ranks=2)
    slow = Episode(np.array([3]), "compute", 3.0, 0.0, 10.0)
    times, spans = timeline(replace(job, episodes=(slow,)))
    lengths = {(rank, phase): end - start for rank, _, phase, start, end, _, _ in spans}
    assert lengths[2, "fwd_compute"] == 1
    assert lengths[3, "fwd_compute"] == 3
    assert times.backward_end.ravel().tolist() == [3, 9]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"gpus": np.array([2])}, "episodes[0].gpus"),
        ({"gpus": np.array([-1])}, "episodes[0].gpus"),
        ({"part": "control"}, "episodes[0].part"),
        ({"factor": 0.0}, "episodes[0].factor"),
        ({"factor": float("nan")}, "episodes[0].factor"),
        ({"start_s": 2.0}, "episodes[0].end_s"),
    ],
)
def test_impossible_episodes_are_refused(change, place):
    episode = replace(Episode(np.array([0]), "link", 2.0, 0.0, 1.0), **change)
    with pytest.raises(InputError) as error:
        run_event(make_job(ranks=2, episodes=(episode,)))
    assert error.value.place == place


@pytest.mark.parametrize(
    ("busy", "place"),
    [
        ({"fwd_compute": -1}, "fwd_compute"),
        ({"fwd_compute": float("nan")}, "fwd_compute"),
        ({"fwd_shared": 1}, "fwd_shared"),
    ],
)
def test_impossible_times_are_refused(busy, place):
    with pytest.raises(InputError) as error:
        run_event(make_job(busy=busy))
    assert error.value.place == place


def test_missing_times_are_refused():
    job = make_job(ranks=2)
    for busy in ({}, {**job.busy(0), "fwd_plan": np.zeros((1, 1, 3))}):
        with pytest.raises(InputError, match="shape"):
            run_event(replace(job, busy=lambda _, busy=busy: busy))
