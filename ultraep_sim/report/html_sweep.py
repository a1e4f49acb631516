"""One HTML page for a sweep: findings as text, and figures that draw what was found here.

Every number is computed in Python, metric by metric; the scripts only choose and draw, so that
the page cannot say other things than the text and the CSV files.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from . import style
from .html_page import assemble, items
from .sweep_figures import (
    Flat,
    curve_rows,
    families,
    main_axis,
    pareto_rows,
    regret_rows,
    short,
)
from .sweep_findings import Advice, Winner, winners
from .sweep_table import SweepTable, number, shown
from .sweep_text import findings, use

SCRIPTS = ("colour", "charts", "tools", "sweep_figures", "sweep_app")
STYLES = ("style", "sweep")
#: A table with more rows makes a page that a browser scrolls slowly.
MAX_ROWS = 20_000
_DIGITS = 7


def sweep_page(
    table: SweepTable, title: str, found: Advice | None, notes: Sequence[str] = ()
) -> str:
    """Return the page of a sweep.

    Parameters
    ----------
    table : SweepTable
    title : str
    found : Advice or None
    notes : sequence of str
        What a reader must know; names in it may be anything, all text is escaped here.
    """
    said = [*notes]
    if len(table.rows) > MAX_ROWS:
        said.append(
            f"The table shows the first {MAX_ROWS:,} of {len(table.rows):,} rows; all are in the "
            "CSV and Parquet files beside this one. The figures count all."
        )
    parts = {
        "title": html.escape(title),
        "kind": f"{table.synthetic or 'recorded'} loads",
        "kind_class": "synthetic" if table.synthetic else "recorded",
        "advice": html.escape(use(table, found)),
        "findings": items(findings(table)),
        "notes": items(said),
    }
    return assemble(
        _manifest(table, found), {}, parts, page="sweep.html", scripts=SCRIPTS, styles=STYLES
    )


def looks(policies: Sequence[str]) -> list[dict[str, Any]]:
    """Return label, colour and dash of every policy, as all plots have them."""
    found = style.policy_look(policies, {})
    # A canvas counts dashes in pixels; matplotlib in line widths.
    return [
        {
            "label": label,
            "colour": found[label][0],
            "dash": [2 * n for n in found[label][1][1]]
            if not isinstance(found[label][1], str)
            else [],
        }
        for label in policies
    ]


def _manifest(table: SweepTable, found: Advice | None) -> dict[str, Any]:
    at = {name: {value: i for i, value in enumerate(table.values[name])} for name in table.axes}
    main = main_axis(table)
    spec = table.aim.spec
    policies = [
        one | {"bound": one["label"] in spec.bounds, "baseline": one["label"] == spec.baseline}
        for one in looks(table.policies)
    ]
    return {
        "axes": [_axis(table, name) for name in table.axes],
        "policies": policies,
        "metrics": [{"name": n, "better": b} for n, b in _with_values(table).items()],
        "places": [
            [at[name][value] for name, value in zip(table.axes, place, strict=True)]
            for place in table.places
        ],
        "fits": _by_policy(table, "fits"),
        "memory": _by_policy(table, "memory"),
        "memory_name": spec.memory,
        "found": {metric: _found(table, metric) for metric in _with_values(table)},
        "families": list(families(table)),
        "main": -1 if main is None else table.axes.index(main),
        "advised": _advised(table, found),
        "rows": rows_of(table.rows),
        "palette": {"muted": style.MUTED},
    }


def _with_values(table: SweepTable) -> dict[str, str]:
    """Return the headline, and all other metrics that have a value anywhere."""
    return {
        name: better
        for name, better in table.aim.metrics.items()
        if name == table.aim.metric or any(number(row.get(name)) is not None for row in table.rows)
    }


def _axis(table: SweepTable, name: str) -> dict[str, Any]:
    values = table.values[name]
    numbers = [number(value) for value in values]
    return {
        "name": name,
        "short": short(name),
        "values": [shown(value) for value in values],
        "numbers": None if None in numbers else numbers,
    }


def _by_policy(table: SweepTable, what: str) -> list[list[Any]]:
    def value(place: Any, policy: str) -> Any:
        cell = table.cells.get((place, policy))
        found = None if cell is None else getattr(cell, what)
        return int(found) if isinstance(found, bool) else rounded(found)

    return [[value(place, policy) for place in table.places] for policy in table.policies]


def _found(table: SweepTable, metric: str) -> dict[str, Any]:
    index = {name: i for i, name in enumerate(table.policies)}
    where = {place: i for i, place in enumerate(table.places)}
    cells: list[list[Any]] = [[None] * len(where) for _ in table.policies]
    for row in curve_rows(table, metric):
        band = [rounded(row[key]) for key in ("value", "value_p5", "value_p95")]
        cells[index[row["policy"]]][where[table.place(row)]] = band
    return {
        "cells": cells,
        "winners": [_winner(one, index) for one in winners(table, metric)],
        "regret": _rounded_rows(regret_rows(table, metric)),
        "pareto": _rounded_rows(pareto_rows(table, metric)),
    }


def _winner(one: Winner, index: Mapping[str, int]) -> dict[str, Any]:
    return {
        "winner": -1 if one.policy is None else index[one.policy],
        "runner_up": -1 if one.runner_up is None else index[one.runner_up],
        "margin": [None] * 3 if one.margin is None else [rounded(v) for v in one.margin[:3]],
        "tied": [index[name] for name in one.tied],
        "not_fitting": [index[name] for name in one.not_fitting],
    }


def _advised(table: SweepTable, found: Advice | None) -> int:
    """Return the first point with the advised settings, -1 if there is none."""
    setting = None if found is None else found.choice.choice.setting
    for i, place in enumerate(table.places):
        if table.part(place, table.aim.settings) == setting:
            return i
    return -1


def rows_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return rows as columns and lists of plain JSON values, at most `MAX_ROWS` of them."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    kept = rows[:MAX_ROWS]
    return {
        "columns": columns,
        "rows": [[rounded(row.get(name)) for name in columns] for row in kept],
    }


def _rounded_rows(rows: Sequence[Flat]) -> list[Flat]:
    return [{name: rounded(value) for name, value in row.items()} for row in rows]


def rounded(value: Any) -> Any:
    """Return a value for the page: seven digits that count, and None for what is no number."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value
    found = number(value)
    return None if found is None else float(f"{found:.{_DIGITS}g}")
