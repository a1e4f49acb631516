"""``ultraep-sim trace synth``: traces drawn, to a target imbalance or like a recorded one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ultraep_sim.commands.console import note, print_json, print_renderable
from ultraep_sim.commands.trace_options import check_out
from ultraep_sim.errors import InputError

if TYPE_CHECKING:
    from ultraep_sim.trace.synth_closeness import Compared

SYNTH_EPILOG = """\
\b
Examples:
  ultraep-sim trace synth drawn.parquet --experts 256 --top-k 8 --layers 4 --steps 100 \\
    --imbalance 2 --at-ranks 64
  ultraep-sim trace synth alike.parquet --like traces/prefill-switch.parquet --seed 1
  ultraep-sim trace synth python.parquet --like traces/prefill-switch.parquet --domain python
"""
_NEEDED = ("experts", "top_k", "layers", "steps", "imbalance", "at_ranks")


def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The trace to write (.parquet).")],
    like: Annotated[
        Path | None,
        typer.Option(metavar="TRACE", help="Fit to this trace (.parquet); tells how close it is."),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="With --like: only this domain, of those its notes name.")
    ] = None,
    experts: Annotated[int | None, typer.Option(help="Experts of a layer.")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Experts a token.")] = None,
    layers: Annotated[int | None, typer.Option(help="MoE layers.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps. [default with --like: as recorded]")
    ] = None,
    imbalance: Annotated[
        float | None, typer.Option(help="Mean of max over mean rank load to reach.")
    ] = None,
    at_ranks: Annotated[int | None, typer.Option(help="EP size at which it is reached.")] = None,
    micro_batches: Annotated[
        int | None, typer.Option(help="Micro-batches of a step. [default: 1]")
    ] = None,
    sources: Annotated[int | None, typer.Option(help="Source ranks. [default: 1]")] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Tokens a source rank. [default: 8192]")
    ] = None,
    phase: Annotated[
        str | None, typer.Option(help="training or prefill. [default: training]")
    ] = None,
    drift: Annotated[
        float | None, typer.Option(help="Spread of slow drift (log popularity). [default: 0]")
    ] = None,
    drift_memory: Annotated[
        float | None, typer.Option(help="Step-to-step correlation of it. [default: 0.98]")
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Spread that is new every micro-batch. [default: 0]")
    ] = None,
    source_noise: Annotated[
        float | None, typer.Option(help="The same, of every source. [default: 0]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --like: print the comparison as JSON.")
    ] = False,
) -> None:
    """Draw a synthetic trace that reaches a target imbalance, or is like a recorded one.

    With --like, only statistics are read off the recording: the synthetic trace may be longer or
    have another seed, and how close its statistics are is told. It says SYNTHETIC everywhere.
    """
    shape = {
        "experts": experts,
        "top_k": top_k,
        "layers": layers,
        "steps": steps,
        "imbalance": imbalance,
        "at_ranks": at_ranks,
        "micro_batches": micro_batches,
        "sources": sources,
        "tokens": tokens,
        "phase": phase,
        "drift": drift,
        "drift_memory": drift_memory,
        "noise": noise,
        "source_noise": source_noise,
    }
    given = {name: value for name, value in shape.items() if value is not None}
    if like is not None:
        given.pop("steps", None)
        _refuse(given, "says what --like reads off the trace")
        _draw_like(out, like, domain, steps, seed, as_json)
        return
    _refuse({"domain": domain} if domain else {}, "needs --like")
    _refuse({"json": True} if as_json else {}, "needs --like")
    for name in _NEEDED:
        if name not in given:
            raise InputError(
                "is missing", place=_option(name), remedy="give it, or a trace with --like"
            )
    _draw_target(out, given, seed)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _refuse(given: dict[str, Any], problem: str) -> None:
    for name, value in given.items():
        raise InputError(problem, place=_option(name), value=value, remedy="leave one of them out")


def _draw_target(out: Path, given: dict[str, Any], seed: int) -> None:
    from ultraep_sim.trace import synthesize

    check_out(out)
    named = {"experts": "num_experts", "layers": "num_layers", "sources": "source_ranks"}
    named["tokens"] = "tokens_per_rank"
    options: dict[str, Any] = {"source_ranks": 1, "tokens_per_rank": 8192}
    options |= {named.get(name, name): value for name, value in given.items()}
    trace = synthesize(**options, seed=seed)
    trace.write(out)
    note(f"wrote {out}: {trace.meta.describe()}, {trace.num_records} records, SYNTHETIC")


def _draw_like(
    out: Path, like: Path, domain: str | None, steps: int | None, seed: int, as_json: bool
) -> None:
    from ultraep_sim.trace import closeness, load_trace, synthesize_like
    from ultraep_sim.trace.synth_like import one_domain

    check_out(out, like)
    real = load_trace(like)
    try:
        real = real if domain is None else one_domain(real, domain)
        trace = synthesize_like(real, steps, seed)
    except InputError as error:
        raise error.at(file=like) from None
    trace.write(out)
    note(f"wrote {out}: {trace.meta.describe()}, {trace.num_records} records, SYNTHETIC")
    found = closeness(real, load_trace(out))
    if as_json:
        print_json(
            {
                "file": str(out),
                "like": str(like),
                **trace.meta.notes["like"],
                "closeness": [one.to_dict() for one in found],
            }
        )
    else:
        _show(out, like, found)


def _show(out: Path, like: Path, found: list[Compared]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("statistic", no_wrap=True)
    for name in ("real", "synthetic", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        table.add_row(*one.row())
    print_renderable(Text(f"{out} (SYNTHETIC) beside {like}", style="bold"), table)
