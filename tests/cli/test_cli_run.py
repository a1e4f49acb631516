from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ultraep_sim.report.plots import PLOTS
from ultraep_sim.report.tables import cells
from ultraep_sim.scenario import load_scenario

from .command import ROOT, assert_one_line_error, ultraep_sim

SMALL = """\
name: small
model: qwen3-30b
rack: paper-rack64
ep: {ranks: 8, slots_per_rank: 2}
workload:
  synthetic: {imbalance: 1.8, layers: 2, steps: 8, drift: 0.1}
  tokens_per_rank: 8192
policies: [none, {name: eplb, label: e2, cadence_steps: 2}, ultraep, ideal]
"""
ROW = ["policy", "mean_rank_imbalance", "p99_rank_imbalance", "layer_time_ms", "fraction_of_ideal"]
ROW += ["speedup_over_none", "exposed_overhead_us_per_layer", "replicas_per_plan"]
ROW += ["activation_peak_ratio"]


@pytest.fixture
def small(tmp_path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return file


def test_json_alone_stands_on_stdout(small, tmp_path):
    answer = ultraep_sim("run", small, "--json", "--no-plots", cwd=tmp_path)
    assert answer.code == 0, answer.err
    data = json.loads(answer.out)
    assert list(data) == ["scenario", "rows"]
    assert data["scenario"]["name"] == "small"
    assert [row["policy"] for row in data["rows"]] == ["none", "e2", "ultraep", "ideal"]
    assert all(list(row) == ROW for row in data["rows"])
    assert "runs/small" in answer.err  # the default directory, told on stderr
    assert (tmp_path / "runs" / "small" / "summary.json").is_file()


def test_a_run_writes_results_plots_and_a_scenario_that_reloads(small, tmp_path, invoke):
    out = tmp_path / "deep" / "out"
    answer = invoke("run", small, "--out", out)
    assert answer.code == 0, answer.err
    table = pq.read_table(out / "result.parquet")
    assert table.num_rows == 4 * 2 * 8
    summary = json.loads((out / "summary.json").read_text())
    assert [row["policy"] for row in summary["rows"]] == ["none", "e2", "ultraep", "ideal"]
    assert load_scenario(out / "scenario.yaml").model_dump() == load_scenario(small).model_dump()
    for name in PLOTS:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / f"{name}.svg").read_text()


def test_the_table_has_units_a_label_and_a_finding(small, tmp_path, invoke):
    answer = invoke("run", small, "--out", tmp_path / "o", "--no-plots")
    for text in ("[max/mean]", "[ms]", "[us/layer]", "[%]", "SYNTHETIC", "is the fastest"):
        assert text in answer.out, answer.out


@pytest.mark.parametrize("columns", ["20", "80", "110", "300"])
def test_no_number_is_cut_however_narrow_the_terminal(
    columns, small, tmp_path, invoke, monkeypatch
):
    monkeypatch.setenv("COLUMNS", columns)
    sets = ["--set", f"policies.1.label={'long' * 10}", "--set", "ep.ranks=64"]
    out = invoke("run", small, *sets, "--out", tmp_path / "o", "--no-plots").out
    assert "…" not in out
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    lines = out.splitlines()
    for row in summary["rows"]:
        assert any(line.split() == cells(row) for line in lines), (row, out)


