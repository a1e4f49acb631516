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
    from rich.table import Table

    from ultraep_sim.sweep import SweepResult

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
    from ultraep_sim.sweep import load_sweep, run_sweep

    path = given_path(file, "FILE", "name a sweep file")
    spec = load_sweep(path)
    target = None if out is None else given_path(out, "--out", "name a directory, or leave it out")
    with progress_bars() as progress:
        result = run_sweep(spec, progress=progress)
    files = result.write(target or Path("runs") / path.stem)
    if as_json:
        print_json({"question": spec.question, "rows": result.rows})
    else:
        print_renderable(*([spec.question] if spec.question else []), _table(result))
    note(f"wrote {files[0].parent}: {', '.join(file.name for file in files)}")


def _table(result: SweepResult) -> Table:
    from rich import box
    from rich.table import Table

    axes = [*result.spec.columns, "policy"]
    shown = [name for name in _SHOWN if name in result.columns]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in axes:
        table.add_column(name, no_wrap=True)
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for row in result.rows:
        table.add_row(*(str(row[name]) for name in axes), *(_cell(row.get(name)) for name in shown))
    return table


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"
