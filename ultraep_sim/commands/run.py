"""``ultraep-sim run``: replay or serve a workload under policies; a table, plots, a directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from ultraep_sim.commands.console import (
    given_path,
    note,
    print_json,
    print_renderable,
    progress_bars,
)
from ultraep_sim.errors import InputError, ScenarioError

if TYPE_CHECKING:
    from ultraep_sim.commands.console import Report
    from ultraep_sim.engine.run import RunResult
    from ultraep_sim.scenario import Scenario
    from ultraep_sim.serving.run import ServingResult

EPILOG = """\
\b
Examples:
  ultraep-sim run
  ultraep-sim run scenarios/deepseek-v3-prefill.yaml --policy ultraep --policy eplb
  ultraep-sim run scenarios/qwen3-235b-serving.yaml --set workload.requests.arrivals.rate_per_s=200
  ultraep-sim run --set ep.slots_per_rank=4 --set policies.1.cadence_steps=50 --out runs/four-slots
  ultraep-sim run --json | jq '.rows[] | {policy, layer_time_ms}'
"""

DEFAULT = Path("scenarios") / "quickstart.yaml"

# Argument of `ultraep_sim.trace.synthesize`: the key of the scenario it comes from.
KEYS = {
    "imbalance": "workload.synthetic.imbalance",
    "drift": "workload.synthetic.drift",
    "noise": "workload.synthetic.noise",
    "source_noise": "workload.synthetic.source_noise",
    "num_layers": "workload.synthetic.layers",
    "steps": "workload.synthetic.steps",
    "tokens_per_rank": "workload.tokens_per_rank",
    "source_ranks": "ep.ranks",
    "at_ranks": "ep.ranks",
}


def run(
    scenario: Annotated[
        str | None,
        typer.Argument(metavar="SCENARIO", help="YAML file. [default: scenarios/quickstart.yaml]"),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the results go. [default: runs/<scenario name>]"),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Change a value of the scenario, for example ep.slots_per_rank=4. Repeatable.",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Run only this policy of the scenario, by name or label. Repeatable.",
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Processes that share a replay; same results."),
    ] = 1,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Write no PNG and SVG.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Replay a workload through the policies, or serve its requests under each.

    Prints one table that says what each is worth, and writes DIR/result.parquet (every record, or
    every step), summary.json, scenario.yaml (as resolved) and plots.
    """
    from ultraep_sim.scenario import load_scenario

    if scenario is None:
        path = default_scenario()
    else:
        path = given_path(scenario, "SCENARIO", "name a YAML file, or leave it out")
    target = None if out is None else given_path(out, "--out", "name a directory, or leave it out")
    chosen = only(load_scenario(path, sets or ()), policy or ())
    directory = result_directory(target or Path("runs") / chosen.name)
    job = _serve if chosen.serving is not None else _replay
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    with progress_bars() as progress:
        result, plots = job(
            chosen, directory, command, progress, path=path, plots=not no_plots, jobs=jobs
        )
    if as_json:
        print_json({"scenario": chosen.to_dict(), "rows": result.rows})
    else:
        _show(result)
    note(f"wrote {directory}: {', '.join(result.FILES)}" + _names(plots))


def _replay(
    scenario: Scenario,
    directory: Path,
    command: list[str],
    progress: Report,
    *,
    path: Path,
    plots: bool,
    jobs: int,
) -> tuple[RunResult, list[Path]]:
    from ultraep_sim.engine.run import run_scenario
    from ultraep_sim.report.plots import write_plots

    try:
        result = run_scenario(scenario, progress=progress, jobs=jobs, directory=directory)
    except InputError as error:
        raise _named_as_key(error, scenario).at(file=path) from error
    result.write(directory, command)
    return result, write_plots(directory, progress=progress) if plots else []


def _serve(
    scenario: Scenario,
    directory: Path,
    command: list[str],
    progress: Report,
    *,
    path: Path,
    plots: bool,
    jobs: int,
) -> tuple[ServingResult, list[Path]]:
    from ultraep_sim.report.plot_serving import write_serving_plots
    from ultraep_sim.serving.run import serve_scenario

    if jobs > 1:
        note("--jobs is for replays; requests are served in one process")
    began = perf_counter()
    try:
        result = serve_scenario(scenario, progress=progress)
    except InputError as error:
        raise error.at(file=path) from error
    took, served = perf_counter() - began, result.requests.num_rows
    # On stderr alone: results never depend on how fast this machine is.
    note(f"simulated {served:,} requests in {took:.1f} s ({served / took:,.0f} a second)")
    result.write(directory, command)
    return result, write_serving_plots(result, directory) if plots else []


