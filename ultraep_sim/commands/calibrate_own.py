"""``calibrate`` with measurements of one's own: a run's log, or a document of ``bench``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultraep_sim.commands.console import note, print_json, print_renderable
from ultraep_sim.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from ultraep_sim.calibrate.fit import FitResult
    from ultraep_sim.calibrate.outcome import Outcome
    from ultraep_sim.calibrate.runlog.context import Context
    from ultraep_sim.calibrate.runlog.log import Log
    from ultraep_sim.model.profiles import RackProfile
    from ultraep_sim.model.provenance import Quantity


@dataclass(frozen=True)
class Asked:
    """Options of the command that concern one's own measurements."""

    rack: str | None
    model: str | None
    trace: str | None
    ranks: int | None
    weight_dtype: str
    dispatch_dtype: str
    combine_dtype: str
    repair: tuple[str, ...]


def run(path: Path, asked: Asked, *, out: Path | None, plot: Path | None, as_json: bool) -> None:
    """Calibrate from a file, told apart by its content, and show or write what was found."""
    found = _document(path, asked) if _is_json(path) else _log(path, asked)
    if out is not None:
        _write(out, found)
    if plot is not None:
        draw(plot, {name: fit.log_errors for name, fit in found.fits.items()}, found.title)
    if as_json:
        print_json(found.to_dict())
    else:
        print_renderable(*_show(found))


def _is_json(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
    except OSError as error:
        raise InputError(
            error.strerror or str(error), place="MEASUREMENTS", value=str(path),
            remedy="give silicon, or the path of a log (CSV, Parquet) or a bench document (JSON)",
        ) from None  # fmt: skip


def _rack(name: str | None) -> RackProfile | None:
    from ultraep_sim.model.hardware import get_rack
    from ultraep_sim.model.profile_file import read_profile

    if name is None:
        return None
    return read_profile(name) if name.endswith((".yaml", ".yml")) else get_rack(name)


def _document(path: Path, asked: Asked) -> Outcome:
    from ultraep_sim.calibrate.bench.document import read_document
    from ultraep_sim.calibrate.bench.profile import calibrate_document

    for place in ("model", "trace", "ranks", "repair"):
        if getattr(asked, place):
            raise InputError(
                "a bench document tells this itself", place=f"--{place}",
                value=getattr(asked, place), remedy="leave it out",
            )  # fmt: skip
    return calibrate_document(read_document(path), _rack(asked.rack))


def _log(path: Path, asked: Asked) -> Outcome:
    from ultraep_sim.calibrate.runlog.from_trace import loads_from_trace
    from ultraep_sim.calibrate.runlog.log import read_log
    from ultraep_sim.calibrate.runlog.profile import calibrate_log
    from ultraep_sim.trace import load_trace

    log = read_log(path)
    ranks = asked.ranks
    if ranks is None and log.unit_name == "rank":
        ranks = int(log.unit.max()) + 1
    if asked.trace is not None:
        if ranks is None:
            raise InputError("a trace tells the loads of ranks", place="--trace", remedy="leave it")
        log = loads_from_trace(log, load_trace(asked.trace), ranks)
    return calibrate_log(log, _context(log, asked, ranks), asked.repair)


def _context(log: Log, asked: Asked, ranks: int | None) -> Context | None:
    from ultraep_sim.calibrate.runlog.context import Context
    from ultraep_sim.model.shapes import get_model

    rack = _rack(asked.rack)
    if rack is None and asked.model is None:
        return None
    if rack is None or asked.model is None:
        raise InputError(
            "rack and model go together", place="--rack" if rack is None else "--model",
            remedy="give both: what one pair costs depends on the model",
        )  # fmt: skip
    if ranks is None or ranks < 2:
        raise InputError(
            "how many ranks has the EP group?",
            place="--ranks",
            value=ranks,
            remedy="give 2 or more",
        )
    return Context(
        rack, get_model(asked.model), ranks,
        asked.weight_dtype, asked.dispatch_dtype, asked.combine_dtype,
    )  # fmt: skip


def _write(out: Path, found: Outcome) -> None:
    from ultraep_sim.model.profile_file import write_profile

    if found.rack is None:
        raise InputError(
            "these measurements give no rack", place="--out", value=str(out),
            remedy="give --rack, and --model for a log; or leave out --out and take --json",
        )  # fmt: skip
    write_profile(out, found.rack, found.notes())
    note(f"wrote {out}")


def draw(target: Path, errors: dict[str, NDArray[np.float64]], title: str) -> None:
    """Draw the residuals of fits, by name of the fit, as TARGET.png and TARGET.svg."""
    from ultraep_sim.report.plot_residuals import figure
    from ultraep_sim.report.style import save, stem_of, style

    with style():
        drawn = figure(errors, "What the fits leave", f"Fitted rows of {title}.")
        for path in save(drawn, stem_of(target)):
            note(f"wrote {path}")


def _show(found: Outcome) -> list[Any]:
    from rich.text import Text

    shown: list[Any] = [Text(found.title, "bold"), _parameters(found)]
    if found.numbers:
        shown.append(numbers_table(found.numbers))
    shown.append(_residuals(found))
    lists = {
        "Bad rows": [str(one) for one in found.findings],
        "Not fitted": [f"{name}: {why}" for name, why in found.unfitted.items()],
        "Warnings": [*found.warnings, *fit_warnings(found.fits)],
    }
    shown += [Text("\n".join([head, *lines])) for head, lines in lists.items() if lines]
    return shown


def fit_warnings(fits: Mapping[str, FitResult]) -> list[str]:
    """Return the warnings of fits, each with the name of its fit."""
    return [f"{name}: {text}" for name, fit in fits.items() for text in fit.warnings]


def table_of(heads: tuple[str, ...], left: int) -> Table:
    """Return an empty table whose first `left` columns hold words."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for at, head in enumerate(heads):
        table.add_column(head, justify="left" if at < left else "right", no_wrap=True)
    return table


def _parameters(found: Outcome) -> Table:
    table = table_of(("fit", "parameter", "value", "unit", "95 % range"), 2)
    for name, fit in found.fits.items():
        for p in fit.parameters:
            low, high = fit.interval(p.name)
            span = "pinned" if p.low == p.high else f"{low:.4g} to {high:.4g}"
            table.add_row(name, p.name, f"{fit.values[p.name]:.4g}", p.unit, span)
    return table


def numbers_table(numbers: Mapping[str, Quantity]) -> Table:
    """Return a table of the numbers that a calibration replaced."""
    table = table_of(("number of the rack", "value", "unit", "range", "provenance"), 1)
    for name, q in numbers.items():
        span = "" if q.low is None else f"{q.low:.4g} to {q.high:.4g}"
        table.add_row(name, f"{q.value:.4g}", q.unit, span, q.provenance)
    return table


def _residuals(found: Outcome) -> Table:
    heads = ("residuals", "rows", "median", "p90", "worst", "held out", "median", "p90", "worst")
    table = table_of(heads, 1)
    for name, fit in found.fits.items():
        cells = [name]
        for one in (fit.fitted, fit.held_out):
            errors = (one.median, one.p90, one.worst)
            cells += [str(one.rows), *(f"{100 * e:.1f} %" if one.rows else "" for e in errors)]
        table.add_row(*cells)
    return table
