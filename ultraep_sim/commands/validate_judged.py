"""The suites of ``ultraep-sim validate`` whose rows have one form: paper, runtime, engines."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ultraep_sim.commands.console import (
    given_path,
    note,
    print_json,
    print_renderable,
    progress_bars,
)

if TYPE_CHECKING:
    from rich.table import Table

    from ultraep_sim.validate.rows import Row

_BROKEN = 1


@dataclass(frozen=True)
class Found:
    """Rows of a suite, and what else it has to say, by key of the JSON document."""

    rows: list[Row]
    more: dict[str, Any] = field(default_factory=dict)


def show(
    suite: str,
    *,
    as_json: bool,
    out: str | None,
    fresh: bool,
    quick: bool,
    more: str | None,
    measurements: str | None,
) -> None:
    """Run one suite, print it, and exit with 1 where a committed threshold is broken."""
    from ultraep_sim.validate.verdict import broken

    if suite == "paper":
        found = _paper(more, fresh)
    elif suite == "runtime":
        found = _runtime(measurements)
    else:
        found = _engines(quick)
    problems = broken(suite, found.rows)
    if out is not None:
        write(found, out)
    if as_json:
        print_json(document(suite, found) | {"broken": problems})
    else:
        _print(suite, found)
    for problem in problems:
        note(f"broken: {problem}")
    if problems:
        raise typer.Exit(_BROKEN)


def document(suite: str, found: Found) -> dict[str, Any]:
    """Return the JSON document of a suite."""
    from ultraep_sim.validate.rows import summarise
    from ultraep_sim.validate.verdict import misses

    return {
        "suite": suite,
        "rows": found.rows,
        "summary": summarise(found.rows),
        "misses": misses(found.rows) if suite == "paper" else [],
        **found.more,
    }


def write(found: Found, out: str) -> None:
    """Write rows, manifest and plot into a folder."""
    from ultraep_sim.report.plot_validation import write_plot
    from ultraep_sim.validate.rows import FIELDS

    folder = given_path(out, "--out", "name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found.rows)
    _dump(folder / "rows.json", found.rows)
    if "manifest" in found.more:
        _dump(folder / "manifest.json", found.more["manifest"])
    write_plot(found.rows, folder / "simulated-published")
    note(f"wrote {folder}")


def _dump(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _paper(more: str | None, fresh: bool) -> Found:
    from ultraep_sim.validate import paper

    folder = None if more is None else given_path(more, "--published", "name a folder")
    with progress_bars() as progress:
        found = paper.run(folder, fresh=fresh, progress=progress)
    return Found(found.rows, {"plain_law": found.plain, "manifest": found.manifest})


def _runtime(measurements: str | None) -> Found:
    from ultraep_sim.validate import runtime

    where = measurements
    if where is not None:
        where = str(given_path(where, "--measurements", "name a folder"))
    rows, gaps = runtime.run(where)
    return Found(rows, {"gaps": gaps})


def _engines(quick: bool) -> Found:
    from ultraep_sim.validate import engines

    with progress_bars() as progress:
        return Found(engines.run(quick, progress))


_TOLD = {
    "paper": """\
fitted: a parameter rests on the published value, or it is 1 by definition: it proves nothing.
predicted: the simulation did not see it. The manifest (--json, --out) lists every cell it saw.
plain law: training by 1 + s (I - 1) with the simulated imbalance, no mechanism.""",
    "runtime": "Laws are fitted to a part of the rows of a file; these rows had no part in that.",
    "engines": "published: the event path, our reference; simulated: the fast path.",
}


def _print(suite: str, found: Found) -> None:
    from rich.text import Text

    from ultraep_sim.validate.rows import MISS, TARGET, summarise
    from ultraep_sim.validate.verdict import misses

    known = [row for row in found.rows if row["relative_error"] is not None]
    blank = len(found.rows) - len(known)
    gaps = [Text(f"gap: {gap}") for gap in found.more.get("gaps", [])]
    items: list[Any] = [Text(f"Suite {suite}", "bold"), *gaps]
    if known:
        items += [rows_table(known), Text(_TOLD[suite])]
    if blank:
        items.append(Text(f"{blank} more rows have nothing published or measured: see --json"))
    if known:
        items += [Text("\nAbsolute errors by role", "bold")]
        items.append(
            summary_table(summarise(found.rows) + summarise(found.more.get("plain_law", [])))
        )
    if suite == "paper":
        items.append(Text(f"Aim: median of predicted rows at most {TARGET:.0%}."))
        items.append(Text(f"\nRows off by more than {MISS:.0%}", "bold"))
        items += [
            Text(f"{row['relative_error']:+.1%}  {row['table']} {row['case']} {row['metric']}: "
                 f"{row['reason']}{'' if row['pinned'] else ' (not pinned)'}")
            for row in misses(found.rows)
        ]  # fmt: skip
    print_renderable(*items)


def rows_table(rows: list[Row]) -> Table:
    """Return rows for the terminal."""
    return _table(
        ("table", "case", "metric", "published", "simulated", "error", "role"),
        [
            (
                row["table"], row["case"], row["metric"], f"{row['published']:.4g}",
                f"{row['simulated']:.4g}", f"{row['relative_error']:+.1%}", row["role"],
            )
            for row in rows
        ],
    )  # fmt: skip


def summary_table(lines: list[Row]) -> Table:
    """Return the summary by role for the terminal."""

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return _table(
        ("table", "role", "rows", "median", "p90", "worst", "worst row"),
        [
            (
                line["table"], line["role"], str(line["count"]), shown(line["median"], ".1%"),
                shown(line["p90"], ".1%"), shown(line["worst"], "+.1%"), line["worst_case"] or "-",
            )
            for line in lines
        ],
    )  # fmt: skip


def _table(heads: tuple[str, ...], lines: list[tuple[str, ...]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    right = {"published", "simulated", "error", "rows", "median", "p90", "worst"}
    for head in heads:
        table.add_column(head, justify="right" if head in right else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table
