"""The page of a sweep in a real browser: it draws what was found, and asks for nothing."""

from __future__ import annotations

import csv
import io

import pytest

from ultraep_sim.report.sweep_compare import compare, write_comparison
from ultraep_sim.report.sweep_report import write_report
from ultraep_sim.report.sweep_table import SweepTable
from ultraep_sim.report.sweep_text import use

from .sweep_rows import AXES, hand_made, row


@pytest.fixture
def page(visit, tmp_path):
    return visit(write_report(rows(), AXES, tmp_path / "out", question="Which slots?")[0])


def rows():
    """The hand-made rows in two seeds that keep all differences, and a second metric."""
    return [
        one
        | {"seed": seed, "iteration_ms": one["iteration_ms"] * (1 + seed), "replicas_per_plan": n}
        for seed in (0, 1)
        for n, one in enumerate(hand_made())
    ]


def text(page, selector) -> str:
    return page.locator(selector).text_content()


def texts(page, selector) -> list[str]:
    return [one.strip() for one in page.locator(selector).all_text_contents()]


def saved(page, figure):
    with page.expect_download() as waiting:
        page.click(f'button[data-figure="{figure}"]')
    name = waiting.value.path()
    assert waiting.value.suggested_filename == f"{figure}.csv"
    return list(csv.DictReader(io.StringIO(name.read_text())))


def test_the_map_has_every_winner_with_its_margin(page) -> None:
    assert text(page, "#advice") == use(SweepTable(rows(), AXES))
    cells = page.locator("#map .cell")
    labels = [cells.nth(i).get_attribute("aria-label") for i in range(cells.count())]
    assert labels == [
        "slots 1, load calm: a, 9.1 % [9.1 % to 9.1 %] better than b",
        "slots 1, load wild: b, 20 % [20 % to 20 %] better than a",
        "slots 2, load calm: a, 5 % [5 % to 5 %] better than b",
        "slots 2, load wild: b, 20 % [20 % to 20 %] better than a",
    ]


def test_a_click_chooses_a_point_and_a_pointer_reads_it(page) -> None:
    cell = page.locator('#map .cell[aria-label^="slots 1, load wild"]')
    cell.hover()
    assert "b, 20 %" in text(page, "#readout")
    cell.click()
    assert text(page, "#point-title").startswith("At slots 1, load wild: b, 20 %")
    assert texts(page, "#point tbody th") == ["ideal (a bound)", "b", "a", "none"]
    assert texts(page, "#point tbody tr:nth-child(2) td") == ["192 [134.4 to 249.6]", "110"]
    assert page.input_value('[data-axis="1"]') == "1"
    assert "along slots, load wild" in text(page, "#curves-title")
    assert page.evaluate("viewer.chart.data[0]") == [1, 2]
    page.focus('#map .cell[aria-label^="slots 2, load calm"]')
    page.keyboard.press("Enter")
    assert text(page, "#point-title").startswith("At slots 2, load calm")


def test_curves_have_bands_and_the_pointer_reads_them(page) -> None:
    series = page.evaluate("viewer.chart.data.slice(1).map((one) => [...one])")
    # Center, upper and lower edge of each policy; of none first: 200 and 400 in the two seeds.
    assert series[0] == [300, 300]
    assert (series[1][0], series[2][0]) == (390, 210)
    page.locator("#curves").scroll_into_view_if_needed()
    box = page.locator("#curves .u-over").bounding_box()
    page.mouse.move(box["x"] + 0.03 * box["width"], box["y"] + box["height"] / 2)
    page.wait_for_function(
        "document.querySelector('#readout').textContent.startsWith('slots 1: none 300')"
    )


def test_another_metric_changes_every_figure(page) -> None:
    page.select_option("#metric", "replicas_per_plan")
    assert page.locator('#map .cell[aria-label*="none, "]').count() == 4
    assert "replicas_per_plan" in text(page, "#curves-title")
    assert texts(page, "#point thead th")[1] == "replicas_per_plan"


def test_axes_are_exchanged_and_lines_chosen(page) -> None:
    page.select_option("#x-axis", "1")
    assert texts(page, "#map text.soft") == ["slots 1", "slots 2", "calm", "wild"]
    assert page.evaluate("viewer.chart.data[0]") == [0, 1]  # names have places
    page.select_option('[data-axis="0"]', label="2")
    assert "slots 2" in text(page, "#curves-title")


