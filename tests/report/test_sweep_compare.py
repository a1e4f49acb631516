from __future__ import annotations

import csv
import io
import json

import pytest

from ultraep_sim.errors import InputError
from ultraep_sim.report.sweep_compare import compare, write_comparison

from .sweep_rows import AXES, hand_made, row


def changed(**values):
    """The hand-made rows, with the value of ``policy`` at (1, calm) replaced."""
    rows = [one | {"replicas_per_plan": 4} for one in hand_made()]
    for one in rows:
        if (one["slots"], one["load"]) == (1, "calm") and one["policy"] in values:
            one["iteration_ms"] = values[one["policy"]]
    return rows


def test_a_sweep_is_the_same_as_itself() -> None:
    found = compare(hand_made(), hand_made(), AXES)
    assert found.same
    # 16 rows of two numbers: time and memory.
    assert found.texts() == ["first and second are the same: all 32 values of 16 rows."]
    assert found.to_dict()["changes"] == []


def test_changes_are_told_with_the_largest_first() -> None:
    found = compare(changed(), changed(a=120.0, b=99.0), AXES, names=("old", "new"))
    told = [
        (c["policy"], c["first"], c["second"], c["change_percent"], c["better"])
        for c in found.changes
    ]
    assert told == [("a", 100.0, 120.0, pytest.approx(20.0), False),
                    ("b", 110.0, 99.0, pytest.approx(-10.0), True)]  # fmt: skip
    assert (found.rows, found.matched, found.equal) == (16, 48, 46)
    texts = " ".join(found.texts())
    assert (
        "new is better in 1 and worse in 1. The largest change is +20 %, a at slots 1, load calm"
        in texts
    )
    assert "The winner changes at 1 of 4 points: a to b at 1." in texts
    (one,) = found.winners
    assert (one["slots"], one["load"], one["both_ties"]) == (1, "calm", False)
    assert (one["first_winner"], one["first_margin"]) == ("a", "9.1 %")
    assert (one["second_winner"], one["second_margin"]) == ("b", "18 %")  # 21 of 120


def test_rows_match_by_what_they_are_not_by_order_or_digest() -> None:
    first = [one | {"point": "0"} for one in hand_made()]
    second = [one | {"point": "1"} for one in reversed(hand_made())]
    assert compare(first, second, AXES).same
    seeds = [row("a", 1.0 + s, x=0, seed=s) for s in range(3)]
    found = compare(seeds, [row("a", 9.0, x=0, seed=2)], ["x"])
    assert [c["change_percent"] for c in found.changes] == [200.0]
    assert [one["seed"] for one in found.only_first] == [0, 1]


def test_what_only_one_has_is_listed() -> None:
    rows = hand_made()
    extra = [row("new", 1.0, slots=1, load="calm")]
    found = compare(rows, [*rows[4:], *extra], AXES)
    assert {(o["slots"], o["load"]) for o in found.only_first} == {(1, "calm")}
    assert [one["policy"] for one in found.only_second] == ["new"]
    assert not found.same


def test_values_that_came_or_went_or_left_zero_have_no_share_and_come_first() -> None:
    first = [row("a", None, x=0), row("b", 0.0, x=0), row("c", 1.0, x=0)]
    second = [row("a", 2.0, x=0), row("b", 1.0, x=0), row("c", 3.0, x=0)]
    found = compare(first, second, ["x"])
    assert [(c["policy"], c["change_percent"]) for c in found.changes] == [
        ("a", None), ("b", None), ("c", 200.0),
    ]  # fmt: skip
    json.dumps(found.to_dict(), allow_nan=False)


def test_an_axis_of_one_sweep_only() -> None:
    rows = hand_made()
    fixed = [{k: v for k, v in one.items() if k != "load"} for one in rows if one["load"] == "calm"]
    with pytest.raises(InputError, match="new: slots: only this sweep varies"):
        compare([row("a", 1.0)], fixed, [], ["slots"], names=("old", "new"))
    one_value = [one for one in rows if one["load"] == "calm"]
    assert compare(one_value, fixed, AXES, ["slots"]).same
    with pytest.raises(InputError, match="there are no rows to compare"):
        compare(rows, [], AXES)


def test_files_of_a_comparison(tmp_path) -> None:
    found = compare(changed(), changed(a=120.0), AXES, names=("old", "new"))
    page, data, table = write_comparison(found, tmp_path / "out")
    assert json.loads(data.read_text())["changes"][0]["change_percent"] == 20.0
    (line,) = csv.DictReader(io.StringIO(table.read_text()))
    assert (line["policy"], line["first"], line["second"]) == ("a", "100.0", "120.0")
    assert "old against new" in page.read_text()


def test_table_for_a_terminal() -> None:
    from rich.console import Console

    console = Console(width=100, file=io.StringIO())
    names = ("old", "[red]new")
    console.print(compare(changed(), changed(a=120.0), AXES, names=names).table())
    text = console.file.getvalue()
    assert "+20 %" in text
    assert "[red]new" in text
