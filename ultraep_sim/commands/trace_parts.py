"""``ultraep-sim trace merge`` and ``cut``: parts joined, parts taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ultraep_sim.commands.console import note
from ultraep_sim.commands.trace_options import (
    FormatOption,
    ModelOption,
    RepairOption,
    TopKOption,
    check_out,
    judged,
    read_options,
)
from ultraep_sim.errors import InputError

if TYPE_CHECKING:
    from ultraep_sim.trace.formats import Dump

MERGE_EPILOG = """\
\b
Examples:
  ultraep-sim trace merge rank0.npz rank1.npz all.parquet
  ultraep-sim trace merge monday.parquet tuesday.parquet week.parquet --by time
"""
CUT_EPILOG = """\
\b
Examples:
  ultraep-sim trace cut big.parquet small.parquet --steps 0:1000:10 --layers 0:8
  ultraep-sim trace cut big.parquet one-node.parquet --ranks 0:8
"""
_SPAN = "FIRST:PAST_LAST[:EVERY]"


def merge(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES... OUT", help="Dumps or traces; the last is written."),
    ],
    by: Annotated[
        str | None,
        typer.Option(
            help="ranks: source rows of the same records; time: one after the other. "
            "[default: told by their ranks and steps]"
        ),
    ] = None,
    format_name: FormatOption = None,
    model: ModelOption = None,
    top_k: TopKOption = None,
    repairs: RepairOption = None,
) -> None:
    """Merge the files of ranks, or of periods, into one trace."""
    from ultraep_sim.trace.convert import as_trace

    if len(files) < 3:
        raise InputError(
            "merging needs two files and the one to write",
            place="FILES... OUT",
            value=[str(file) for file in files],
            remedy="write trace merge A B OUT",
        )
    if by not in (None, "ranks", "time"):
        raise InputError("is no way to merge", place="--by", value=by, remedy="ranks or time")
    *sources, out = files
    check_out(out, *sources)
    options = read_options(model, top_k, None, None, None, None, None)
    from ultraep_sim.trace.formats import join, open_dump

    parts = [open_dump(source, options, format_name) for source in sources]
    ranks = _are_ranks(parts) if by is None else by == "ranks"
    trace = as_trace(judged(join(parts, ranks=ranks), repairs))
    trace.write(out)
    note(f"wrote {out}: {trace.meta.describe()}, {trace.num_records} records")


def _are_ranks(parts: list[Dump]) -> bool:
    """Whether parts tell different ranks, or begin at the same numbered record."""
    numbers = {part.meta.source_rank for part in parts}
    if None not in numbers and len(numbers) > 1:
        return True
    firsts = {part.first for part in parts}
    return len(firsts) == 1 and None not in firsts


def cut(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A trace (.parquet).")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The trace to write.")],
    steps: Annotated[str | None, typer.Option(metavar=_SPAN, help="Steps to keep.")] = None,
    layers: Annotated[str | None, typer.Option(metavar=_SPAN, help="Layers to keep.")] = None,
    ranks: Annotated[str | None, typer.Option(metavar=_SPAN, help="Source ranks to keep.")] = None,
) -> None:
    """Write a part of a trace; what was left out stands in its sampling.

    A stride over steps and dropped layers or ranks are gaps that history policies must know of; a
    window of steps is a shorter trace.
    """
    from ultraep_sim.trace import load_trace
    from ultraep_sim.trace.ranks import select_ranks

    check_out(out, file)
    trace = load_trace(file)
    if steps is not None or layers is not None:
        trace = trace.select(
            steps=None if steps is None else _span("--steps", steps),
            layers=None if layers is None else _span("--layers", layers),
        )
    if ranks is not None:
        trace = select_ranks(trace, _span("--ranks", ranks))
    trace.write(out)
    note(f"wrote {out}: {trace.meta.describe()}, {trace.num_records} records")


def _span(option: str, text: str) -> slice:
    """Read ``3``, ``0:100``, ``:100:10``."""
    words = text.split(":")
    try:
        numbers = [int(word) if word.strip() else None for word in words]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or (len(numbers) == 1 and numbers[0] is None):
        raise InputError(
            "is no range", place=option, value=text, remedy=f"give a number or {_SPAN}"
        )
    if len(numbers) == 1 and numbers[0] is not None:
        return slice(numbers[0], numbers[0] + 1)
    return slice(*numbers)
