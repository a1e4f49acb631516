"""``ultraep-sim doctor``: find out whether all is here that the simulator needs."""

from __future__ import annotations

from typing import Annotated

import typer

from ultraep_sim.commands.checks import all_checks
from ultraep_sim.commands.console import print_json, print_renderable

EPILOG = """\
\b
Examples:
  ultraep-sim doctor
  ultraep-sim doctor --json
"""

_STYLE = {"ok": "green", "note": "yellow", "broken": "bold red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Check that everything needed is here.

    Looks at Python, packages, the compiler, the shipped traces and the optional parts.

    Exits with 1 if something the simulator needs is broken; a note is worth knowing and stops
    nothing.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = list(all_checks())
    broken = [check.name for check in found if check.status == "broken"]
    if as_json:
        print_json({"ok": not broken, "checks": [check._asdict() for check in found]})
    else:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for head in ("check", "", "found", "what to do"):
            table.add_column(head, overflow="fold", no_wrap=head in ("check", ""))
        for check in found:
            status = Text(check.status, style=_STYLE[check.status])
            table.add_row(check.name, status, check.detail, check.remedy)
        verdict = f"broken: {', '.join(broken)}" if broken else "Everything needed works."
        print_renderable(table, Text(verdict, style="bold"))
    if broken:
        raise typer.Exit(1)
