from __future__ import annotations

import json

import pytest

from tests.report.fake_run import write_fake_run
from tests.trace.toys import toy_trace

from .command import assert_one_line_error

SCENARIO = """\
name: tiny
model: {preset: qwen3-30b, num_experts: 16, top_k: 2, layers: 4}
rack: paper-rack64
ep: {ranks: 4, slots_per_rank: 1}
workload:
  synthetic: {imbalance: 1.5, layers: 2, steps: 3}
  phase: prefill
  tokens_per_rank: 256
policies: [none, ultraep]
"""


@pytest.fixture
def trace(tmp_path):
    return toy_trace(steps=4).write(tmp_path / "toy.parquet")


def test_a_trace_becomes_a_page(invoke, trace, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = invoke("report", trace)
    assert answer.code == 0, answer
    assert answer.out == ""
    assert answer.err.startswith("wrote runs/toy.html: 0.1 MB")
    text = (tmp_path / "runs" / "toy.html").read_text()
    for words in ("SYNTHETIC", "replayed on 4 ranks with 2 redundant slots", "After ultraep it is"):
        assert words in text


def test_json_says_what_the_page_holds(invoke, trace, tmp_path) -> None:
    out = tmp_path / "new" / "page.html"
    answer = invoke("report", trace, "--out", out, "--ranks", 2, "--slots", 1, "--json",
                    "--policy", "eplb_plus", "--policy", "ultraep", "--steps", "1:",
                    "--layers", "1:2")  # fmt: skip
    said = json.loads(answer.out)
    assert said["records"] == 6
    assert said["bytes"] == out.stat().st_size
    assert [row["contender"] for row in said["imbalance"]] == ["before", "eplb_plus", "ultraep"]
    assert said["imbalance"][0]["mean"] > said["imbalance"][2]["mean"] >= 1


def test_a_run_becomes_a_page_with_experts(invoke, tmp_path) -> None:
    (tmp_path / "tiny.yaml").write_text(SCENARIO)
    run = tmp_path / "run"
    assert invoke("run", tmp_path / "tiny.yaml", "--out", run, "--no-plots").code == 0
    answer = invoke("report", run)
    assert answer.code == 0, answer
    text = (run / "report.html").read_text()
    assert "Experts of single records: all 6 records, exact." in text
    assert "expert loads are not shown" not in text


def test_a_run_without_its_trace_says_so(invoke, tmp_path) -> None:
    run = write_fake_run(tmp_path / "fake", steps=[0, 1])
    answer = invoke("report", run, "--steps", "1:2")
    assert answer.code == 0, answer
    text = (run / "report.html").read_text()
    assert "expert loads are not shown: " in text
    assert "all 4 records" in text
    assert "SYNTHETIC" in text


@pytest.mark.parametrize(
    ("options", "needles"),
    [
        (["--steps", "9:12"], ["--steps 9:12: the selection leaves no record", "trace info"]),
        (["--steps", "3"], ["--steps: not a range (got '3')", "FIRST:PAST"]),
        (["--layers", "2:2"], ["--layers: an empty range"]),
        (["--out", "page.png"], ["--out: the page is an .html file", "page.html"]),
        (["--out", ""], ["--out: an empty path"]),
        (["--max-mb", "nan"], ["--max-mb: out of range"]),
        (["--policy", "ultrep"], ["unknown policy (got 'ultrep')", "did you mean ultraep"]),
        (["--ranks", "0"], ["num_ranks: out of range"]),
        (["--slots", "9"], ["slots_per_rank: out of range"]),
    ],
)
def test_bad_options_are_one_line(invoke, trace, options, needles) -> None:
    assert_one_line_error(invoke("report", trace, *options), *needles)


def test_what_is_no_trace_and_no_run_is_one_line(invoke, tmp_path) -> None:
    assert_one_line_error(invoke("report", tmp_path / "absent.parquet"), "absent.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    assert_one_line_error(invoke("report", tmp_path / "text.parquet"), "text.parquet")
    assert_one_line_error(invoke("report", tmp_path), "summary.json", "`ultraep-sim run` wrote")
    assert_one_line_error(invoke("report", ""), "TRACE_OR_RUN: an empty path")


def test_where_nothing_can_be_written_is_one_line(invoke, trace, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    assert_one_line_error(invoke("report", trace, "--out", tmp_path / "file" / "a.html"), "file")
    (tmp_path / "folder.html").mkdir()
    answer = invoke("report", trace, "--out", tmp_path / "folder.html")
    assert_one_line_error(answer, "--out", "load.html")


def test_a_run_takes_no_options_of_a_replay(invoke, tmp_path) -> None:
    run = write_fake_run(tmp_path / "fake", steps=[0])
    answer = invoke("report", run, "--ranks", 8)
    assert_one_line_error(answer, "--ranks: a run directory is shown as it was recorded (got 8)")
