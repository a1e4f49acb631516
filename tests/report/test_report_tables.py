from __future__ import annotations

import io

import pytest
from rich.console import Console

from ultraep_sim.report.tables import cells, finding, markdown_table, results_table, title_of


def row(policy: str, imbalance: float, ms: float, none: float = 30.0, ideal: float = 20.0) -> dict:
    return {
        "policy": policy, "mean_rank_imbalance": imbalance, "p99_rank_imbalance": imbalance + 0.1,
        "layer_time_ms": ms, "fraction_of_ideal": ideal / ms, "speedup_over_none": none / ms,
        "exposed_overhead_us_per_layer": 12.34, "replicas_per_plan": 7.0,
        "activation_peak_ratio": 1.5,
    }  # fmt: skip


ROWS = [row("none", 2.5, 30), row("eplb", 1.5, 25), row("ultraep", 1.01, 21), row("ideal", 1, 20)]


def text(rows: list[dict]) -> list[str]:
    console = Console(file=io.StringIO(), width=140, markup=False)
    console.print(results_table(rows))
    return console.file.getvalue().splitlines()


def test_columns_are_aligned_and_headers_carry_units():
    lines = text(ROWS)
    head = next(line for line in lines if "[ms]" in line)
    for unit in ("[max/mean]", "[%]", "[x]", "[us/layer]", "[per plan]", "[x ideal]"):
        assert unit in head
    body = [line for line in lines if line.strip().startswith(("none", "eplb", "ultra", "ideal"))]
    assert len(body) == 4
    end = head.index("[ms]") + len("[ms]")
    for line, ms in zip(body, ("30.000", "25.000", "21.000", "20.000"), strict=True):
        assert line[:end].endswith(ms)  # right-aligned under its unit


def test_a_label_is_text_whatever_it_holds():
    assert any("[red]x" in line for line in text([row("[red]x", 1.1, 20)]))


def test_absent_numbers_are_dashes():
    absent = dict(ROWS[2], fraction_of_ideal=None, speedup_over_none=None)
    assert cells(absent).count("-") == 2


def test_markdown_shows_the_same_cells():
    lines = markdown_table(ROWS).splitlines()
    assert len(lines) == 6
    assert lines[4] == "| " + " | ".join(cells(ROWS[2])) + " |"


@pytest.mark.parametrize(
    ("rows", "needles"),
    [
        (ROWS, ["ultraep is the fastest", "2.50 to 1.010", "30.00 to 21.00 ms", "1.43x", "95.2 %"]),
        (ROWS[2:], ["ultraep is the fastest", "1.010", "21.000 ms", "95.2 %"]),
        ([ROWS[0], row("eplb", 1.5, 31)], ["No policy pays", "30.000 ms", "eplb, 31.000 ms"]),
        ([*ROWS, row("slow", 1.2, 44)], ["ultraep is the fastest", "slower", "slow"]),
        (ROWS[:1], ["Without balancing", "2.50"]),
        (ROWS[3:], ["Only the ideal"]),
    ],
)
def test_the_finding_is_computed_from_the_rows(rows, needles):
    sentence = finding(rows)
    assert sentence.endswith(".")
    for needle in needles:
        assert needle in sentence


def test_labels_do_not_hide_which_policy_is_the_base():
    rows = [row("as is", 2.5, 30), row("fast", 1.1, 22)]
    assert "fast is the fastest" in finding(rows, {"as is": "none", "fast": "ultraep"})


def test_the_title_tells_a_changed_preset():
    scenario = {"name": "s", "model": "m", "rack": "r", "ep": {"ranks": 8, "slots_per_rank": 1}}
    assert title_of(scenario) == "s: m, EP8, 1 redundant slots a rank, on r"
    changed = dict(scenario, rack={"preset": "r", "overrides": {"x": 1}})
    assert title_of(changed).endswith("on r (changed)")
