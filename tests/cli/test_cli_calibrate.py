"""``calibrate silicon`` and ``validate silicon`` as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.calibrate.excerpt_path import EXCERPT
from ultraep_sim.calibrate.silicon import tables
from ultraep_sim.model.hardware import GPUS
from ultraep_sim.model.profile_file import read_profile

from .command import assert_one_line_error


def test_a_profile_is_written_that_a_scenario_can_name(invoke, tmp_path):
    file = tmp_path / "h200.yaml"
    answer = invoke(
        "calibrate", "silicon", "--system", "h200", "--tables", EXCERPT, "--out", file, "--json"
    )
    assert answer.code == 0
    told = json.loads(answer.out)
    assert told["inputs"]["files"]
    rack = read_profile(file)
    rate = rack.gpu.expert_forward_TFLOPs
    assert rate.provenance == "fitted"
    assert 0.8 * rate.value < rate.low < rate.value <= rate.high <= 989
    for what in ("expert", "attention"):  # no backward row was read: the preset's ratio
        names = [f"{what}_{way}_TFLOPs" for way in ("forward", "backward")]
        (forward, backward), (before, partner) = (
            [getattr(gpu, name) for name in names] for gpu in (rack.gpu, GPUS["h200"])
        )
        assert forward.value != before.value
        assert backward.value / forward.value == pytest.approx(partner.value / before.value)
        assert backward.provenance == "assumed"
        assert backward.low < backward.value < backward.high <= 989
        assert set(forward.shared) < set(backward.shared)
    assert rack.alltoall_backward_GBps.provenance == "assumed"
    assert rack.alltoall_backward_GBps.shared == rack.alltoall_forward_GBps.shared
    assert told["fits"]["grouped_gemm_bf16"]["residuals"]["cross_validated"]["rows"] > 100
    scenario = Path(__file__).parents[2] / "scenarios" / "quickstart.yaml"
    run = invoke("run", scenario, "--set", f"rack={file}", "--out", tmp_path / "out", "--json")
    assert run.code == 0, run.err
    resolved = (tmp_path / "out" / "scenario.yaml").read_text()
    assert "moe_perf (trtllm, bf16, balanced)" in resolved


def test_same_tables_give_the_same_bytes(invoke, tmp_path):
    files = [tmp_path / name for name in ("a.yaml", "b.yaml")]
    for file in files:
        invoke("calibrate", "silicon", "--system", "h200", "--tables", EXCERPT, "--out", file)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setattr(tables, "DISTRIBUTION", "no-such-package-here")
    monkeypatch.delenv(tables.DIRECTORY, raising=False)


@pytest.mark.usefixtures("absent")
def test_absent_tables_say_what_to_install(invoke):
    for command in (("calibrate", "silicon", "--system", "h200"), ("validate", "silicon")):
        assert_one_line_error(invoke(*command), "pip install 'ultraep-sim[silicon]'")


def test_bad_options_are_named(invoke, tmp_path):
    assert_one_line_error(invoke("calibrate", "gold"), "MEASUREMENTS", "'gold'")
    assert_one_line_error(invoke("calibrate", "silicon"), "--system", "h200")
    answer = invoke("calibrate", "silicon", "--system", "h800", "--tables", EXCERPT)
    assert_one_line_error(answer, "'h800'", "gb300")
    ours = ("calibrate", "silicon", "--tables", EXCERPT, "--system")
    answer = invoke(*ours, "h200", "--framework", "foo")
    assert_one_line_error(answer, "--framework", "'foo'", "one of trtllm, vllm, sglang")
    for absent_here in ("b200", "gb200"):
        answer = invoke(*ours, absent_here)
        assert_one_line_error(answer, "no such table", "for h200, gb300; name")
        assert "pip install" not in answer.err
    answer = invoke(*ours, "h200", "--framework", "vllm")
    assert_one_line_error(answer, "no such table", "for no system")
    answer = invoke("calibrate", "silicon", "--system", "h200", "--tables", tmp_path)
    assert_one_line_error(answer, "no kernel tables")
    assert_one_line_error(invoke("validate", "planner", "--tables", tmp_path), "--tables")


def test_the_suite_prints_rows_and_draws(invoke, tmp_path):
    plot = tmp_path / "silicon"
    answer = invoke("validate", "silicon", "--quick", "--tables", EXCERPT, "--plot", plot)
    assert answer.code == 0, answer.err
    assert "2 of 2 sets are good" in answer.out
    assert "h200/sglang/deepepmoe/deepseek-v3-671b/fp8_block" in answer.out
    assert plot.with_suffix(".png").stat().st_size > 10_000
    assert plot.with_suffix(".svg").is_file()
    assert plot.with_name("silicon-h200.png").stat().st_size > 10_000


def test_residuals_of_the_tables_are_drawn(invoke, tmp_path):
    plot = tmp_path / "residuals"
    answer = invoke(
        "calibrate", "silicon", "--system", "h200", "--tables", EXCERPT, "--plot", plot, "--json"
    )
    assert answer.code == 0, answer.err
    assert plot.with_suffix(".png").stat().st_size > 10_000
    assert plot.with_suffix(".svg").is_file()


def test_a_broken_threshold_is_an_exit_code(invoke, monkeypatch):
    from ultraep_sim.validate import silicon

    monkeypatch.setattr(silicon, "THRESHOLDS", {"power_law_inside_band": 0.999})
    answer = invoke("validate", "silicon", "--quick", "--tables", EXCERPT, "--json")
    assert answer.code == 1
    assert "broken threshold: power_law_inside_band" in answer.err
    assert json.loads(answer.out)["broken"]
