"""``ultraep-sim validate``: the planner arena, and what is published beside what we compute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraep_sim.commands import validate_judged as judged
from ultraep_sim.commands import validate_published as published
from ultraep_sim.commands import validate_silicon as silicon
from ultraep_sim.commands.console import note, print_json, print_renderable, progress_bars
from ultraep_sim.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from ultraep_sim.validate.arena import Row

EPILOG = """\
\b
Examples:
  ultraep-sim validate paper
  ultraep-sim validate paper --published my-tables --json | jq '.summary'
  ultraep-sim validate planner --quick
  ultraep-sim validate planner --policy eplb_plus --policy lplb
  ultraep-sim validate planner --json | jq '.policies[] | {policy, replicas_ratio}'
  ultraep-sim validate training
  ultraep-sim validate silicon --quick --plot silicon
"""

SUITES = ("planner", "paper", "runtime", "engines", "silicon", *published.SUITES)
_FULL, _QUICK = 3, 1  # draws of each family


def validate(
    suite: Annotated[
        str, typer.Argument(metavar="[SUITE]", help=f"One of: {', '.join(SUITES)}.")
    ] = "planner",
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="planner: only this policy, and ultraep. Repeatable."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="planner: one draw of each family, three group sizes, no traces. engines: without "
            "recomputation. silicon: H200 alone.",
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="paper: fit and search serving anew (minutes), not as stored."
        ),
    ] = False,
    published_tables: Annotated[
        str | None,
        typer.Option(
            "--published", metavar="DIR", help="paper: CSV files of more published rows, or others."
        ),
    ] = None,
    measurements: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="runtime: bench files, by default those committed."),
    ] = None,
    tables: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="silicon: tables that are not an installed package."),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="silicon: draw FILE.png and .svg, FILE-SYSTEM.png and .svg."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Write rows (CSV, JSON), manifest and plot (PNG, SVG) there."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Judge the simulator's parts, row by row; exit with 1 where a committed threshold is broken.

    paper: every published table beside ours, by role (fitted or predicted), with a row for every
    setting that has no published value yet, the misses with their causes, and the cells that were
    fitted to. runtime: held-out GPU measurements. engines: the fast path beside the event path.

    planner: every policy plans the same Zipf, taxonomy and recorded loads, beside lower bounds that
    no plan can beat; those that place by history in hindsight. Solve times are measured here.

    training, breakdown, transfers, serving: one published table with all variants of its model.

    silicon: public tables of measured kernel times beside laws fitted to a part of them.
    """
    if suite not in SUITES:
        raise InputError(
            "unknown suite", place="SUITE", value=suite, remedy=f"choose from {', '.join(SUITES)}"
        )
    options = {
        "--policy": (policy, ("planner",)),
        "--quick": (quick, ("planner", "engines", "silicon")),
        "--fresh": (fresh, ("paper",)),
        "--published": (published_tables, ("paper",)),
        "--measurements": (measurements, ("runtime",)),
        "--tables": (tables, ("silicon",)),
        "--plot": (plot, ("silicon",)),
        "--out": (out, ("planner", "paper", "runtime", "engines")),
    }
    for option, (given, where) in options.items():
        if given == "":
            raise InputError(
                "an empty path", place=option, value=given, remedy=f"name one after {option}"
            )
        if given and suite not in where:
            raise InputError(
                f"only the {' and '.join(where)} suite has {option}", place="SUITE", value=suite,
                remedy=f"leave {option} out",
            )  # fmt: skip
    if suite == "planner":
        _planner(policy, quick, as_json, out)
    elif suite == "silicon":
        silicon.show(tables=tables, quick=quick, plot=plot, as_json=as_json)
    elif suite in published.SUITES:
        published.show(suite, as_json)
    else:
        judged.show(
            suite, as_json=as_json, out=out, fresh=fresh, quick=quick, more=published_tables,
            measurements=measurements,
        )  # fmt: skip


