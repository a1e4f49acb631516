"""``ultraep-sim trace``: look at traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at recorded routing traces.", no_args_is_help=True)


@app.command()
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A trace (.parquet).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Say what a trace holds."""
    from ultraep_sim.trace import load_trace

    typer.echo(load_trace(file).meta.describe())


@app.callback()
def _group() -> None:
    """Keep ``info`` a command of its own while it is the only one."""
