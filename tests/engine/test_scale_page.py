"""Invariant 10: what docs/iterations.md says of cost is what was measured."""

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def rows():
    measured = json.loads((DOCS / "scale.json").read_text(encoding="utf-8"))
    return {row["gpus"]: row for row in measured["rows"]}


def test_the_page_says_what_was_measured(rows):
    page = (DOCS / "iterations.md").read_text(encoding="utf-8")
    cost = " ".join(page.partition("## Cost")[2].split())
    shown = [rows[gpus] for gpus in (256, 2560, 10240)]
    planned = [row["replay_s"] + row["arrange_s"] for row in shown]
    assert re.findall(r"([\d.]+) s on", cost) == [f"{seconds:.1f}" for seconds in planned]
    drawn = "{:.1f}, {:.1f} and {:.1f} s more".format(*(row["draw_s"] for row in shown))
    assert drawn in cost
    assert "{:.1f}, {:.1f} and {:.1f} GB".format(*(row["peak_GB"] for row in shown)) in cost
