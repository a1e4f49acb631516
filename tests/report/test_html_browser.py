"""The load viewer in a real browser: it draws, zooms and drills down, and asks for nothing."""

from __future__ import annotations

import itertools

import pytest

from tests.trace.toys import toy_trace
from ultraep_sim.engine.watch import watch_trace
from ultraep_sim.planning import EPLayout
from ultraep_sim.policies import plan

from .view_cases import LAYOUT, META, page_of, view_of


@pytest.fixture(scope="module")
def view():
    return view_of()


@pytest.fixture
def open_page(visit, tmp_path):
    """Open the page of a view, as `visit` does."""
    number = itertools.count()

    def open_it(view, **changes):
        file = page_of(tmp_path / f"{next(number)}.html", view, **changes).file
        return visit(file, downloads=False)

    return open_it


def text(page, selector) -> str:
    return page.locator(selector).text_content()


def drag(page, selector, start, stop) -> None:
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(f"{selector} .u-over").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + stop * box["width"], y, steps=5)
    page.mouse.up()


def windows(page):
    """Return the x range of every chart over time."""
    return page.evaluate("viewer.overTime.map((chart) => [chart.scales.x.min, chart.scales.x.max])")


def colours(page, chart) -> int:
    """Count the colours a chart painted."""
    return page.evaluate(
        """(name) => {
          const [kind, side] = name;
          const { ctx, bbox } = viewer[kind][side];
          const area = [bbox.left, bbox.top, bbox.width, bbox.height].map(Math.round);
          const { data } = ctx.getImageData(...area);
          return new Set(new Uint32Array(data.buffer)).size;
        }""",
        chart,
    )


def test_everything_is_drawn_before_and_after_on_the_same_axes(open_page, view) -> None:
    page = open_page(view)
    assert "SYNTHETIC" in text(page, "h1")
    assert page.locator("tbody tr").count() == 3
    # A loud picture before, a calm one after.
    assert colours(page, ["heats", 0]) > colours(page, ["heats", 1]) > 1
    assert colours(page, ["stackCharts", 0]) > colours(page, ["stackCharts", 1]) > 2
    assert len({tuple(window) for window in windows(page)}) == 1
    for pair in ("viewer.stackCharts", "viewer.heats", "viewer.record.bars"):
        low, high = page.evaluate(
            f"{pair}.map((chart) => [chart.scales.y.min, chart.scales.y.max])"
        )
        assert low == high
    # All contenders lie on one pair of axes, and end at 100 %.
    assert page.evaluate("viewer.distribution.series.length") == 4


def test_dragging_zooms_every_chart_and_a_double_click_ends_it(open_page, view) -> None:
    page = open_page(view)
    assert windows(page) == [[-0.5, 59.5]] * 6
    drag(page, "#lines", 0.25, 0.5)
    zoomed = windows(page)
    assert len({tuple(window) for window in zoomed}) == 1
    assert zoomed[0] == pytest.approx([14.5, 29.5], abs=0.3)
    assert "step 7, micro-batch 1 to step 14" in text(page, "#window-name")
    assert "micro-batches of the window" in text(page, "#distribution-note")
    page.locator("#stack-after .u-over").dblclick()
    assert windows(page) == [[-0.5, 59.5]] * 6
    page.click("#zoom-in")
    assert windows(page)[0][1] - windows(page)[0][0] == 30
    page.click("#later")
    page.click("#whole")
    assert windows(page) == [[-0.5, 59.5]] * 6


def test_the_distribution_of_a_window_counts_its_records(open_page, view) -> None:
    page = open_page(view)
    page.evaluate("viewer.set({layer: 1})")
    page.evaluate("viewer.setWindow(9.5, 19.5)")
    inside = (view.time >= 10) & (view.time <= 19) & (view.layer == 1)
    found = page.evaluate("viewer.distributions[0].values")
    assert found == pytest.approx(sorted(view.imbalance[0][inside]), abs=5.1e-4)


