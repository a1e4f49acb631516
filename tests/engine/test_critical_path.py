from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.engine.critical_path import critical_path, describe
from ultraep_sim.engine.event import run_event
from ultraep_sim.engine.fast import run_fast
from ultraep_sim.engine.job import Episode, IterationTimes

from .jobs import jobs, make_job, scaled


def path_of(job):
    return critical_path(job, run_fast(job))


def chain(path):
    return [(s.kind, s.stage, s.micro_batches) for s in path.segments]


def seconds(path):
    return {phase.name: phase.seconds for phase in path.phases}


def test_one_unit_by_hand() -> None:
    busy = {
        "fwd_attention": 1.0,
        "fwd_dispatch": [2.0, 3.0],
        "fwd_compute": [5.0, 4.0],
        "bwd_compute": [7.0, 9.0],
        "bwd_attention": 2.0,
        "bwd_grad_reduce": [2.5, 1.0],
    }
    job = make_job(ranks=2, busy=busy, extra_forward=0.5, finish_s=4.0)
    path = path_of(job)
    assert chain(path) == [("forward", 0, (0,)), ("backward", 0, (0,)), ("finish", 0, ())]
    assert [(s.start_s, s.end_s) for s in path.segments] == [(0, 9.5), (9.5, 21), (21, 25)]
    assert seconds(path) == {
        "bwd_compute": 9.0, "fwd_compute": 5.0, "finish": 4.0, "fwd_dispatch": 3.0,
        "bwd_attention": 2.0, "fwd_attention": 1.0, "extra_forward": 0.5, "bwd_grad_reduce": 0.5,
    }  # fmt: skip
    slowest = {phase.name: (phase.gpu, phase.gpu_share) for phase in path.phases}
    assert (slowest["fwd_compute"], slowest["bwd_compute"]) == ((0, 1.0), (1, 1.0))
    assert slowest["fwd_attention"] == slowest["finish"] == (None, 0.0)  # all take the same
    assert [phase.seconds for phase in path.phases] == sorted(seconds(path).values())[::-1]


def test_two_stages_by_hand() -> None:
    """The second stage is slow: the path enters it once and leaves it with the last gradient."""
    busy = {"fwd_compute": [[[1.0], [5.0]]], "bwd_compute": [[[2.0], [6.0]]]}
    job = make_job(stages=2, micro_batches=3, busy=busy, hop_s=0.25)
    path = path_of(job)
    steady = [("forward", 1, (m,)) for m in range(3)], [("backward", 1, (m,)) for m in range(3)]
    middle = [unit for pair in zip(*steady, strict=True) for unit in pair]
    assert chain(path) == [
        ("forward", 0, (0,)), ("hop", 1, (0,)), *middle, ("hop", 0, (2,)), ("backward", 0, (2,)),
    ]  # fmt: skip
    assert path.seconds == 1 + 0.25 + 3 * 11 + 0.25 + 2
    assert seconds(path) == {"bwd_compute": 20.0, "fwd_compute": 16.0, "hop": 0.5}
    assert describe(path)[:3] == [
        "0.000 to 1000.000 ms: stage 0, forward of micro-batch 0",
        "1000.000 to 1250.000 ms: to stage 1",
        "1250.000 to 34250.000 ms: stage 1, 3 forwards, 3 backwards of micro-batches 0-2",
    ]


def test_the_sync_begins_inside_the_last_backward() -> None:
    """Two layers; the bucket of the upper one is long: the path leaves the unit at that layer."""
    busy = {"bwd_compute": [[[1.0], [2.0]]]}
    job = make_job(
        layers=2, replicas=2, busy=busy, extra_backward=[[[0.0]], [[0.5]]],
        bucket_s=[1.0, 10.0], extra_bucket_s=0.5,
    )  # fmt: skip
    path = path_of(job)
    # Layer 1 is ready at 2; its bucket ends at 12, then those of layer 0 and of the rest.
    assert chain(path) == [("backward", 0, (0,)), ("sync", 0, ())]
    assert [s.end_s for s in path.segments] == [2.0, 13.5]
    assert path.segments[0].phases == {"bwd_compute": 2.0}


def test_an_exposed_sync_begins_after_the_slowest_replica() -> None:
    job = make_job(
        replicas=2, extra_backward=[[[1.0]], [[3.0]]], bucket_s=2.0, grad_sync="exposed",
        extra_bucket_s=1.0,
    )  # fmt: skip
    path = path_of(job)
    assert [(s.kind, s.replica, s.end_s) for s in path.segments] == [
        ("backward", 1, 3.0), ("sync", None, 6.0),
    ]  # fmt: skip
    assert seconds(path) == {"extra_backward": 3.0, "sync": 3.0}


