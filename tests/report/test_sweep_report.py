from __future__ import annotations

import csv
import hashlib
import html
import json
import re

import pytest

from ultraep_sim.errors import InputError
from ultraep_sim.report.sweep_report import write_report
from ultraep_sim.sweep.report_spec import ReportSpec

from .sweep_rows import AXES, hand_made, row

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'& {{data}} $\\frac$"


def report(tmp_path, rows=None, axes=AXES, **named):
    files = write_report(hand_made() if rows is None else rows, axes, tmp_path / "out", **named)
    return {file.name: file for file in files}


def read(file):
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def test_everything_is_written(tmp_path) -> None:
    files = report(tmp_path, question="Which slots?", notes=["mind the gap"])
    figures = {
        f"{n}.{s}" for n in ("winners", "curves", "regret", "pareto") for s in ("png", "svg")
    }
    data = {f"{n}.csv" for n in ("winners", "curves", "regret", "pareto", "rows")}
    assert set(files) == figures | data | {"report.html", "findings.md"}
    assert all(file.stat().st_size for file in files.values())
    text = files["findings.md"].read_text()
    assert text.startswith("# Which slots?\n")
    assert "- mind the gap" in text
    assert text.rstrip().splitlines()[-1].startswith("**Use b with slots 2. It is 7.4 % better")


def test_the_data_behind_the_figures_are_the_findings(tmp_path) -> None:
    files = report(tmp_path)
    first = next(r for r in read(files["winners.csv"]) if r["metric"] == "iteration_ms")
    assert (first["slots"], first["load"], first["winner"], first["runner_up"]) == (
        "1",
        "calm",
        "a",
        "b",
    )
    assert float(first["margin_percent"]) == pytest.approx(100 / 11)
    assert {r["chosen"] for r in read(files["regret.csv"])} == {"policy", "slots", "policy + slots"}
    assert len(read(files["rows.csv"])) == 16


def test_the_same_rows_give_the_same_bytes(tmp_path) -> None:
    def digests():
        return {
            name: hashlib.sha256(file.read_bytes()).hexdigest()
            for name, file in report(tmp_path).items()
        }

    assert digests() == digests()


def test_figures_of_an_earlier_sweep_do_not_stay(tmp_path) -> None:
    assert (report(tmp_path)["pareto.svg"]).exists()
    files = report(tmp_path, [row("a", 1.0, x=0), row("b", 2.0, x=1)], ["x"])
    assert "pareto.svg" not in files
    assert not (tmp_path / "out" / "pareto.svg").exists()


@pytest.mark.parametrize(
    ("rows", "axes"),
    [
        ([row("a", 1.0)], []),
        ([row("a", 1.0 + s, seed=s) for s in range(3)], []),
        ([row("a", None, x=1), row("b", float("nan"), x=2)], ["x"]),
        ([row("a", 1.0, x="one"), row("a", 2.0, x=None)], ["x"]),
        ([row("a", 1.0, x=1, fits=False, memory_GB=9.0)], ["x"]),
        ([row("ideal", 1.0, x=1)], ["x"]),
        ([row(p, -1.0 * x, x=x, memory_GB=5) for p in "ab" for x in (1, 2)], ["x"]),
        ([row("a", 1.0, x=i, y=i % 7, z=str(i % 5)) for i in range(70)], ["x", "y", "z"]),
    ],
)  # fmt: skip
def test_odd_sweeps_are_reported(tmp_path, rows, axes) -> None:
    assert report(tmp_path, rows, axes)["report.html"].stat().st_size > 10_000


def test_a_hostile_name_is_only_text(tmp_path) -> None:
    rows = [row(p, v, **{EVIL: 1, "x": EVIL}) for p, v in ((EVIL, 1.0), ("none", 2.0))]
    page = report(tmp_path, rows, [EVIL, "x"], question=EVIL, notes=[EVIL])[
        "report.html"
    ].read_text()
    assert "<script>alert" not in page
    assert "<img" not in page
    manifest = re.search(r'id="manifest">(.*?)</script>', page, re.DOTALL)
    assert json.loads(manifest[1])["axes"][0]["name"] == EVIL


def test_the_page_and_the_text_agree(tmp_path) -> None:
    files = report(tmp_path)
    page = files["report.html"].read_text()
    for line in files["findings.md"].read_text().splitlines():
        if line.startswith("- "):
            assert html.escape(line[2:]) in page


def test_the_title_is_the_specs(tmp_path) -> None:
    page = report(tmp_path, spec=ReportSpec(title="Mine"), question="q")["report.html"].read_text()
    assert "<title>Mine</title>" in page


def test_no_rows_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="there are no rows to report"):
        report(tmp_path, [])


def test_progress_ends_at_its_total(tmp_path) -> None:
    seen = []
    report(tmp_path, progress=lambda *told: seen.append(told))
    assert seen[-1] == ("report", 6, 6)
    assert [done for _, done, _ in seen] == [1, 2, 3, 4, 5, 6]
