"""Campaigns with lost GPUs, computed by hand and by a plain loop."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraep_sim.engine.event import faults
from ultraep_sim.engine.event.faults import Failure, poisson_failures, run_campaign
from ultraep_sim.errors import InputError, UltraEPSimError

# Five iterations of 10 s, a checkpoint of 3 s after every second, restarts of 100 s. Undisturbed:
# 0-10, 10-20, write 20-23, 23-33, 33-43, write 43-46, 46-56.
FIVE = {"checkpoint_every": 2, "checkpoint_s": 3, "restart_s": 100}


def five(*times):
    return run_campaign([10] * 5, [Failure(7, t) for t in times], **FIVE)


def spent(times):
    return times.useful_s, times.checkpoint_s, times.lost_s, times.restart_s


def test_undisturbed():
    times = five()
    assert times.total_s == 56
    assert spent(times) == (50, 6, 0, 0)
    assert (times.restarts, times.checkpoints, times.struck) == (0, 2, ())
    assert times.goodput == 50 / 56
    assert times.iteration_end_s.tolist() == [10, 20, 33, 43, 56]


def test_lost_in_an_iteration():
    # 23-40 is lost; 140; 140-150, 150-160, write 160-163, 163-173.
    times = five(40)
    assert times.total_s == 173
    assert spent(times) == (50, 6, 17, 100)
    assert (times.restarts, times.checkpoints) == (1, 2)
    assert times.iteration_end_s.tolist() == [10, 20, 150, 160, 173]
    assert times.struck == (Failure(7, 40),)


def test_lost_in_a_write():
    # 23-45 is lost, the write with it; 145; 165, 168, 178.
    times = five(45)
    assert times.total_s == 178
    assert spent(times) == (50, 6, 22, 100)


def test_at_the_end_of_a_write_it_is_lost():
    # Nothing is saved at 23: 123, and 56 from the beginning.
    times = five(23)
    assert times.total_s == 179
    assert spent(times) == (50, 6, 23, 100)


def test_at_the_start_and_in_a_restart():
    # 0-100 is cut at 60: 160, then 56.
    times = five(0, 60)
    assert times.total_s == 216
    assert spent(times) == (50, 6, 0, 160)
    assert times.restarts == 2


def test_two_gpus_of_one_instant_are_one_interruption():
    times = run_campaign([10] * 5, [Failure(1, 40), Failure(2, 40)], **FIVE)
    assert (times.total_s, times.restarts, len(times.struck)) == (173, 1, 2)


def test_nothing_is_lost_after_the_end():
    assert five(57).struck == ()
    assert five(57).total_s == 56


def test_lengths_may_be_a_function():
    times = run_campaign(lambda i: 1 + i, [], iterations=3, **FIVE)
    assert times.iteration_end_s.tolist() == [1, 3, 9]  # 1, 2, write 3, 3
    assert run_campaign([], [], **FIVE).goodput == 1.0


def plain(lengths, failures, every, write, restart):
    """The same campaign without events: total, lost time, restarts."""
    now, saved, since, done, lost, restarts = 0.0, 0, 0.0, 0, 0.0, 0
    pending = sorted(set(failures))
    while True:
        if done < len(lengths):
            end = now + lengths[done]
            if (done + 1) % every == 0:
                end += write  # a failure in either loses both
        else:
            return now, lost, restarts
        if pending and pending[0] <= end:
            hit = pending.pop(0)
            lost, restarts, back = lost + hit - since, restarts + 1, hit + restart
            while pending and pending[0] <= back:
                back, restarts = pending.pop(0) + restart, restarts + 1
            now = since = back
            done = saved
            continue
        now, done = end, done + 1
        if done % every == 0:
            saved, since = done, now


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    failures=st.lists(st.integers(0, 300), max_size=8),
    every=st.integers(1, 5),
    write=st.integers(0, 5),
    restart=st.integers(0, 40),
)
def test_as_a_plain_loop(lengths, failures, every, write, restart):
    times = run_campaign(
        lengths,
        [Failure(0, t) for t in sorted(failures)],
        checkpoint_every=every,
        checkpoint_s=write,
        restart_s=restart,
    )
    total, lost, restarts = plain(lengths, failures, every, write, restart)
    assert (times.total_s, times.lost_s, times.restarts) == (total, lost, restarts)
    assert times.useful_s == sum(lengths)
    assert sum(spent(times)) == total
    assert times.checkpoints == len(lengths) // every
    assert (np.diff(times.iteration_end_s) > 0).all()


def test_drawn_failures_come_at_the_published_rate():
    # 16,384 GPUs are interrupted about every 3 h: 200 in 600 h, give or take 4 x sqrt(200).
    drawn = list(poisson_failures(3, 16_384, horizon_s=600 * 3600))
    assert 143 < len(drawn) < 257
    assert [f.time_s for f in drawn] == sorted(f.time_s for f in drawn)
    assert {0 <= f.gpu < 16_384 for f in drawn} == {True}
    assert len({f.gpu for f in drawn}) > 0.9 * len(drawn)


def test_drawn_failures_repeat_and_only_grow():
    short = list(poisson_failures(5, 8, 100.0, 200.0))
    longer = list(itertools.islice(poisson_failures(5, 8, 100.0), 100))
    assert short
    assert longer[: len(short)] == short
    assert longer[len(short)].time_s >= 200.0
    assert list(poisson_failures(6, 8, 100.0, 200.0)) != short


def test_endless_failures():
    times = run_campaign(
        [1.0] * 1000,
        poisson_failures(0, 10, 1000.0),
        checkpoint_every=5,
        checkpoint_s=0.5,
        restart_s=2,
    )
    assert times.restarts > 3
    assert times.goodput < 1000 / 1100


def test_a_job_that_never_gets_on_is_told():
    every_second = (Failure(0, t) for t in itertools.count())
    with pytest.raises(UltraEPSimError, match="checkpoint more often"):
        run_campaign([10.0], every_second, **FIVE)


def test_slow_progress_is_progress(monkeypatch):
    # Each iteration is struck three times, 5 s after it began anew: 15-25, then 40-50.
    monkeypatch.setattr(faults, "_HOPELESS", 3)
    lost = [5, 10, 15, 30, 35, 40]
    job = {"checkpoint_every": 1, "checkpoint_s": 0, "restart_s": 0}
    times = run_campaign([10, 10], [Failure(0, t) for t in lost], **job)
    assert (times.restarts, times.iteration_end_s.tolist()) == (6, [25, 50])
    with pytest.raises(UltraEPSimError, match="3 restarts"):
        run_campaign([10, 10], [Failure(0, t) for t in (5, 10, 15, 20)], **job)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"iteration_s": lambda i: 1.0}, "iterations"),
        ({"iterations": 9}, "iterations"),
        ({"iteration_s": [1.0, -1.0]}, "iteration 1"),
        ({"iteration_s": [float("nan")]}, "iteration 0"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"checkpoint_s": -1}, "checkpoint_s"),
        ({"restart_s": float("inf")}, "restart_s"),
        ({"failures": [Failure(4, 3), Failure(5, 2)]}, "failure of GPU 5"),
        ({"failures": [Failure(4, -1)]}, "failure of GPU 4"),
    ],
)
def test_refused(change, place):
    arguments = {"iteration_s": [10] * 5, "failures": [], **FIVE, **change}
    with pytest.raises(InputError) as error:
        run_campaign(arguments.pop("iteration_s"), arguments.pop("failures"), **arguments)
    assert error.value.place == place


@pytest.mark.parametrize(("gpus", "mean", "horizon"), [(0, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_refused_draws(gpus, mean, horizon):
    with pytest.raises(InputError):
        poisson_failures(0, gpus, mean, horizon)