def _planner(policy: list[str] | None, quick: bool, as_json: bool, out: str | None) -> None:
    from ultraep_sim.validate.arena import run_arena
    from ultraep_sim.validate.arena_rows import judged as in_one_form
    from ultraep_sim.validate.families import QUICK_SHAPES, SHAPES
    from ultraep_sim.validate.summary import summarise

    traces = None if quick else _trace_folder()
    if not quick and traces is None:
        note("no traces/ folder found: the recorded loads are left out")
    with progress_bars() as progress:
        rows = run_arena(
            policies=policy,
            shapes=QUICK_SHAPES if quick else SHAPES,
            seeds=_QUICK if quick else _FULL,
            traces=traces,
            progress=progress,
        )
    summary = summarise(rows)
    found = judged.Found(in_one_form(rows), {"quick": quick, "arena": rows, "policies": summary})
    if out is not None:
        judged.write(found, out)
    if as_json:
        print_json(judged.document("planner", found))
    else:
        _show(rows, summary)


def _trace_folder() -> Path | None:
    """``traces/`` under the current directory or of the installed checkout."""
    candidates = (Path("traces"), Path(__file__).parents[2] / "traces")
    return next((path for path in candidates if any(path.glob("*.parquet"))), None)


def _show(rows: list[Row], summary: list[dict[str, Any]]) -> None:
    from rich.text import Text

    cases = len({tuple(row[k] for k in ("family", "index", *_SHAPE)) for row in rows})
    title = Text(f"Planner arena: {cases} load matrices, beside the published planner", "bold")
    baseline = next(entry for entry in summary if entry["policy"] == "ultraep")
    legend = Text(
        "Ratios are geometric means to ultraep's; families and shapes weigh the same.\n"
        "replicas, fan-out (most replicas of one expert) and home (most sent by one home rank):\n"
        "  where both reach the same imbalance within 0.002 (a policy with a target that balances "
        "better is asked\n  once more for ultraep's) and ultraep opens replicas: "
        f"{baseline['equal_tau_cases']} cases at most.\n"
        "floor: the least that replicas x could be, by the lower bound. "
        "bound: replicas over it, all cases.\n"
        "(hindsight): places by history, and was given these very loads as its history.\n"
        "+slots: slots a rank beyond those offered; their memory is part of the price."
    )
    print_renderable(
        title, _summary_table(summary), legend, Text("\nMean imbalance / replicas", "bold"),
        _family_table(rows),
    )  # fmt: skip


_SHAPE = ("experts", "ranks", "slots")


def _summary_table(summary: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    heads = ["policy", "+slots", "cases", "imbalance", "worst vs ultraep", "replicas x"]
    heads += ["floor x", "fan-out x", "home x", "bound x", "kernel time x"]
    for head in heads:
        table.add_column(head, justify="left" if head == "policy" else "right", no_wrap=True)
    for entry in summary:
        replicas = _number(entry["replicas_ratio"], "{:.3f}")
        if entry["replicas_ratio"] is not None:
            replicas += f" ({entry['equal_tau_cases']})"
        table.add_row(
            entry["policy"],
            f"+{entry['extra_slots']}" if entry["extra_slots"] else "",
            str(entry["cases"]),
            f"{entry['mean_imbalance']:.3f}",
            _number(entry["worst_imbalance_difference"], "{:+.4f}"),
            replicas,
            *(
                _number(entry[key], "{:.3f}")
                for key in (
                    "floor_ratio",
                    "max_fanout_ratio",
                    "max_home_sends_ratio",
                    "bound_ratio",
                )
            ),
            _number(entry["kernel_ratio"], "{:.2f}"),
        )
    return table


def _family_table(rows: list[Row]) -> Table:
    """Tabulate means over shapes and draws: a line a family, a column a policy."""
    from rich import box
    from rich.table import Table

    # At the slots a policy needs, where it is not applicable at those offered.
    ran = [row for row in rows if row["imbalance"] is not None]
    policies = list(dict.fromkeys(row["policy"] for row in ran))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("family", "before", *policies):
        table.add_column(head, justify="left" if head == "family" else "right", no_wrap=True)
    for family in dict.fromkeys(row["family"] for row in ran):
        here = [row for row in ran if row["family"] == family]
        cells = []
        for policy in policies:
            mine = [row for row in here if row["policy"] == policy]
            cells.append(f"{_mean(mine, 'imbalance'):.3f} / {_mean(mine, 'replicas'):.1f}")
        table.add_row(family, f"{_mean(here, 'imbalance_before'):.2f}", *cells)
    return table


def _mean(rows: list[Row], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows) if rows else float("nan")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
