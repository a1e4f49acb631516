"""``ultraep-sim trace convert`` and ``trace check``: foreign dumps, judged and imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ultraep_sim.commands.console import note, print_json, print_renderable
from ultraep_sim.commands.trace_options import (
    ExpertsOption,
    FormatOption,
    LayersOption,
    MapOption,
    ModelOption,
    PhaseOption,
    RepairOption,
    TokensOption,
    TopKOption,
    check_out,
    judged,
    read_options,
)
from ultraep_sim.errors import InputError

CONVERT_EPILOG = """\
\b
Examples:
  ultraep-sim trace convert expert_distribution.pt out.parquet --model deepseek-v3-671b
  ultraep-sim trace convert dump-folder/ out.parquet --top-k 8 --repair drop-zero-rows
  ultraep-sim trace convert out.parquet chunks/ --to ultraep-npz
Formats and what each must hold: docs/traces.md.
"""
CHECK_EPILOG = """\
\b
Examples:
  ultraep-sim trace check dump.npz --top-k 8
  ultraep-sim trace check out.parquet --json
Exits with 1 where something is wrong.
"""
DumpArgument = Annotated[
    Path, typer.Argument(metavar="DUMP", help="A file, or a folder of chunks or rank files.")
]


def convert(
    dump: DumpArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    format_name: FormatOption = None,
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="Format to write.")] = "parquet",
    model: ModelOption = None,
    top_k: TopKOption = None,
    experts: ExpertsOption = None,
    layers: LayersOption = None,
    phase: PhaseOption = None,
    placement: MapOption = None,
    tokens_per_step: TokensOption = None,
    repairs: RepairOption = None,
) -> None:
    """Import a dump of a real system as a trace, or write a trace in a foreign format.

    The dump is checked first. What no trace can hold stops it, by the name of the disease and with
    the repair that mends it; nothing is repaired unless --repair says so, and repairs are written
    into the metadata.
    """
    from ultraep_sim.trace.convert import as_trace
    from ultraep_sim.trace.diagnose import STOPS
    from ultraep_sim.trace.formats import open_dump

    write = _writer(to)
    check_out(out, dump)
    options = read_options(model, top_k, experts, layers, phase, placement, tokens_per_step)
    found = judged(open_dump(dump, options, format_name), repairs)
    for finding in found.findings:
        if finding.level != STOPS:
            note(f"found {finding.line()}")
    trace = as_trace(found)
    if write is None:
        trace.write(out)
        note(f"wrote {out}: {trace.meta.describe()}, {trace.num_records} records")
    else:
        for path in write(trace, out):
            note(f"wrote {path}")


def _writer(name: str):  # type: ignore[no-untyped-def]  # Format.write, or None for Parquet
    from ultraep_sim.trace.formats import WRITABLE, get_format

    if name == "parquet":
        return None
    if name not in WRITABLE:
        raise InputError(
            "cannot be written",
            place="--to",
            value=name,
            remedy=f"use one of parquet, {', '.join(WRITABLE)}",
        )
    return get_format(name).write


def check(
    file: DumpArgument,
    format_name: FormatOption = None,
    model: ModelOption = None,
    top_k: TopKOption = None,
    experts: ExpertsOption = None,
    layers: LayersOption = None,
    phase: PhaseOption = None,
    placement: MapOption = None,
    tokens_per_step: TokensOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Name what is wrong with a dump or a trace: what was seen, how sure, and what helps."""
    from rich.text import Text

    from ultraep_sim.trace.diagnose import TELLS
    from ultraep_sim.trace.formats import open_dump

    options = read_options(model, top_k, experts, layers, phase, placement, tokens_per_step)
    opened = open_dump(file, options, format_name)
    found = judged(opened, None)
    wrong = [finding for finding in found.findings if finding.level != TELLS]
    meta, records = opened.meta, len(found.seen.keys)
    if as_json:
        print_json(
            {
                "file": str(file),
                "format": meta.format,
                "records": records,
                "num_experts": meta.num_experts,
                "num_layers": meta.num_layers,
                "source_ranks": meta.source_ranks,
                "top_k": meta.top_k,
                "healthy": not wrong,
                "findings": [finding.to_dict() for finding in found.findings],
            }
        )
    else:
        k = "top-k not known (checks of it are left out)" if meta.top_k is None else meta.top_k
        print_renderable(
            Text(
                f"{file}: {meta.format}, {records} records of {meta.num_layers} layers, "
                f"{meta.num_experts} experts, top-k {k}"
            ),
            *(Text(f"  !  {finding.line()}") for finding in found.findings),
            Text(f"verdict: {verdict(wrong)}", style="bold"),
        )
    if wrong:
        raise typer.Exit(1)


def verdict(wrong: list) -> str:  # type: ignore[type-arg]  # findings; the class is imported late
    """Return the verdict in a line."""
    if not wrong:
        return "healthy"
    return f"{len(wrong)} found: {', '.join(finding.name for finding in wrong)}"
