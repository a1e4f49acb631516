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
"""
_SILICON = "silicon"


def calibrate(
    measurements: Annotated[
        str, typer.Argument(metavar="MEASUREMENTS", help="silicon: the public kernel tables.")
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
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the profile to this YAML file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Fit the time model to measurements, and write what was found as a hardware profile.

    A scenario then names the file: ``rack: h200.yaml``. Every number tells its provenance, its
    uncertainty and the digest of the rows it was fitted to.
    """
    if measurements != _SILICON:
        raise InputError(
            "unknown measurements",
            place="MEASUREMENTS",
            value=measurements,
            remedy=f"give {_SILICON}",
        )
    target = None if out is None else given_path(out, "--out", "name a YAML file")
    found = _silicon(system, framework, tables)
    if target is not None:
        from ultraep_sim.model.profile_file import write_profile

        write_profile(target, found.rack, found.notes())
        note(f"wrote {target}")
    if as_json:
        print_json({"rack": found.rack.to_dict(), **found.notes()})
    else:
        print_renderable(*_show(found))


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

    warnings = [f"{name}: {text}" for name, fit in found.fits.items() for text in fit.warnings]
    shown: list[Any] = [Text(found.rack.name, "bold"), _values(found), _residuals(found)]
    if warnings:
        shown.append(Text("Warnings\n" + "\n".join(warnings)))
    return shown


def _values(found: Calibrated) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("fitted number", "value", "unit", "range"):
        table.add_column(head, justify="right" if head in ("value", "range") else "left")
    for name, number in found.rack.quantities().items():
        if number.provenance == "fitted" and "aiconfigurator-core 0.12.0, rows" in number.source:
            span = f"{number.low:.4g} to {number.high:.4g}"
            table.add_row(name, f"{number.value:.4g}", number.unit, span)
    return table


def _residuals(found: Calibrated) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("fit", "rows", "median", "p90", "worst", "cross-validated median", "p90"):
        table.add_column(head, justify="left" if head == "fit" else "right", no_wrap=True)
    for name, fit in found.fits.items():
        one, other = fit.held_out, fit.cross_validated
        errors = (one.median, one.p90, one.worst, other.median, other.p90)
        table.add_row(name, str(one.rows), *(f"{100 * e:.1f} %" for e in errors))
    return table
