"""``calibrate`` with a log: options, errors, and what a run makes of the profile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ultraep_sim.calibrate.runlog.synthetic import Truth, synthetic_log, to_csv
from ultraep_sim.trace import Trace, TraceMeta

from .command import assert_one_line_error

CONTEXT = ("--rack", "gb200-nvl72", "--model", "qwen3-235b")


@pytest.fixture
def log(tmp_path):
    file = tmp_path / "steps.csv"
    file.write_text(to_csv(synthetic_log(Truth(), 0, ("experts", "dispatch")), "SYNTHETIC"))
    return file


def test_the_profile_of_a_log_runs(invoke, log, tmp_path):
    out = tmp_path / "mine.yaml"
    answer = invoke("calibrate", log, *CONTEXT, "--out", out, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["inputs"]["files"]["steps.csv"] in out.read_text()
    assert told["fits"]["experts"]["log_covariance"][0][0] > 0
    scenario = Path(__file__).parents[2] / "scenarios" / "quickstart.yaml"
    run = invoke("run", scenario, "--set", f"rack={out}", "--out", tmp_path / "run")
    assert run.code == 0, run.err
    assert "experts of the log, median rank" in (tmp_path / "run" / "scenario.yaml").read_text()


def test_same_log_same_bytes(invoke, log, tmp_path):
    files = [tmp_path / name for name in ("a.yaml", "b.yaml")]
    for file in files:
        assert invoke("calibrate", log, *CONTEXT, "--out", file).code == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_without_a_rack_there_are_times_per_pair_and_no_profile(invoke, log, tmp_path):
    answer = invoke("calibrate", log)
    assert answer.code == 0
    assert "pair_ns" in answer.out
    assert_one_line_error(invoke("calibrate", log, "--out", tmp_path / "x.yaml"), "--rack")
    assert not (tmp_path / "x.yaml").exists()


def test_loads_come_from_a_trace(invoke, tmp_path):
    meta = TraceMeta(
        model="toy", num_experts=8, top_k=1, num_layers=1, source_ranks=1, tokens_per_rank=4000,
        phase="prefill", recorded="by hand", synthetic=True,
    )  # fmt: skip
    steps = range(40)
    loads = [[[100 * (s + 1), 0, 900, 0, 4000 - 100 * s, 0, 700, 30 * s]] for s in steps]
    Trace.from_arrays(meta, list(steps), [0] * 40, [0] * 40, loads).write(tmp_path / "t.parquet")
    lines = ["step,rank,kind,ms"]
    for s in steps:
        pairs = [100 * (s + 1), 900, 4000 - 100 * s, 700 + 30 * s]
        lines += [f"{s},{r},dispatch,{0.02 + n * 3e-5:.6f}" for r, n in enumerate(pairs)]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    answer = invoke("calibrate", tmp_path / "log.csv", "--trace", tmp_path / "t.parquet", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["fits"]["dispatch"]["values"]["pair_ns"]["value"] == pytest.approx(30, rel=0.01)
    assert set(told["inputs"]["files"]) == {"log.csv", "trace"}
    answer = invoke("calibrate", tmp_path / "log.csv")
    assert_one_line_error(answer, "no good row is left", "missing_load", "--trace")


@pytest.mark.parametrize(
    ("options", "needles"),
    [
        (("--rack", "gb200-nvl72"), ("--model", "rack and model go together")),
        (("--model", "qwen3-235b"), ("--rack", "rack and model go together")),
        ((*CONTEXT, "--ranks", "1"), ("--ranks", "2 or more")),
        (("--rack", "nvl9000", "--model", "qwen3-235b"), ("unknown rack",)),
        (("--repair", "everything"), ("--repair", "unit_seconds")),
        (("--system", "h200"), ("--system", "an option of silicon")),
        ((*CONTEXT, "--weight-dtype", "int3"), ("unknown dtype",)),
        (("--out", ""), ("--out", "an empty path")),
    ],
)
def test_bad_options_are_named(invoke, log, options, needles):
    assert_one_line_error(invoke("calibrate", log, *options), *needles)


def test_options_of_a_log_mean_nothing_to_others(invoke, tmp_path):
    answer = invoke("calibrate", "silicon", "--system", "h200", "--repair", "unit_seconds")
    assert_one_line_error(answer, "--repair", "leave it out")
    file = tmp_path / "bench.json"
    file.write_text("{}")
    assert_one_line_error(invoke("calibrate", file, "--model", "x"), "--model", "leave it out")
    assert_one_line_error(invoke("calibrate", file), "bench.json", "hw_runtime.bench/2")