def test_recompute_is_broken_down() -> None:
    busy = {"fwd_attention": 1.0, "fwd_compute": 2.0, "bwd_compute": 4.0, "fwd_plan": 0.5}
    path = path_of(make_job(busy=busy, recompute="full"))
    assert seconds(path) == {
        "bwd_compute": 4.0, "fwd_compute": 2.0, "recompute_compute": 2.0, "fwd_attention": 1.0,
        "recompute_attention": 1.0, "fwd_plan": 0.5,
    }  # fmt: skip


def test_joint_units_are_named_with_both_chains() -> None:
    busy = {"fwd_compute": 1.0, "fwd_dispatch": 1.0, "bwd_compute": 2.0}
    path = path_of(make_job(micro_batches=2, busy=busy, overlap="two_batch"))
    assert chain(path) == [("joint", 0, (0, 1)), ("joint", 0, (0, 1))]
    assert set(seconds(path)) == {"joint"}


def test_what_kernel_times_do_not_explain_is_said() -> None:
    job = make_job(busy={"fwd_compute": 1.0, "bwd_compute": 2.0})
    got = run_fast(job)
    late = np.array([[[0.5]]])
    stretched = replace(
        got,
        iteration_s=5.5,
        forward_start=late,
        forward_end=late + 2,  # a spell doubled it
        backward_start=late + 2,
        backward_end=late + 5,
        sync_end=np.array([5.5]),
    )
    path = critical_path(job, stretched)
    assert [s.kind for s in path.segments] == ["wait", "forward", "backward"]
    assert seconds(path) == {"bwd_compute": 2.0, "other": 2.0, "fwd_compute": 1.0, "wait": 0.5}


def check(path, times: IterationTimes) -> None:
    tolerance = 1e-9 * max(times.iteration_s, 1e-9)
    edges = [s.start_s for s in path.segments] + [times.iteration_s]
    if path.segments:
        assert edges[0] == pytest.approx(0, abs=tolerance)
        assert path.segments[-1].end_s == pytest.approx(times.iteration_s, abs=tolerance)
    for before, after in pairwise(path.segments):
        assert before.end_s == pytest.approx(after.start_s, abs=tolerance)
    for segment in path.segments:
        assert segment.seconds > 0
        assert sum(segment.phases.values()) == pytest.approx(segment.seconds, abs=tolerance)
    total = sum(phase.seconds for phase in path.phases)
    assert total == pytest.approx(times.iteration_s, abs=10 * tolerance)


@settings(max_examples=150, deadline=None)
@given(jobs())
def test_the_path_is_contiguous_and_covers_the_iteration(job) -> None:  # type: ignore[no-untyped-def]
    times = run_fast(job)
    path = critical_path(job, times)
    check(path, times)
    names = {phase.name for phase in path.phases}
    assert "wait" not in names  # every gap of the schedule has a cause
    assert "other" not in names  # and kernel times explain every unit


@st.composite
def with_spells(draw):  # type: ignore[no-untyped-def]
    """A job with two spells somewhere in it."""
    job = draw(jobs())
    length = run_fast(job).iteration_s
    gpus = job.replicas * job.stages * job.ranks
    spells = []
    for part in ("compute", "link"):
        start = draw(st.floats(0, 1)) * length
        gpu = np.array([draw(st.integers(0, gpus - 1))])
        factor = draw(st.floats(1, 4))
        spells.append(Episode(gpu, part, factor, start, start + draw(st.floats(0, 1)) * length))
    return replace(job, episodes=tuple(spells))


@settings(max_examples=60, deadline=None)
@given(with_spells())
def test_spells_leave_the_path_contiguous(job) -> None:  # type: ignore[no-untyped-def]
    times = run_event(job)
    check(critical_path(job, times), times)


PLAIN = {"overlap": "none", "restore": "exposed", "prefetched": False}


@settings(max_examples=60, deadline=None)
@given(job=jobs(**PLAIN), phase=st.sampled_from(["compute", "dispatch", "combine"]))
def test_a_phase_on_the_path_is_what_the_iteration_grows_by(job, phase) -> None:  # type: ignore[no-untyped-def]
    """Stretch a kernel by a hair: the iteration grows by its seconds on the path."""
    path = seconds(path_of(job))
    on_path = path.get(f"fwd_{phase}", 0.0) + path.get(f"recompute_{phase}", 0.0)
    before, hair = run_fast(job).iteration_s, 1e-7
    grown = run_fast(scaled(job, f"fwd_{phase}", 1 + hair)).iteration_s - before
    assert grown == pytest.approx(on_path * hair, abs=1e-9 * max(before, 1e-6) * 0.05)
