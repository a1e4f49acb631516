"""``ultraep-sim trace``: recorded routing, looked at, imported, checked, cut, merged, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from ultraep_sim.commands import trace_convert, trace_parts, trace_synth
from ultraep_sim.commands.console import note, print_json, print_renderable
from ultraep_sim.commands.trace_options import RepairOption, check_out, judged
from ultraep_sim.errors import InputError

if TYPE_CHECKING:
    from ultraep_sim.trace import Trace
    from ultraep_sim.trace.diagnose import Finding
    from ultraep_sim.trace.stats import TraceStats

EPILOG = """\
\b
Examples:
  ultraep-sim trace info traces/train-aux.parquet
  ultraep-sim trace info traces/train-aux.parquet --plot heat.png
  ultraep-sim trace info my.parquet --ep 16 --ep 72 --json
"""

app = typer.Typer(
    help="Look at recorded routing, import, check, merge and cut it.", rich_markup_mode=None
)


@app.callback(invoke_without_command=True)
def _group(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command(epilog=trace_convert.CONVERT_EPILOG)(trace_convert.convert)
app.command(epilog=trace_convert.CHECK_EPILOG)(trace_convert.check)
app.command(epilog=trace_parts.MERGE_EPILOG)(trace_parts.merge)
app.command(epilog=trace_parts.CUT_EPILOG)(trace_parts.cut)
app.command(epilog=trace_synth.SYNTH_EPILOG)(trace_synth.synth)


@app.command(epilog=EPILOG)
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A trace (.parquet).")],
    ep: Annotated[
        list[int] | None,
        typer.Option(
            metavar="RANKS",
            help="EP size to tell the imbalance at. Repeatable. [default: 8 16 32 64]",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw a heat map of the load here.")
    ] = None,
    repairs: RepairOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where --repair writes the mended trace.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Say what a trace holds and whether it is sound.

    Every record is read and checked: what breaks the format is refused with a line that says
    where, what is merely unusual (gaps, uneven batches) is marked with an exclamation mark. The
    verdict names diseases that a trace can have though it keeps the format (padding, replicated
    counting, mixed phases); --repair mends one by name and writes that into the metadata.
    """
    from ultraep_sim.trace import load_trace
    from ultraep_sim.trace.stats import trace_stats

    _check_plot_name(plot)
    if (out is None) != (not repairs):
        raise InputError(
            "--repair and --out go together",
            place="--out",
            value=None if out is None else str(out),
            remedy="name the repair and the file to write",
        )
    if out is not None:
        check_out(out, file)
    trace = load_trace(file)
    found = trace_stats(trace, _sizes(file, trace.meta.num_experts, ep))
    if plot is not None:
        _draw(trace, file, plot)
    wrong = _verdict(file, repairs, out)
    if as_json:
        diseases = [finding.to_dict() for finding in wrong]
        about = {"file": str(file), "meta": trace.meta.to_dict()}
        print_json({**about, **found.to_dict(), "findings": diseases})
    else:
        _show(file, trace, found, wrong)


def _verdict(file: Path, repairs: list[str] | None, out: Path | None) -> list[Finding]:
    """Name the diseases of the trace; write the mended one where that was asked for."""
    from ultraep_sim.trace.convert import as_trace
    from ultraep_sim.trace.diagnose import diagnose
    from ultraep_sim.trace.formats import open_dump

    dump = open_dump(file, format_name="parquet")
    found = diagnose(dump)
    if out is not None:
        as_trace(judged(dump, repairs)).write(out)
        note(f"wrote {out}")
    return found


def _check_plot_name(plot: Path | None) -> None:
    """Refuse a wrong name before minutes of reading, not after."""
    if plot is None:
        return
    # "", "." and ".." name folders: they have no suffix to replace.
    if plot.is_dir() or plot.name in ("", ".."):
        raise InputError(
            "a heat map needs a file name",
            place="--plot",
            value="" if plot == Path() else str(plot),
            remedy=f"write --plot {plot / 'heat.png'}",
        )
    if plot.suffix.lower() != ".png":
        raise InputError(
            "a heat map is a .png file",
            place="--plot",
            value=str(plot),
            remedy=f"write --plot {plot.with_suffix('.png')}",
        )
    if not plot.parent.is_dir():
        raise InputError(
            f"there is no folder {plot.parent}",
            place="--plot",
            value=str(plot),
            remedy="make it first, or write elsewhere",
        )


def _sizes(file: Path, num_experts: int, asked: list[int] | None) -> Sequence[int]:
    """Return the EP sizes to tell: those asked for, or the usual ones that fit."""
    from ultraep_sim.trace.stats import EP_SIZES

    if not asked:
        return [size for size in EP_SIZES if size <= num_experts] or [num_experts]
    for size in asked:
        if not 1 <= size <= num_experts:
            raise InputError(
                f"no such EP size for the {num_experts} experts of this trace",
                file=file,
                place="--ep",
                value=size,
                remedy=f"give 1 to {num_experts}",
            )
    return asked


def _draw(trace: Trace, file: Path, plot: Path) -> None:
    from ultraep_sim.trace.heatmap import save_heatmap

    save_heatmap(trace, plot, title=file.stem)
    note(f"wrote {plot}")


def _show(file: Path, trace: Trace, found: TraceStats, wrong: list[Finding]) -> None:
    from rich.text import Text

    meta = trace.meta
    facts = [
        f"{meta.kind}: {meta.recorded}",
        f"{found.num_records} records: steps {found.first_step} to {found.last_step} "
        f"({found.num_steps} recorded), {found.num_layers} layers, "
        f"{found.num_micro_batches} micro-batches in all; phase {meta.phase}",
        f"sampling: {meta.sampling or 'none, every step and layer'}",
        f"sha256 {found.digest}",
    ]
    rows = found.rows()
    imbalance = [name for name in rows[0] if name.startswith("EP")]
    dynamics = [name for name in rows[0] if name not in imbalance and name != "layer"]
    print_renderable(
        Text(f"{file}: {meta.describe()}", style="bold"),
        *(Text(fact) for fact in facts),
        Text("\nRank imbalance (max / mean, contiguous homes) over the records", style="bold"),
        _table(rows, imbalance),
        Text(
            "Dynamics: correlation of expert loads so many recorded steps apart and from the "
            "first to the last steps; variance over that of independent tokens; experts never used",
            style="bold",
        ),
        _table(rows, dynamics),
        Text("Checks", style="bold"),
        *(Text(f"  {'ok' if c.ok else ' !'}  {c.name}: {c.detail}") for c in found.checks),
        *(Text(f"   !  {finding.line()}") for finding in wrong),
        Text(f"Verdict: {trace_convert.verdict(wrong)}", style="bold"),
    )


def _table(rows: list[dict[str, str]], columns: list[str]) -> Table:

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("layer", *columns):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["layer"], *(row[name] for name in columns))
    return table
