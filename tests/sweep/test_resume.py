from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ultraep_sim.errors import InputError
from ultraep_sim.sweep import Store, backends, expand, load_sweep, resolve, run_sweep
from ultraep_sim.sweep.runner import Runner
from ultraep_sim.sweep.store import Part

from . import kill_resume

SWEEP = """
    base: base.yaml
    vary: {ep.slots_per_rank: [0, 1]}
    seeds: 2
"""


@pytest.mark.slow
def test_killed_sweeps_go_on_to_the_same_bytes():
    assert kill_resume.main(kills=4, seeds=12, seed=7, after=0.4) == 0


def test_a_rerun_runs_only_what_is_missing(write, tmp_path, monkeypatch):
    spec = load_sweep(write(SWEEP))
    out = tmp_path / "out"
    whole = run_sweep(spec, out)
    points = expand(spec)
    lost = resolve(points[2]).key
    (out / "parts" / f"{lost}.parquet").unlink()
    ran = []
    real = backends.run_point
    monkeypatch.setattr(backends, "run_point", lambda p, s: ran.append(p) or real(p, s))
    assert run_sweep(spec, out).to_csv() == whole.to_csv()
    assert ran == [points[2]]


def test_a_damaged_part_is_run_again(write, tmp_path):
    spec = load_sweep(write(SWEEP))
    out = tmp_path / "out"
    whole = run_sweep(spec, out)
    first, second, third, *_ = sorted((out / "parts").iterdir())
    first.write_bytes(first.read_bytes()[:200])
    second.write_bytes(third.read_bytes())  # whole, but another point's
    assert run_sweep(spec, out).to_csv() == whole.to_csv()


def test_other_code_or_another_trace_makes_other_keys(write, tmp_path, monkeypatch):
    import numpy as np

    from ultraep_sim.sweep import points
    from ultraep_sim.trace import Trace, TraceMeta

    (point, *_) = expand(load_sweep(write(SWEEP)))
    key = resolve(point).key
    monkeypatch.setattr(points, "code_digest", lambda: "other")
    assert resolve(point).key != key
    monkeypatch.undo()

    meta = TraceMeta(
        model="toy", num_experts=16, top_k=2, num_layers=1, source_ranks=1, tokens_per_rank=8,
        phase="training", recorded="by hand", synthetic=False,
    )  # fmt: skip

    def record(name, shift):
        loads = np.roll(np.array([[[4, 4, 4, 4] + [0] * 12]]), shift, axis=2)
        Trace.from_arrays(meta, [0], [0], [0], loads).write(tmp_path / name)

    base = (tmp_path / "base.yaml").read_text()
    start = base.index("  synthetic")
    (tmp_path / "base.yaml").write_text(
        base[:start] + "  trace: t.parquet\n" + base[base.index("  tokens_per") :]
    )
    record("t.parquet", 0)
    one = resolve(point).key
    assert resolve(point).key == one
    record("t.parquet", 3)
    assert resolve(point).key != one
    record("t.parquet", 0)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "base.yaml").write_text((tmp_path / "base.yaml").read_text())
    (tmp_path / "t.parquet").rename(moved / "t.parquet")
    from dataclasses import replace

    assert resolve(replace(point, base=moved / "base.yaml")).key == one  # bytes count, not places


def test_one_run_at_a_time(write, tmp_path):
    spec = load_sweep(write(SWEEP))
    with (
        Runner(spec, Store(tmp_path / "out")),
        pytest.raises(InputError, match="another run of a sweep"),
        Runner(spec, Store(tmp_path / "out")),
    ):
        pass


def test_a_full_disk_keeps_what_is_stored(write, tmp_path, monkeypatch):
    from ultraep_sim.sweep import store

    spec = load_sweep(write(SWEEP))
    real, written = store._replace, []

    def full(file, content):
        if len(written) == 3:  # the manifest and two points
            raise OSError(28, "No space left on device", str(file))
        written.append(file)
        real(file, content)

    monkeypatch.setattr(store, "_replace", full)
    with pytest.raises(InputError, match=r"No space left.*goes on from there"):
        run_sweep(spec, tmp_path / "out")
    monkeypatch.undo()
    assert len(Store(tmp_path / "out").done()) == 2
    assert len(run_sweep(spec, tmp_path / "out").rows) == 4 * 3


def test_processes_give_the_same_bytes_as_one(write, tmp_path):
    spec = load_sweep(write(SWEEP))
    run_sweep(spec, tmp_path / "one").write(tmp_path / "one")
    run_sweep(spec, tmp_path / "two", jobs=2).write(tmp_path / "two")
    for name in ("sweep.csv", "sweep.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_point_that_kills_its_process_costs_no_other(write, tmp_path, monkeypatch):
    # A policy of a third party that ends the process: found by every worker through its path.
    (tmp_path / "deadly.py").write_text(
        "import os\n"
        "from ultraep_sim.policies.none import NoBalancing\n"
        "class Deadly(NoBalancing):\n"
        "    name = 'deadly'\n"
        "    def plan(self, loads, state):\n"
        "        os._exit(9)\n"
    )
    info = tmp_path / "deadly-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ultraep_sim.policies]\ndeadly = deadly:Deadly\n")
    write("""
        base: base.yaml
        vary:
          who:
            - {value: none, set: {policies: [none]}}
            - {value: deadly, set: {policies: [deadly]}}
            - {value: ultraep, set: {policies: [ultraep]}}
            - {value: ideal, set: {policies: [ideal]}}
    """)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    run = subprocess.run(
        [
            sys.executable, "-c",
            "from ultraep_sim.sweep import *\n"
            "r = run_sweep(load_sweep('sweep.yaml'), 'out', jobs=2)\n"
            "print(sorted(x['policy'] for x in r.rows), list(r.failures.values()))",
        ],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "['ideal', 'none', 'ultraep']" in run.stdout
    assert "who=deadly: the process that ran it died twice" in run.stdout


def test_ctrl_c_leaves_a_state_to_resume(write, tmp_path):
    write(SWEEP.replace("seeds: 2", "seeds: 60"))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ultraep_sim.cli", "sweep", "sweep.yaml", "--out", str(out)]
    with subprocess.Popen(
        [*command, "--jobs", "2"], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True, text=True,
    ) as run:  # fmt: skip
        while run.poll() is None and len(list(out.glob("parts/*.parquet"))) < 4:
            time.sleep(0.02)
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGINT)  # a terminal tells the whole group
        told = run.communicate()
    assert run.returncode == 130, told
    assert told[0] == ""
    assert f"sweep resume {out}" in told[1]
    assert "Traceback" not in told[1]
    done = len(Store(out).done())
    assert 4 <= done < 120
    assert json.loads((out / "sweep.json").read_text())["format"] == 1


def test_what_is_stored_is_what_is_read(tmp_path):
    store = Store(tmp_path)
    rows = [{"a": 1, "b": None, "policy": "x", "fits": True}, {"a": 2.5, "policy": "y"}]
    with store.open({}):
        told = store.add(Part("k" * 16, rows, read={"n": 1.5}))
        assert store.read("k" * 16) == told
        assert store.add(Part("f", [], "why")).error == "why"
        assert store.failed() == {"f": "why"}
        store.add(Part("f", rows))
    assert store.failed() == {}
    assert store.done() == {"k" * 16, "f"}
