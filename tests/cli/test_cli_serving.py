"""``run`` and ``capacity`` of a serving scenario: data on stdout, the rest beside it."""

from __future__ import annotations

import csv
import json

import pytest

from tests.serving.helpers import tiny


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny(policies=["none", "ideal"]).to_yaml(tmp_path), encoding="utf-8")
    return path


def test_run_serves_and_tells_its_own_rate_beside_the_data(invoke, scenario, tmp_path):
    out = tmp_path / "out"
    answer = invoke("run", str(scenario), "--out", str(out), "--json")
    assert answer.code == 0, answer
    rows = json.loads(answer.out)["rows"]
    assert [row["policy"] for row in rows] == ["none", "ideal"]
    assert "a second)" in answer.err
    assert {p.name for p in out.iterdir()} >= {
        "result.parquet", "requests.parquet", "summary.json", "scenario.yaml", "over_time.png",
        "first_tokens.svg",
    }  # fmt: skip
    assert "a second" not in (out / "summary.json").read_text(encoding="utf-8")


def test_capacity_writes_every_run_of_its_search(invoke, scenario, tmp_path):
    out = tmp_path / "capacity"
    answer = invoke(
        "capacity", str(scenario), "--out", str(out), "--seeds", "2", "--tolerance", "0.3",
        "--set", "serving.slo.ttft_s=0.3", "--no-plots",
    )  # fmt: skip
    assert answer.code == 0, answer
    assert "% of forced balance." in " ".join(answer.out.split())  # it wraps
    with (out / "runs.csv").open(newline="", encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    assert {row["policy"] for row in runs} == {"none", "ideal"}
    assert {row["seed"] for row in runs} == {"0", "1"}
    assert {row["meets"] for row in runs} == {"True", "False"}


def test_a_scenario_that_serves_nothing_has_no_capacity(invoke):
    answer = invoke("capacity", "scenarios/quickstart.yaml")
    assert answer.code == 2
    assert "serving" in answer.err


def test_a_directory_used_again_keeps_nothing_of_the_run_before(invoke, scenario, tmp_path):
    out = tmp_path / "out"
    assert invoke("run", str(scenario), "--out", str(out), "--no-plots").code == 0
    assert (out / "requests.parquet").exists()
    (out / "capacity.png").write_bytes(b"old")
    small = [
        "--set", "workload.steps=[0,2]", "--set", "engine.warmup=include", "--policy", "none",
    ]  # fmt: skip
    answer = invoke("run", *small, "--out", str(out), "--no-plots")
    assert answer.code == 0, answer
    assert {p.name for p in out.iterdir()} == {"result.parquet", "summary.json", "scenario.yaml"}
