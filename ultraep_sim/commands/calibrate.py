"""``ultraep-sim calibrate``: turn measurements into a hardware profile with uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraep_sim.commands.console import (
    given_path,
    note,
    print_json,
    print_renderable,
    progress_bars,
)
from ultraep_sim.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from ultraep_sim.calibrate.silicon.profile import Calibrated

EPILOG = """\
\b
Examples:
  ultraep-sim calibrate silicon --system h200 --out h200.yaml
  ultraep-sim calibrate silicon --system gb300 --tables DIR --json
  ultraep-sim calibrate steps.csv --rack gb200-nvl72 --model qwen3-235b --out mine.yaml
  ultraep-sim calibrate steps.csv --repair unit_seconds --plot residuals
  ultraep-sim calibrate bench.json --rack h100-nvl8 --out h100.yaml
"""
_SILICON = "silicon"


def calibrate(
    measurements: Annotated[
        str,
        typer.Argument(
            metavar="MEASUREMENTS",
            help="silicon (the public kernel tables), the log of a run (CSV, Parquet), or a "
            "document of hw_runtime bench (JSON).",
        ),
    ],
    system: Annotated[
        str | None, typer.Option(metavar="NAME", help="h100, h200, b200, gb200 or gb300.")
    ] = None,
    framework: Annotated[
        str, typer.Option(metavar="NAME", help="Whose kernels: trtllm, vllm or sglang.")
    ] = "trtllm",
    tables: Annotated[
        str | None, typer.Option(metavar="DIR", help="Tables that are not an installed package.")
    ] = None,
    rack: Annotated[
        str | None, typer.Option(metavar="NAME", help="What was measured, as known before.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Log: the model that ran.")
    ] = None,
    trace: Annotated[
        str | None, typer.Option(metavar="FILE", help="Log: a trace that tells the loads.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(metavar="N", help="Log: ranks of the EP group.")
    ] = None,
    weight_dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="Log: of weights and arithmetic.")
    ] = "bf16",
    dispatch_dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="Log: of dispatch on the wire.")
    ] = "bf16",
    combine_dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="Log: of combine on the wire.")
    ] = "bf16",
    repair: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Log: mend rows of this disease; may be repeated."),
    ] = None,
    plot: Annotated[
        str | None, typer.Option(metavar="STEM", help="Draw residuals as STEM.png and STEM.svg.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the profile to this YAML file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Fit the time model to measurements, and write what was found as a hardware profile.

    A scenario then names the file: ``rack: h200.yaml``. Every number tells its provenance, its
    uncertainty and the digest of the rows it was fitted to.
    """
    target = None if out is None else given_path(out, "--out", "name a YAML file")
    picture = None if plot is None else given_path(plot, "--plot", "name a file")
    if measurements != _SILICON:
        from ultraep_sim.commands import calibrate_own

        _refuse("silicon", system=system, tables=tables)
        asked = calibrate_own.Asked(
            rack, model, trace, ranks, weight_dtype, dispatch_dtype, combine_dtype,
            tuple(repair or ()),
        )  # fmt: skip
        path = given_path(measurements, "MEASUREMENTS", "give silicon, a log or a bench document")
        calibrate_own.run(path, asked, out=target, plot=picture, as_json=as_json)
        return
    _refuse(
        "measurements of one's own", rack=rack, model=model, trace=trace, ranks=ranks,
        repair=repair,
    )  # fmt: skip
    found = _silicon(system, framework, tables)
    if target is not None:
        from ultraep_sim.model.profile_file import write_profile

        write_profile(target, found.rack, found.notes())
        note(f"wrote {target}")
    if picture is not None:
        from ultraep_sim.commands.calibrate_own import draw

        draw(picture, {name: fit.log_errors for name, fit in found.fits.items()}, found.rack.name)
    if as_json:
        print_json({"rack": found.rack.to_dict(), **found.notes()})
    else:
        print_renderable(*_show(found))


def _refuse(whose: str, **options: object) -> None:
    for name, value in options.items():
        if value:
            raise InputError(
                f"an option of {whose}", place=f"--{name}", value=value, remedy="leave it out"
            )


def _silicon(system: str | None, framework: str, tables: str | None) -> Calibrated:
    from ultraep_sim.calibrate.silicon.profile import RACK_OF
    from ultraep_sim.calibrate.silicon.profile import calibrate as run
    from ultraep_sim.calibrate.silicon.tables import find_tables

    if system is None:
        raise InputError(
            "which system?", place="--system", remedy=f"choose from {', '.join(RACK_OF)}"
        )
    folder = None if tables is None else given_path(tables, "--tables", "name a directory")
    with progress_bars() as progress:
        return run(find_tables(folder), system, framework=framework, progress=progress)


def _show(found: Calibrated) -> list[Any]:
    from rich.text import Text

    from ultraep_sim.commands.calibrate_own import fit_warnings, numbers_table

    numbers = numbers_table(found.numbers)
    shown: list[Any] = [Text(found.rack.name, "bold"), numbers, _residuals(found)]
    warnings = fit_warnings(found.fits)
    if warnings:
        shown.append(Text("\n".join(["Warnings", *warnings])))
    return shown


def _residuals(found: Calibrated) -> Table:
    from ultraep_sim.commands.calibrate_own import table_of

    heads = ("fit", "rows", "median", "p90", "worst", "cross-validated median", "p90")
    table = table_of(heads, 1)
    for name, fit in found.fits.items():
        one, other = fit.held_out, fit.cross_validated
        errors = (one.median, one.p90, one.worst, other.median, other.p90)
        table.add_row(name, str(one.rows), *(f"{100 * e:.1f} %" for e in errors))
    return table
