"""``ultraep-sim sweep``: many variants of a scenario; run, watched, resumed, exported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ultraep_sim.commands.console import (
    Report,
    given_path,
    note,
    print_json,
    print_renderable,
    progress_bars,
)
from ultraep_sim.errors import InputError, UltraEPSimError

if TYPE_CHECKING:
    from ultraep_sim.sweep import SweepResult, SweepSpec
    from ultraep_sim.sweep.runner import Estimate, Runner

EPILOG = """\
\b
Examples:
  ultraep-sim sweep scenarios/sweeps/policies.yaml
  ultraep-sim sweep scenarios/what-if/slots.yaml --jobs 8 --out runs/slots
  ultraep-sim sweep scenarios/what-if/slots.yaml --dry-run
  ultraep-sim sweep status runs/slots
  ultraep-sim sweep resume runs/slots
  ultraep-sim sweep export runs/slots --format parquet --out slots.parquet
  ultraep-sim sweep compare runs/slots runs/slots-new --out runs/change
  ultraep-sim sweep scenarios/what-if/slots.yaml --json | jq '.rows[] | {policy, layer_time_ms}'
"""


class _RunByDefault(TyperGroup):
    """``sweep FILE`` means ``sweep run FILE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    help="Run a scenario at every point of a grid: `sweep FILE`. Killed, it goes on where it was.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
)

Out = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Where the results go. [default: runs/<name of FILE>]"),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Processes. [default: one a CPU]")
]
BackendOption = Annotated[
    str, typer.Option(metavar="NAME", help="local (processes here) or ray (a Ray cluster).")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        help="Of a running Ray cluster, or auto. [default: a cluster of N workers here]",
    ),
]
Retry = Annotated[
    bool, typer.Option("--retry-failed", help="Run points again that failed earlier.")
]
NoReport = Annotated[
    bool, typer.Option("--no-report", help="Write the tables alone, no page and no figures.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]


@app.command(epilog=EPILOG)
def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A sweep file (YAML).")],
    out: Out = None,
    jobs: Jobs = None,
    backend: BackendOption = "local",
    ray_address: Address = None,
    retry_failed: Retry = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Count the points, time one of them, and stop."),
    ] = False,
    no_report: NoReport = False,
    as_json: AsJson = False,
) -> None:
    """Run what is missing of a sweep; print its table and write the tables, plots and a page.

    Every point is stored as soon as it is known, so a run that is killed loses only the points in
    flight, and the same command goes on from there.
    """
    from ultraep_sim.sweep import load_sweep
    from ultraep_sim.sweep.runner import directory_of

    path = given_path(file, "FILE", "name a sweep file")
    spec = load_sweep(path)
    target = None if out is None else given_path(out, "--out", "name a directory, or leave it out")
    _carry_out(
        spec, target or directory_of(path), jobs=jobs, backend=backend, address=ray_address,
        retry_failed=retry_failed, dry_run=dry_run, page=not no_report, as_json=as_json,
    )  # fmt: skip


@app.command()
def resume(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A sweep's results.")],
    jobs: Jobs = None,
    backend: BackendOption = "local",
    ray_address: Address = None,
    retry_failed: Retry = False,
    no_report: NoReport = False,
    as_json: AsJson = False,
) -> None:
    """Go on with the sweep of a directory, from what the directory says of it."""
    target = given_path(directory, "DIR", "name a directory")
    _carry_out(
        spec_of(target), target, jobs=jobs, backend=backend, address=ray_address,
        retry_failed=retry_failed, dry_run=False, page=not no_report, as_json=as_json,
    )  # fmt: skip


@app.command()
def status(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A sweep's results.")],
    as_json: AsJson = False,
) -> None:
    """Say how far the sweep of a directory is. Exit code 1 while points are missing or failed."""
    target = given_path(directory, "DIR", "name a directory")
    told = _status(spec_of(target), target)
    if as_json:
        print_json(told)
    else:
        _show_status(told)
    if told["missing"] or told["failed"]:
        raise typer.Exit(1)


