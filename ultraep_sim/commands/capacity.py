"""``ultraep-sim capacity``: the largest request rate each policy serves inside the SLO."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ultraep_sim.commands.console import (
    given_path,
    note,
    print_json,
    print_renderable,
    progress_bars,
)
from ultraep_sim.commands.run import only
from ultraep_sim.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ultraep_sim.commands.console import Report
    from ultraep_sim.scenario import Scenario
    from ultraep_sim.serving.capacity import Capacity, Point
    from ultraep_sim.serving.setup import Setup

EPILOG = """\
\b
Examples:
  ultraep-sim capacity scenarios/qwen3-235b-serving.yaml
  ultraep-sim capacity scenarios/qwen3-235b-serving.yaml --policy none --policy ultraep --seeds 5
  ultraep-sim capacity FILE.yaml --set serving.slo.statistic=p99 --set serving.slo.ttft_s=10
"""

#: Rates of the curves, over the largest rate that meets the line; there the search has been.
_CURVE = (0.25, 0.5, 0.7, 0.85, 0.95, 1.05)


def capacity(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="YAML with serving.")],
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where results go. [default: runs/<name>-capacity]"),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a value. Repeatable."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Search only this policy. Repeatable."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=16, help="Independent repetitions; 2 or more give a band.")
    ] = 3,
    tolerance: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Relative width at which a search ends.")
    ] = 0.01,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Draw and time no curves.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Search the largest request rate that meets the SLO under each policy.

    All policies get the same requests, at another rate the same ones sooner or later. Prints one
    table, and writes DIR/capacity.csv, runs.csv (every run of the search) and a plot of the time to
    first token against the rate.
    """
    from ultraep_sim.scenario import load_scenario
    from ultraep_sim.serving.capacity import find_capacity, rows_of
    from ultraep_sim.serving.run import serving_notes
    from ultraep_sim.serving.setup import make_setup

    path = given_path(scenario, "SCENARIO", "name a YAML file")
    chosen = only(load_scenario(path, sets or ()), policy or ())
    directory = _prepare(out, chosen.name)
    with progress_bars() as progress:
        try:
            setup = make_setup(chosen)
            repeated = [chosen.seed + i for i in range(seeds)]
            found = find_capacity(chosen, seeds=repeated, tolerance=tolerance, progress=progress)
        except InputError as error:
            raise error.at(file=path) from error
        curves = {} if no_plots else _curves(setup, found, progress)
    names = {spec.label: spec.name for spec in chosen.policies}
    rows = rows_of(found, names)
    label = f"{setup.requests.label}; {setup.routing.describe()}"
    files = _write(directory, rows, found, curves, chosen, label)
    if as_json:
        print_json({"scenario": chosen.to_dict(), "rows": rows})
    else:
        _show(chosen, rows, label, serving_notes(setup), seeds)
    note(f"wrote {directory}: {', '.join(file.name for file in files)}")


def _prepare(out: str | None, name: str) -> Path:
    from ultraep_sim.commands.run import result_directory

    target = None if out is None else given_path(out, "--out", "name a directory, or leave it out")
    return result_directory(target or Path("runs") / f"{name}-capacity")


def _curves(setup: Setup, found: Sequence[Capacity], progress: Report) -> dict[str, list[Point]]:
    """Time the first token at rates around the largest one, with the scenario's own seed."""
    from ultraep_sim.serving.capacity import measure

    curves, done = {}, 0
    for one in found:
        curves[one.policy] = [p for p in one.points if p.seed == setup.scenario.seed]
        for factor in _CURVE:
            rate = factor * one.by_seed[0]
            curves[one.policy].append(measure(setup, one.policy, rate, stop=False))
            done += 1
            progress("curves", done, len(found) * len(_CURVE))
    return curves


def _write(
    directory: Path,
    rows: list[dict[str, object]],
    found: Sequence[Capacity],
    curves: dict[str, list[Point]],
    scenario: Scenario,
    label: str,
) -> list[Path]:
    import csv

    from ultraep_sim.report.plot_serving import draw_capacity

    tables = {
        "capacity.csv": rows,
        "runs.csv": [{"policy": one.policy, **asdict(p)} for one in found for p in one.points],
    }
    files = []
    for name, content in tables.items():
        with (directory / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(content[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(content)
        files.append(directory / name)
    (directory / "scenario.yaml").write_text(scenario.to_yaml(directory), encoding="utf-8")
    files.append(directory / "scenario.yaml")
    if curves and scenario.serving is not None:
        slo = scenario.serving.slo
        names = {spec.label: spec.name for spec in scenario.policies}
        stem = directory / "capacity"
        files += draw_capacity(curves, names, slo.ttft_s, slo.statistic, label, stem)
    return files


def _show(
    scenario: Scenario, rows: list[dict[str, object]], label: str, notes: list[str], seeds: int
) -> None:
    from rich.text import Text

    from ultraep_sim.report.serving_tables import FOUND, capacity_finding, serving_table
    from ultraep_sim.report.tables import title_of

    assert scenario.serving is not None  # noqa: S101  (it was searched)
    slo = scenario.serving.slo
    names = {spec.label: spec.name for spec in scenario.policies}
    told = f"a {slo.statistic} TTFT of at most {slo.ttft_s:g} s"
    notes = [*notes, f"{seeds} independent repetitions; the interval is Student's t over them"]
    print_renderable(
        Text(title_of(scenario.to_dict()), style="bold"),
        serving_table(rows, FOUND),
        Text(capacity_finding(rows, names, told) + "\n", style="bold"),
        Text(f"Workload: {label}."),
        *(Text(f"Note: {text}.") for text in notes),
    )
