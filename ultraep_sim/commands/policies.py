"""``ultraep-sim policies``: what can be run, what it sees, when it acts, what it promises."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from ultraep_sim.commands.console import print_json, print_renderable

EPILOG = """\
\b
Examples:
  ultraep-sim policies
  ultraep-sim policies --json
"""


def policies(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """List the balancing policies.

    The built-in ones and those that installed packages register.
    """
    rows = policy_rows()
    if as_json:
        print_json(rows)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
    for head in ("policy", "what it is", "sees", "acts", "costs", "options"):
        table.add_column(head, no_wrap=head == "policy", min_width=10)
    for row in rows:
        promises = [
            text
            for key, text in (
                ("never_worse", "never worse than none"),
                ("moves_mains", "moves main experts"),
                ("may_cross", "may leave the scale-up domain of the home"),
            )
            if row[key]
        ]
        about = "; ".join([row["summary"], *promises])
        options = ", ".join(f"{key}={value}" for key, value in row["options"].items())
        table.add_row(row["name"], about, row["sees"], row["acts"], row["costs"], options or "-")
    hint = "Options go beside the name in a scenario: {name: eplb, cadence_steps: 50}"
    print_renderable(table, Text(hint))


def policy_rows() -> list[dict[str, Any]]:
    """Return one mapping a policy: the data of ``policies --json``."""
    from ultraep_sim.policies import available_policies

    rows = []
    for name, cls in available_policies().items():
        rows.append(
            {
                "name": name,
                "summary": cls.summary,
                "sees": cls.sees,
                "acts": cls.acts,
                "costs": cls.costs,
                "exact": cls.exact,
                "never_worse": cls.never_worse,
                "moves_mains": cls.moves_mains,
                "may_cross": cls.may_cross,
                "options": {
                    parameter.name: parameter.default
                    for parameter in inspect.signature(cls).parameters.values()
                    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
                    and parameter.name != "cost"  # the engine's, not the user's
                },
            }
        )
    return rows