def _named_as_key(error: InputError, scenario: Scenario) -> InputError:
    """Name the key of the scenario where a drawn workload's error names the library's argument."""
    place = str(error.place)
    if scenario.workload.synthetic is None or not place.startswith("synthesize"):
        return error
    # The place is "synthesize(imbalance=...)", or else the problem begins with the argument.
    _, named, rest = place.partition("(")
    argument = rest.partition("=")[0] if named else error.problem.partition(" ")[0]
    key = KEYS.get(argument)
    if key is None:
        return error
    word = key.rpartition(".")[2]
    return type(error)(
        error.problem if named else error.problem.replace(argument, word, 1),
        file=error.file,
        place=key,
        value=error.value,
        remedy=error.remedy if named else f"change {word}",
    )


def default_scenario() -> Path:
    """Find the quickstart: under the current directory, else beside the installed checkout.

    Raises
    ------
    ScenarioError
        It is in neither place.
    """
    checkout = Path(__file__).parents[2] / DEFAULT
    for path in (DEFAULT, checkout):
        if path.is_file():
            return path
    raise ScenarioError(
        "no scenario was named and the default is not here",
        file=DEFAULT,
        place="SCENARIO",
        value=None,
        remedy="name a scenario file: ultraep-sim run FILE.yaml",
    )


def only(scenario: Scenario, wanted: Sequence[str]) -> Scenario:
    """Keep the policies asked for, in the order of the scenario."""
    if not wanted:
        return scenario
    from ultraep_sim.scenario.presets import did_you_mean

    known = [word for spec in scenario.policies for word in dict.fromkeys((spec.label, spec.name))]
    for word in wanted:
        if word not in known:
            raise ScenarioError(
                f"the scenario {scenario.name} runs no such policy",
                place="--policy",
                value=word,
                remedy=did_you_mean(word, known),
            )
    kept = [spec for spec in scenario.policies if {spec.label, spec.name} & set(wanted)]
    return scenario.model_copy(update={"policies": kept})


def result_directory(directory: Path) -> Path:
    """Make the directory now, so that a wrong --out fails before the work and not after it."""
    from ultraep_sim.report.plot_serving import PLOTS as SERVING_PLOTS
    from ultraep_sim.report.plots import PLOTS

    if directory.exists() and not directory.is_dir():
        raise InputError(
            "this is a file",
            file=directory,
            place="--out",
            value=str(directory),
            remedy="name a directory, new or of an earlier run",
        )
    directory.mkdir(parents=True, exist_ok=True)
    # Plots of an earlier run must not stand beside the numbers of this one.
    for name in (*PLOTS, *SERVING_PLOTS, "capacity"):
        for suffix in (".png", ".svg"):
            (directory / name).with_suffix(suffix).unlink(missing_ok=True)
    return directory


def _show(result: RunResult | ServingResult) -> None:
    from rich.text import Text

    from ultraep_sim.report.serving_tables import lost, serving_finding, serving_table
    from ultraep_sim.report.tables import finding, results_table, title_of

    names = {spec.label: spec.name for spec in result.scenario.policies}
    served = result.scenario.serving is not None
    table, found = (serving_table, serving_finding) if served else (results_table, finding)
    print_renderable(
        Text(title_of(result.scenario.to_dict()), style="bold"),
        table(result.rows),
        Text(found(result.rows, names) + "\n", style="bold"),
        *(
            Text(f"Without a first token: {text}.")
            for text in (lost(result.rows) if served else ())
        ),
        Text(f"Workload: {result.workload_label}."),
        *(Text(f"Note: {text}.") for text in result.notes),
    )


def _names(paths: Sequence[Path]) -> str:
    pngs = [path.name for path in paths if path.suffix == ".png"]
    return ", " + ", ".join(pngs) + " (and .svg)" if pngs else ""