def test_losses_of_every_kind_of_choice(page) -> None:
    assert texts(page, "#regret .bar-line text:nth-of-type(1)") == ["b", "a", "none"]
    page.select_option("#family", "slots")
    assert texts(page, "#regret .bar-line text:nth-of-type(1)") == ["slots 2", "slots 1"]
    page.locator("#regret .bar-line").nth(1).hover()
    assert "slots 1: loses 6 %" in text(page, "#readout")


def test_the_front_is_drawn_and_read(page) -> None:
    assert page.locator("#pareto .mark").count() == 6
    page.locator("#pareto .mark").last.hover()
    assert "of the best choice with" in text(page, "#readout")


def test_the_table_is_sorted_filtered_and_turned(page) -> None:
    count = "#rows .rows-bar .quiet"
    assert text(page, count) == "rows 1 to 32 of 32"
    page.fill("#rows input", "policy=a seed=0")
    assert text(page, count) == "rows 1 to 4 of 4 (32 in all)"
    heads = texts(page, "#rows thead th")
    column = heads.index("iteration_ms")
    page.locator("#rows thead th").nth(column).click()
    page.locator("#rows thead th").nth(column).click()
    assert texts(page, f"#rows tbody td:nth-child({column + 1})") == ["160", "150", "100", "95"]
    assert len(saved(page, "rows")) == 4
    page.fill("#rows input", "nothing like it")
    assert text(page, count) == "no row (32 in all)"


@pytest.mark.parametrize(
    ("figure", "number", "columns"),
    [
        ("map", 4, {"slots", "load", "winner", "margin_percent", "p5", "p95"}),
        ("point", 4, {"policy", "value", "p5", "p95", "memory_GB"}),
        ("curves", 8, {"slots", "policy", "value", "p5", "p95"}),
        ("regret", 3, {"choice", "mean_loss_percent", "p90_loss_percent", "worst_loss_percent"}),
        ("pareto", 6, {"choice", "memory_GB", "throughput_percent_of_best", "on_front"}),
    ],
)
def test_every_figure_gives_its_data(page, figure, number, columns) -> None:
    found = saved(page, figure)
    assert len(found) == number
    assert columns <= set(found[0])


@pytest.mark.parametrize(
    ("rows", "axes"),
    [
        ([row("a", 1.0)], []),
        ([row("a", None, x=1), row("b", float("nan"), x=2)], ["x"]),
        ([row("a", 1.0, x=1, fits=False, memory_GB=9.0)], ["x"]),
        ([row("ideal", 1.0, x=1)], ["x"]),
        ([row(p, 1.0, x=x, y=y) for p in "ab" for x, y in ((1, "u"), (2, "v"))], ["x", "y"]),
    ],
)
def test_odd_sweeps_are_drawn(visit, tmp_path, rows, axes) -> None:
    page = visit(write_report(rows, axes, tmp_path / "out")[0])
    assert page.is_hidden("#failure")
    assert page.locator("#map .cell").count() == len({tuple(r[a] for a in axes) for r in rows})


def test_a_hostile_name_is_only_text(visit, tmp_path) -> None:
    evil = "</script><script>alert(1)</script><img src=http://example.invalid/x onerror=alert(2)>"
    made = [row(p, v, **{evil: x}) for p, v in ((evil, 1.0), ("b", 2.0)) for x in (evil, "y")]
    page = visit(write_report(made, [evil], tmp_path / "out", question=evil, notes=[evil])[0])
    assert evil in text(page, "h1")
    assert page.locator("img").count() == 0
    other = visit(write_comparison(compare(made, made[1:], [evil], names=(evil, "b")), tmp_path)[0])
    assert evil in text(other, "h1")


def test_two_sweeps_side_by_side(visit, tmp_path) -> None:
    second = [one | {"iteration_ms": one["iteration_ms"] * (2 if one["policy"] == "a" else 1)}
              for one in rows()[:-1]]  # fmt: skip
    found = compare(rows(), second, AXES, names=("old", "new"))
    page = visit(write_comparison(found, tmp_path)[0])
    assert page.locator("#strips .mark").count() == 8
    page.locator("#strips .mark").last.hover()
    assert text(page, "#readout").endswith("+100 %")
    assert text(page, "#changes .quiet") == "rows 1 to 8 of 8"
    assert page.locator("#winners tbody tr").count() == 2
    assert page.locator("#only-first tbody tr").count() == 1
    assert text(page, "#only-second") == "None."
    page.select_option("#metric", "memory_GB")
    assert text(page, "#strips") == "memory_GB differs in no row."
    assert len(saved(page, "winners")) == 2