@app.command()
def export(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A sweep's results.")],
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where to. [default: stdout, not parquet]")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="csv, json or parquet. [default: by FILE]"),
    ] = None,
) -> None:
    """Write the rows that are stored so far, in the order of the sweep's points."""
    from ultraep_sim.sweep.export import FORMATS, write_rows

    target = given_path(directory, "DIR", "name a directory")
    file = None if out is None else given_path(out, "--out", "name a file, or leave it out")
    chosen = form or (file.suffix.removeprefix(".") if file else "csv")
    if chosen not in FORMATS:
        raise InputError(
            "no such format", place="--format", value=chosen, remedy=f"one of {', '.join(FORMATS)}"
        )
    result = _stored(spec_of(target), target)
    write_rows(result, chosen, file)
    if file is not None:
        note(f"wrote {file}: {len(result.rows)} rows")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="DIR", help="Results of a sweep.")],
    second: Annotated[str, typer.Argument(metavar="DIR", help="Of another, or by other code.")],
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write compare.html, .json and .csv there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what differs between two sweeps, or between two code versions of one.

    Rows are matched by axes, policy, seed and draw; the largest changes come first. Of each
    directory the rows of its last whole run count, so keep the results of old code by another
    --out.
    """
    from ultraep_sim.report.sweep_compare import compare as compared
    from ultraep_sim.report.sweep_compare import write_comparison
    from ultraep_sim.sweep.export import read_rows

    paths = [given_path(text, "DIR", "name a directory") for text in (first, second)]
    target = None if out is None else given_path(out, "--out", "name a directory, or leave it out")
    specs = [spec_of(path) for path in paths]
    found = compared(
        read_rows(paths[0]), read_rows(paths[1]), specs[0].columns, specs[1].columns,
        names=(str(paths[0]), str(paths[1])), spec=specs[0].report,
    )  # fmt: skip
    if as_json:
        print_json(found.to_dict())
    else:
        from rich.text import Text

        print_renderable(found.table(), *map(Text, found.texts()))
    if target is not None:
        files = write_comparison(found, target)
        note(f"wrote {', '.join(str(file) for file in files)}")


def _carry_out(
    spec: SweepSpec,
    directory: Path,
    *,
    jobs: int | None,
    backend: str,
    address: str | None,
    retry_failed: bool,
    dry_run: bool,
    page: bool,
    as_json: bool,
) -> None:
    from ultraep_sim.sweep import Store, expand
    from ultraep_sim.sweep.run import carry_out
    from ultraep_sim.sweep.runner import Runner

    processes = jobs or os.cpu_count() or 1
    try:
        with progress_bars() as progress:
            runner = Runner(
                spec, Store(directory), processes, backend, address, retry_failed, progress
            )
            points = [] if spec.searches else expand(spec)
            for point in points:
                runner.key(point)  # whatever is wrong is said before anything is run or made
            with runner:
                if points:
                    plan = runner.estimate(points)
                    _check_columns(runner, spec)
                    note(_planned(plan, processes))
                if dry_run:
                    return
                result = carry_out(runner)
                whole = page and not result.failures
                files = result.write(directory, plot=whole)
                if whole and spec.smallest is None:
                    files += _page(result, directory, progress)
    except KeyboardInterrupt:
        note(f"stopped: what is known is in {directory}; ultraep-sim sweep resume {directory}")
        raise
    if as_json:
        print_json(
            {
                "question": spec.question,
                "rows": result.rows,
                "answers": list(result.answers),
                "failures": dict(result.failures),
                "notes": result.notes,
            }
        )
    else:
        from ultraep_sim.commands.sweep_table import show

        findings = directory / "findings.md"
        show(result, findings.read_text(encoding="utf-8") if findings in files else "")
    note(f"wrote {directory}: {', '.join(file.name for file in files)}")
    if (directory / "report.html") in files:
        note(f"open {directory / 'report.html'} in a browser")
    if result.failures:
        (first, why), *more = result.failures.items()
        others = f" ({len(more)} more: ultraep-sim sweep status {directory})" if more else ""
        raise UltraEPSimError(f"point {first} failed: {why}{others}")


def _check_columns(runner: Runner, spec: SweepSpec) -> None:
    """Refuse figures of what is not there after the first point, not after the last."""
    from ultraep_sim.report.plot_sweep import check_columns
    from ultraep_sim.sweep.report_spec import ReportSpec

    rows = next((part.rows for part in runner.found.values() if part.rows), None)
    if rows is None:
        return
    if spec.plot is not None:
        check_columns(rows, spec.plot)
    (spec.report or ReportSpec()).resolve(rows, spec.columns)


def _page(result: SweepResult, directory: Path, progress: Report) -> list[Path]:
    from ultraep_sim.report.sweep_report import write_report

    return write_report(
        result.rows, result.spec.columns, directory, question=result.spec.question,
        spec=result.spec.report, notes=result.notes, progress=progress,
    )  # fmt: skip


def _planned(plan: Estimate, jobs: int) -> str:
    from ultraep_sim.commands.sweep_table import duration

    text = f"{plan.points} points, {plan.stored} of them stored"
    if plan.failed:
        text += f", {plan.failed} failed earlier (--retry-failed runs them again)"
    if plan.pilot_s == plan.pilot_s:  # one ran, and did not fail
        text += (
            f"; one took {duration(plan.pilot_s)}: about {duration(plan.seconds)} for the rest on "
            f"{jobs} process{'es' if jobs > 1 else ''}"
        )
    return text


def spec_of(directory: Path) -> SweepSpec:
    """Return the sweep whose results lie in a directory."""
    from ultraep_sim.sweep import Store
    from ultraep_sim.sweep.spec import sweep_from_dict

    manifest = Store(directory).manifest
    file = manifest.get("file")
    return sweep_from_dict(manifest.get("sweep"), None if file is None else Path(file))


def _stored(spec: SweepSpec, directory: Path) -> SweepResult:
    """Gather what is stored, and run nothing."""
    from ultraep_sim.sweep import Store
    from ultraep_sim.sweep.run import stored_points

    return stored_points(spec, Store(directory))


def _status(spec: SweepSpec, directory: Path) -> dict[str, Any]:
    from ultraep_sim.engine.digests import code_digest
    from ultraep_sim.sweep import Store, expand
    from ultraep_sim.sweep.run import known_keys

    store = Store(directory)
    keys = {} if spec.searches else known_keys(expand(spec))
    done, failed = store.done(), store.failed()
    return {
        "directory": str(directory),
        "question": spec.question,
        "points": len(keys),
        "stored": len(keys.keys() & done),
        "failed": {keys[key].place: why for key, why in failed.items() if key in keys},
        "missing": len(keys.keys() - done - failed.keys()),
        "of_other_code_or_axes": len(done - keys.keys()),
        "same_code": store.manifest.get("code") == code_digest(),
    }


def _show_status(told: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name in ("points", "stored", "missing"):
        table.add_row(name, str(told[name]))
    table.add_row("failed", str(len(told["failed"])))
    table.add_row("of other code, traces or axes", str(told["of_other_code_or_axes"]))
    lines = [
        why if why.startswith(place) else f"{place}: {why}" for place, why in told["failed"].items()
    ]
    if not told["same_code"]:
        lines.append("The code has changed since: points it decides are run again by resume.")
    title = [Text(told["question"], style="bold")] if told["question"] else []
    print_renderable(*title, table, *map(Text, lines))