def test_clicks_go_down_to_an_expert_and_the_numbers_are_the_plans(open_page, view) -> None:
    page = open_page(view)
    page.locator("#worst button").first.click()
    row = view.worst[0]
    time, layer = int(view.time[row]), int(view.layer[row])
    record = next(iter(toy_trace(META, steps=30).select(
        steps=time // 2, micro_batches=time % 2, layers=layer)))  # fmt: skip
    page.select_option("#policy", "2")
    title = f"Layer {layer}, step {time // 2}, micro-batch {time % 2}: imbalance "
    title += f"{view.imbalance[0][row]:.3f} before, {view.imbalance[2][row]:.3f} after ultraep"
    page.wait_for_function("(text) => document.querySelector('#record-title').textContent === text",
                           arg=title)  # fmt: skip
    found = plan(record.loads, LAYOUT, policy="ultraep")
    hot = int(found.rank_loads_before.argmax())
    assert page.input_value("#rank") == str(hot)
    split = next(e for e in range(8) if found.fanout[e] and LAYOUT.home[e] == hot)
    page.locator("#experts-before button", has_text=f"expert {split}").click()
    load = int(record.loads.sum(axis=0)[split])
    assert f"Before: rank {hot} ({load}) pairs, at home." in text(page, "#instances")
    mine = found.expert == split
    for rank, quota in zip(found.rank[mine], found.quota[mine], strict=True):
        assert f"rank {rank} ({quota})" in text(page, "#instances")
    assert (
        page.evaluate("viewer.expertChart.data[1][arguments[0]]".replace("arguments[0]", str(time)))
        == load
    )


def test_a_click_in_the_heat_map_chooses_layer_and_micro_batch(open_page, view) -> None:
    page = open_page(view)
    page.locator("#heat-before").scroll_into_view_if_needed()
    box = page.locator("#heat-before .u-over").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 40.5 / 60, box["y"] + box["height"] * 0.75)
    page.wait_for_function("viewer.time === 40")
    assert page.input_value("#layer") == "1"
    assert "layer 1" in text(page, "#stack-before >> xpath=../h2")
    page.mouse.move(box["x"] + box["width"] * 20.5 / 60, box["y"] + box["height"] * 0.75)
    value = view.imbalance[0][(view.time == 20) & (view.layer == 1)][0]
    assert f"step 10, micro-batch 0, layer 1, {value:.2f} before" in text(page, "#readout")


def test_a_click_in_the_stack_follows_a_rank(open_page, view) -> None:
    page = open_page(view)
    page.select_option("#layer", "0")
    page.wait_for_function("viewer.stacks[0].times.length === 60 && viewer.stacks[0].width === 1")
    page.locator("#stack-after").scroll_into_view_if_needed()
    box = page.locator("#stack-after .u-over").bounding_box()
    # After balancing each of the four ranks has about a quarter: the third from below is rank 2.
    page.mouse.click(box["x"] + box["width"] * 30.5 / 60, box["y"] + box["height"] * (1 - 0.62))
    page.wait_for_function("viewer.time === 30")
    assert page.input_value("#rank") == "2"


def test_everything_is_reached_with_the_keyboard(open_page, view) -> None:
    page = open_page(view)
    page.focus("#lines")
    page.evaluate("viewer.set({time: 10})")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("+")
    assert page.input_value("#moment") == "11"
    assert page.input_value("#layer") == "1"
    assert windows(page)[0] != [-0.5, 59.5]
    page.keyboard.press("0")
    assert windows(page)[0] == [-0.5, 59.5]
    page.focus("#bars-before")
    before = int(page.input_value("#rank"))
    page.keyboard.press("ArrowRight")
    page.wait_for_function("(rank) => document.querySelector('#rank').value === rank",
                           arg=str((before + 1) % 4))  # fmt: skip
    for name in ("distribution", "lines", "heat-after", "stack-after", "bars-after"):
        focusable = page.evaluate(f"document.getElementById('{name}').tabIndex")
        assert focusable == (0 if name != "distribution" else -1)


def test_a_thinned_page_says_so_where_it_hurts(open_page, tmp_path) -> None:
    view = view_of(steps=300)
    whole = page_of(tmp_path / "whole.html", view)
    page = open_page(view, bound=whole.bytes - 4000)
    assert "THINNED to one micro-batch in" in text(page, "#kept")
    every = page.evaluate("viewer.levels.manifest.expert_level.every")
    kept = {int(view.time[row]) for row in view.worst}
    missing = next(t for t in range(every + 1, 600) if t % every and t not in kept)
    page.evaluate("(time) => viewer.set({ layer: 0, time, rank: null, expert: null })", missing)
    page.click("#nearest-experts")
    page.wait_for_selector("#experts-before button")
    assert page.evaluate("viewer.time") != missing


def test_a_view_without_experts_says_so(open_page) -> None:
    from dataclasses import replace

    view = view_of(steps=3)
    details = {
        row: replace(detail, loads=None, away=[None] * 3) for row, detail in view.details.items()
    }
    page = open_page(replace(view, home=None, details=details, known=[False, True, True]))
    assert "Expert loads are not in this file" in text(page, "#experts-note")
    assert "Rank loads before balancing are not known" in text(page, "#record-note")
    assert page.is_disabled("#expert")


@pytest.mark.parametrize("ranks", [1, 5, 16])
def test_the_smallest_traces_are_drawn(open_page, ranks) -> None:
    trace = toy_trace(META, steps=1, micro_batches=1).select(layers=1)
    page = open_page(watch_trace(trace, EPLayout(ranks, 8, 1), ["ultraep"]))
    assert text(page, "#record-title").startswith("Layer 1, step 0: imbalance ")
    page.click("#zoom-in")
    assert windows(page)[0] == [-0.5, 0.5]


def test_a_hostile_name_is_only_text(open_page, view) -> None:
    evil = "</script><script>alert(1)</script><img src=http://example.invalid/x onerror=alert(2)>"
    page = open_page(view, source=evil, workload=evil, notes=[evil])
    assert evil in text(page, "h1")
