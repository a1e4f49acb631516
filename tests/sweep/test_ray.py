"""The Ray backend on a real cluster of two workers on this machine."""

from __future__ import annotations

import os
import signal

import pytest

from ultraep_sim.sweep import load_sweep, run_sweep
from ultraep_sim.sweep.backends import Task
from ultraep_sim.sweep.points import Point

ray = pytest.importorskip("ray")

SWEEP = """
    base: base.yaml
    vary: {ep.slots_per_rank: [0, 1, 2]}
    seeds: 2
    draws: 1
"""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    yield
    ray.shutdown()


@pytest.mark.slow
def test_the_same_bytes_as_here(write, tmp_path):
    spec = load_sweep(write(SWEEP))
    run_sweep(spec, tmp_path / "here").write(tmp_path / "here")
    run_sweep(spec, tmp_path / "ray", jobs=2, backend="ray").write(tmp_path / "ray")
    for name in ("sweep.csv", "sweep.parquet"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()


@pytest.mark.slow
def test_a_lost_worker_is_replaced(tmp_path, monkeypatch):
    from ultraep_sim.sweep import ray_backend
    from ultraep_sim.sweep.backends import Outcome

    mark = tmp_path / "died"

    def dies_once(task):
        if task.key == "2" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(task.key, [{"policy": task.key}])

    def always_dies(task):
        if task.key == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(task.key, [])

    tasks = [Task(str(at), Point(tmp_path, (("n", at),), ())) for at in range(6)]
    monkeypatch.setattr(ray_backend, "run_task", dies_once)
    found = list(ray_backend.RayRuns(2)(tasks))
    assert mark.exists()
    assert sorted(outcome.key for outcome in found) == list("012345")
    assert not any(outcome.error for outcome in found)

    monkeypatch.setattr(ray_backend, "run_task", always_dies)
    monkeypatch.setattr(ray_backend, "RETRIES", 1)
    told = {outcome.key: outcome.error for outcome in ray_backend.RayRuns(2)(tasks)}
    assert told.pop("1").startswith("n=1: WorkerCrashedError")
    assert set(told.values()) == {None}
