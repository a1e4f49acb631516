"""``ultraep-sim sweep``: one table and one plot over many variants of a scenario."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraep_sim.commands.console import (
    given_path,
    note,
    print_json,
    print_renderable,
    progress_bars,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ultraep_sim.sweep import SweepResult
    from ultraep_sim.sweep.grid import Row

EPILOG = """\
\b
Examples:
  ultraep-sim sweep scenarios/what-if/slots.yaml
  ultraep-sim sweep scenarios/what-if/link-bandwidth.yaml --out runs/links
  ultraep-sim sweep scenarios/what-if/slots.yaml --json | jq '.rows[] | {policy, layer_time_ms}'
"""

_SHOWN = (
    "mean_rank_imbalance",
    "layer_time_ms",
    "iteration_ms",
    "tflops_per_gpu",
    "fraction_of_ideal",
    "speedup_over_none",
)
_DAGGER = "\N{DAGGER}"
_NOTES_SHOWN = 12


def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A sweep file (YAML).")],
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the results go. [default: runs/<name of FILE>]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Run a scenario at every point of a grid.

    Prints one table and writes DIR/sweep.csv, sweep.parquet, and the plot the file asks for.
    """
    from ultraep_sim.sweep import SweepResult, expand, load_sweep, run_sweep

    path = given_path(file, "FILE", "name a sweep file")
    spec = load_sweep(path)
    target = None if out is None else given_path(out, "--out", "name a directory, or leave it out")
    target = target or Path("runs") / path.stem
    found: list[Sequence[Row]] = []
    try:
        with progress_bars() as progress:
            result = run_sweep(spec, progress=progress, on_rows=found.append)
    except (Exception, KeyboardInterrupt):
        # Hours may lie in these rows; the error itself is told after them, with its exit code.
        if found:
            rows = [row for part in found for row in part]
            files = SweepResult(spec, rows).write(target, plot=False)
            done = f"{len(found)} of {len(expand(spec))} points"
            note(f"stopped: {done} are in {', '.join(str(file) for file in files)}; no plot")
        raise
    files = result.write(target)
    if as_json:
        print_json({"question": spec.question, "rows": result.rows, "notes": result.notes})
    else:
        _show(result)
    note(f"wrote {files[0].parent}: {', '.join(file.name for file in files)}")


def _show(result: SweepResult) -> None:
    from rich.text import Text

    from ultraep_sim.report.plot_sweep import NO_FIT

    notes = result.notes
    more = len(notes) - _NOTES_SHOWN
    lines = [f"Note: {text}." for text in notes[:_NOTES_SHOWN]]
    if more > 0:
        lines.append(f"{more} more notes: see the column notes of sweep.csv.")
    if not all(map(_fits, result.rows)):
        lines.insert(0, f"{_DAGGER} {NO_FIT}.")
    question = [Text(result.spec.question, style="bold")] if result.spec.question else []
    print_renderable(*question, _table(result), *map(Text, lines))


def _fits(row: Row) -> bool:
    return row.get("fits") is not False


def _table(result: SweepResult) -> Table:
    from rich import box
    from rich.table import Table

    axes = result.spec.columns
    shown = [name for name in _SHOWN if name in result.columns]
    if not all(map(_fits, result.rows)):
        shown.append("memory_GB")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (*axes, "policy"):
        table.add_column(name, no_wrap=True)
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for row in result.rows:
        at = (str(row.get(name, "")) for name in axes)
        policy = row["policy"] if _fits(row) else f"{row['policy']} {_DAGGER}"
        table.add_row(*at, policy, *(_cell(row.get(name)) for name in shown))
    return table


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"