def test_the_same_run_gives_the_same_bytes(small, tmp_path, invoke):
    for name in ("a", "b"):
        assert invoke("run", small, "--out", tmp_path / name).code == 0
    for file in ("result.parquet", *(f"{name}.png" for name in PLOTS), "imbalance.svg"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_policies_can_be_picked_by_name_or_label(small, tmp_path, invoke):
    out = ["--out", tmp_path / "o", "--no-plots", "--json"]
    data = json.loads(invoke("run", small, "--policy", "eplb", "--policy", "ideal", *out).out)
    assert [row["policy"] for row in data["rows"]] == ["e2", "ideal"]
    assert data["rows"][1]["speedup_over_none"] > 1  # the reference is run all the same
    data = json.loads(invoke("run", small, "--policy", "e2", *out).out)
    assert [row["policy"] for row in data["rows"]] == ["e2"]
    answer = invoke("run", small, "--policy", "ultrep", *out)
    assert_one_line_error(answer, "--policy", "'ultrep'", "did you mean 'ultraep'")


def test_set_reaches_the_run(small, tmp_path, invoke):
    sets = ["--set", "ep.slots_per_rank=0", "--set", "policies=[ultraep]"]
    answer = invoke("run", small, *sets, "--out", tmp_path / "o", "--no-plots", "--json")
    data = json.loads(answer.out)
    assert data["scenario"]["ep"]["slots_per_rank"] == 0
    assert data["rows"][0]["replicas_per_plan"] == 0


def test_plots_of_an_earlier_run_do_not_stay(small, tmp_path, invoke):
    out = tmp_path / "o"
    invoke("run", small, "--out", out)
    invoke("run", small, "--out", out, "--no-plots")
    assert not list(out.glob("*.png"))


@pytest.mark.parametrize(
    ("old", "new", "needles"),
    [
        ("slots_per_rank", "slots_per_rnk", ["line 4", "slots_per_rnk", "(got 2)", "did you mean"]),
        ("ranks: 8", "ranks: eight", ["line 4", "ep.ranks", "'eight'", "whole number"]),
        ("slots_per_rank: 2", "slots_per_rank: 999", ["line 4", "999", "give 0 to 128"]),
        ("tokens_per_rank: 8192", "tokens_per_rank: 0", ["line 7", "tokens_per_rank", "(got 0)"]),
        (
            "ultraep",
            "ultraeep",
            ["line 8", "policies.2.name", "'ultraeep'", "did you mean ultraep"],
        ),
        (
            "synthetic: {imbalance: 1.8, layers: 2, steps: 8, drift: 0.1}",
            "trace: nowhere/t.parquet",
            [
                "line 6",
                "workload.trace",
                "nowhere/t.parquet",
                "(got 't.parquet')",
                "give an existing trace",
            ],
        ),
    ],
)
def test_a_bad_scenario_is_one_line(old, new, needles, tmp_path, invoke):
    file = tmp_path / "bad.yaml"
    file.write_text(SMALL.replace(old, new, 1))
    answer = invoke("run", file, "--out", tmp_path / "o")
    assert_one_line_error(answer, "bad.yaml", "; ", *needles)
    assert not (tmp_path / "o").exists()


def test_a_truncated_trace_is_one_line(tmp_path, invoke):
    from ultraep_sim.trace import Trace, TraceMeta

    meta = TraceMeta(
        model="toy", num_experts=128, top_k=8, num_layers=1, source_ranks=1, tokens_per_rank=64,
        phase="training", recorded="by hand", synthetic=True,
    )  # fmt: skip
    counts = [[[4] * 128]]
    Trace.from_arrays(meta, [0], [0], [0], counts).write(tmp_path / "t.parquet")
    file = tmp_path / "s.yaml"
    file.write_text(
        SMALL.replace(
            "synthetic: {imbalance: 1.8, layers: 2, steps: 8, drift: 0.1}", "trace: t.parquet"
        )
    )
    whole = (tmp_path / "t.parquet").read_bytes()
    for cut in (0, 3, len(whole) // 2, len(whole) - 5):
        (tmp_path / "t.parquet").write_bytes(whole[:cut])
        answer = invoke("run", file, "--out", tmp_path / "o")
        assert_one_line_error(answer, "t.parquet", "; ")


def test_what_fails_only_when_it_runs_names_the_scenario_too(tmp_path, invoke):
    file = tmp_path / "large.yaml"
    file.write_text(SMALL.replace("qwen3-30b", "deepseek-v3-671b"))
    answer = invoke("run", file, "--out", tmp_path / "o")
    assert_one_line_error(answer, "large.yaml", "GB", "; use fewer slots")


def test_a_wrong_out_fails_before_the_work(small, tmp_path, invoke):
    (tmp_path / "file").write_text("x")
    answer = invoke("run", small, "--out", tmp_path / "file")
    assert_one_line_error(answer, "file", "--out", "name a directory")
    answer = invoke("run", small, "--out", tmp_path / "file" / "below")
    assert_one_line_error(answer, "file", "check the path")


def test_an_empty_path_is_not_the_current_directory(small, invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = invoke("run", small, "--out", "")
    assert_one_line_error(answer, "--out", "empty path", "''", "name a directory")
    answer = invoke("run", "")
    assert_one_line_error(answer, "SCENARIO", "empty path", "''", "name a YAML file")
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    ("old", "new", "needles"),
    [
        ("imbalance: 1.8", "imbalance: 100", ["workload.synthetic.imbalance", "(got 100.0)"]),
        ("ranks: 8,", "ranks: 1,", ["ep.ranks: ranks must be", "(got 1)", "change ranks"]),
    ],
)
def test_a_workload_that_cannot_be_drawn_names_the_key(old, new, needles, tmp_path, invoke):
    file = tmp_path / "drawn.yaml"
    file.write_text(SMALL.replace(old, new))
    answer = invoke("run", file, "--out", tmp_path / "o", "--no-plots")
    assert_one_line_error(answer, "drawn.yaml: ", *needles)
    assert "synthesize" not in answer.err


def test_a_missing_scenario_suggests_one(tmp_path, invoke, small):
    answer = invoke("run", tmp_path / "smal.yaml")
    assert_one_line_error(answer, "smal.yaml", "no such scenario", "did you mean", "small.yaml")


@pytest.mark.parametrize("seconds", [0.0, 0.4, 3.0])
def test_ctrl_c_is_clean_while_importing_and_while_working(seconds, tmp_path):
    file = tmp_path / "long.yaml"
    file.write_text(SMALL.replace("steps: 8", "steps: 20000"))
    process = subprocess.Popen(
        [sys.executable, "-m", "ultraep_sim.cli", "run", str(file), "--out", str(tmp_path / "o")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        # The directory appears when the work begins; interrupt well inside it.
        while not (tmp_path / "o").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert not (tmp_path / "o" / "summary.json").exists()


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "ultraep_sim.cli", "policies", "--json"],
            stdout=closed, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 1


def test_help_teaches_with_examples():
    for command in ("run", "plan", "policies", "doctor", "trace info"):
        answer = ultraep_sim(*command.split(), "--help")
        assert answer.code == 0
        assert f"  ultraep-sim {command}" in answer.out, answer.out
        assert answer.out.count("\n  -") < 25
    bare = ultraep_sim()
    assert bare.code == 0
    for command in ("run", "plan", "trace", "policies", "doctor"):
        assert f"\n  {command} " in bare.out


def test_a_wrong_command_is_one_line(invoke):
    assert_one_line_error(invoke("rn"), "'rn'", "--help")
    assert_one_line_error(invoke("trace", "inf"), "'inf'", "--help")
    assert_one_line_error(invoke("--nope"), "--nope", "--help")


def test_the_version_is_the_package_version(invoke):
    from importlib.metadata import version

    assert invoke("--version").out == f"ultraep-sim {version('ultraep-sim')}\n"


def test_help_needs_no_heavy_import():
    code = (
        "import sys; import ultraep_sim.cli; "
        "print([m for m in ('numba', 'pyarrow', 'matplotlib', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert ROOT.is_dir()
