"""A package that knows only the public contract registers a policy, and the suite judges it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(__file__).parent / "pairwise-balancer"


@pytest.fixture
def installed(tmp_path):
    """Return the environment of a Python that has the package, as pip would leave it.

    Installing writes the entry points of pyproject.toml into a .dist-info beside the code; that is
    done here by hand, since building needs a backend from the network.
    """
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = tmp_path / f"pairwise_balancer-{project['version']}.dist-info"
    info.mkdir()
    lines = [f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"]
    (info / "METADATA").write_text("".join(lines), encoding="utf-8")
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    paths = [str(tmp_path), str(PACKAGE / "src"), str(ROOT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "NO_COLOR": "1"}


def run(env, *arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def test_the_conformance_suite_passes_on_it(installed):
    done = run(
        installed, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider",
        "tests/conformance", "--policy", "pairwise",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


def test_the_suite_takes_its_options(installed):
    suite = ["-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "tests/conformance"]
    suite += ["--policy", "pairwise", "-k", "test_no_load_at_all"]
    assert run(installed, *suite, "--policy-option", "max_replicas=2").returncode == 0
    refused = run(installed, *suite, "--policy-option", "max_replicas=-2")
    assert refused.returncode != 0
    assert "give 0 or more" in refused.stdout


def test_the_commands_know_it(installed):
    listed = run(installed, "-m", "ultraep_sim.cli", "policies", "--json")
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert rows["pairwise"]["options"] == {"max_replicas": None}
    assert rows["pairwise"]["never_worse"] is True


def test_it_balances(installed):
    code = """
import numpy as np, ultraep_sim as us
plan = us.plan(np.array([90, 10, 20]), us.EPLayout(3, 3, 1), policy="pairwise")
print(plan.rank_loads.tolist(), plan.num_replicas)
"""
    done = run(installed, "-c", code)
    # 90 | 10 | 20: half of the gap of 80 to rank 1 (50 | 50 | 20), half of the gap of 30 to rank 2
    # (35 | 50 | 35), then rank 1 gives 7 of its own expert to rank 0; no slot is free after that.
    assert done.stdout.strip() == "[42, 43, 35] 3", done.stderr


def test_without_it_nobody_knows_the_name():
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = run(
        env, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "tests/conformance",
        "--policy", "pairwise",
    )  # fmt: skip
    assert done.returncode != 0
    assert "not registered" in done.stdout + done.stderr
