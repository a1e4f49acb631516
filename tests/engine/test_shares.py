"""Processes and resumes change nothing in what a run writes."""

import signal
import subprocess
import sys

import pytest

from ultraep_sim.engine import shares
from ultraep_sim.engine.run import run_scenario

MEMORYLESS = "policies=[none,ultraep,eplb_plus]"
FILES = ("result.parquet", "summary.json", "scenario.yaml")

KILLED = """
import os, signal, sys
from ultraep_sim.engine import shares
from ultraep_sim.engine.run import run_scenario
from ultraep_sim.scenario import load_scenario

shares.SHARE_RECORDS = 4
finish, done = shares._finish, []

def die(*args):
    if len(done) == 2:
        args[3].with_suffix(".part").mkdir()  # half a share lies there when it happens
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(finish(*args))
    return done[-1]

shares._finish = die
run_scenario(load_scenario(sys.argv[1], [sys.argv[2]]), directory=sys.argv[3])
"""


def written(scenario, folder, **how):
    run_scenario(scenario, directory=folder, **how).write(folder, ["run"])
    assert not list(folder.glob(".shares-*"))
    assert all((folder / name).exists() for name in FILES)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "sets", [(), (MEMORYLESS,), ("training={micro_batches: 2}", "ep.slots_per_rank=0")]
)
def test_jobs_change_no_byte(small, tmp_path, sets):
    scenario = small(*sets)
    one = written(scenario, tmp_path / "one")
    assert written(scenario, tmp_path / "two", jobs=2) == one


def test_many_shares_change_no_byte(small, tmp_path, monkeypatch):
    whole = written(small(MEMORYLESS), tmp_path / "whole")
    monkeypatch.setattr(shares, "SHARE_RECORDS", 4)
    assert written(small(MEMORYLESS), tmp_path / "parts") == whole


def test_what_is_divided_and_how(small):
    from ultraep_sim.engine.workload import make_workload
    from ultraep_sim.planning import EPLayout
    from ultraep_sim.policies import get_policy

    workload, layout = make_workload(small()), EPLayout(8, 16, 1)
    named = {name: get_policy(name, layout) for name in ("none", "eplb", "predictive")}
    below = get_policy("predictive", layout, source="layer")
    assert shares.divide(workload, [named["none"]], 3) == [
        shares.Share(steps=span) for span in ((0, 4), (4, 8), (8, 12))
    ]
    for name in ("eplb", "predictive"):
        found = shares.divide(workload, [named["none"], named[name]], 8)
        assert found == [shares.Share(layers=(0,)), shares.Share(layers=(1,))]
    assert shares.divide(workload, [named["none"], below], 8) == [shares.Share()]


def test_a_killed_run_goes_on_to_the_same_bytes(small, tmp_path, monkeypatch):
    scenario = small(MEMORYLESS)
    whole = written(scenario, tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    command = [sys.executable, "-c", KILLED, str(scenario.source_path), MEMORYLESS, str(folder)]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (kept,) = folder.glob(".shares-*")
    assert sorted(path.name for path in kept.iterdir()) == ["00000", "00001", "00002.part"]

    done = []
    finish = shares._finish
    monkeypatch.setattr(shares, "SHARE_RECORDS", 4)
    monkeypatch.setattr(shares, "_finish", lambda *args: done.append(args[3]) or finish(*args))
    assert written(scenario, folder) == whole
    assert [path.name for path in done] == [f"{at:05d}" for at in range(2, 6)]


def test_another_scenario_does_not_pick_up_shares(small, tmp_path, monkeypatch):
    monkeypatch.setattr(shares, "SHARE_RECORDS", 4)
    folder = tmp_path / "run"
    run_scenario(small(MEMORYLESS), directory=folder)  # never written: its shares stay
    (before,) = folder.glob(".shares-*")
    other = small(MEMORYLESS, "ep.slots_per_rank=2")
    fresh = written(other, tmp_path / "fresh")
    assert written(other, folder) == fresh
    assert not before.exists()
