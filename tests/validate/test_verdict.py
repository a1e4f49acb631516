"""Limits, pins and summaries, by hand."""

from __future__ import annotations

import pytest

from ultraep_sim.validate import verdict
from ultraep_sim.validate.rows import make_row, summarise


def row(case, published, simulated, *, table="t", fitted=False, provenance="a figure"):
    return make_row(table, case, "m", published, simulated, fitted=fitted, provenance=provenance)


@pytest.fixture
def committed(monkeypatch, tmp_path):
    limits, known = tmp_path / "limits.csv", tmp_path / "known.csv"
    limits.write_text("suite,table,role,statistic,limit\npaper,t,predicted,median,0.1\n")
    known.write_text("suite,table,case,metric,low,high,reason\npaper,t,far,m,0.15,0.4,because\n")
    monkeypatch.setattr(verdict, "THRESHOLDS", limits)
    monkeypatch.setattr(verdict, "KNOWN", known)


FAR = row("far", 1.0, 1.3)


def test_what_holds_is_not_told(committed):
    rows = [FAR, row("a", 1.0, 1.01), row("b", 1.0, 0.98), row("c", None, 5.0)]
    assert verdict.broken("paper", rows) == []
    (miss,) = verdict.misses(rows)
    assert (miss["case"], miss["reason"], miss["pinned"]) == ("far", "because", True)


def test_a_limit_that_is_broken(committed):
    (told,) = verdict.broken("paper", [row("a", 1.0, 1.12)])
    assert told == "t, predicted: median error 12.00% is above 10.00%"
    assert verdict.broken("other", [row("a", 1.0, 1.12)]) == []


def test_a_sudden_pass_is_an_error_and_so_is_a_worse_miss(committed):
    rest = [row("a", 1.0, 1.01), row("b", 1.0, 1.01)]
    (told,) = verdict.broken("paper", [row("far", 1.0, 1.1), *rest])
    assert "far m: pinned as a miss of +15% to +40%, passes now (+10.0%)" in told
    (told,) = verdict.broken("paper", [row("far", 1.0, 1.5), *rest])
    assert "misses by another amount now (+50.0%)" in told


def test_a_miss_that_is_not_pinned(committed):
    rest = [FAR, *(row(f"near {i}", 1.0, 1.01) for i in range(5))]
    (told,) = verdict.broken("paper", [*rest, row("new", 1.0, 0.5)])
    assert "t new m: off by -50.0% and not pinned" in told
    given = row("new", 1.0, 0.5, provenance="given by --published")
    assert verdict.broken("paper", [*rest, given]) == [], "no pin can speak of it yet"
    assert verdict.misses([given])[0]["pinned"] is False


def test_summary_by_hand():
    rows = [row("a", 1.0, 1.1), row("b", 2.0, 1.6), row("c", 1.0, 1.0, fitted=True)]
    rows += [row("d", None, 1.0, table="u"), row("e", 1.0, None, table="u")]
    told = {(line["table"], line["role"]): line for line in summarise(rows)}
    line = told["all", "predicted"]
    assert (line["count"], line["worst_case"]) == (2, "b m")
    assert line["median"] == pytest.approx(0.15)
    assert line["p90"] == pytest.approx(0.19)
    assert line["worst"] == pytest.approx(-0.2)
    assert told["t", "fitted"]["count"] == 1
    assert told["u", "predicted"]["median"] is None
