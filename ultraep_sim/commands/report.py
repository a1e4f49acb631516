"""``ultraep-sim report``: the load of a trace or a run as one HTML file to look through."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ultraep_sim.commands.console import Report, given_path, note, print_json, progress_bars
from ultraep_sim.errors import InputError, UltraEPSimError

if TYPE_CHECKING:
    from ultraep_sim.engine.load_view import LoadView
    from ultraep_sim.report.html_report import About
    from ultraep_sim.report.results import RunDirectory
    from ultraep_sim.trace import Record, Trace

EPILOG = """\
\b
Examples:
  ultraep-sim report traces/train-aux.parquet
  ultraep-sim report traces/train-aux.parquet --ranks 32 --policy eplb --policy ultraep
  ultraep-sim report runs/quickstart
  ultraep-sim report runs/policies
  ultraep-sim report big.parquet --steps 1000:2000 --layers 0:8 --max-mb 100 --out part.html
"""

MEGABYTE = 1_000_000


def report(
    source: Annotated[
        str,
        typer.Argument(
            metavar="TRACE_OR_RUN",
            help="A trace (.parquet), or a directory that `run` or `sweep` wrote.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The page, .html. [default: report.html in the run, or runs/<trace name>.html]",
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            metavar="R", help="Ranks to replay a trace on. [default: its sources, else up to 64]"
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(metavar="S", help="Redundant slots a rank of a trace. [default: 2]"),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Replay a trace through this policy. Repeatable. [default: ultraep]",
        ),
    ] = None,
    steps: Annotated[
        str | None, typer.Option(metavar="FIRST:PAST", help="Only these steps, past excluded.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="FIRST:PAST", help="Only these layers, past excluded.")
    ] = None,
    max_mb: Annotated[
        float,
        typer.Option(metavar="MB", help="Bound of the file; what does not fit is thinned."),
    ] = 24.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Write the load before and after balancing as one HTML file; it needs no network.

    Distribution of the imbalance, imbalance over time and layers, the stacked load of all ranks,
    and single records down to their experts. A trace is replayed through policies here; a run
    shows what it recorded.
    """
    from ultraep_sim.report.html_report import write_report

    path = given_path(source, "TRACE_OR_RUN", "name a trace or the directory of a run")
    spans = {"steps": _span("steps", steps), "layers": _span("layers", layers)}
    bound = _bound(max_mb)
    if (path / "sweep.json").is_file():
        _refuse_options(
            ranks=ranks, slots=slots, policy=policy or None, steps=steps, layers=layers, out=out
        )
        _of_sweep(path, as_json)
        return
    if path.is_dir():
        _refuse_options(ranks=ranks, slots=slots, policy=policy or None)
        target = _target(out, path / "report.html")
        with progress_bars() as progress:
            view, about = _of_run(path, spans, progress)
    else:
        trace = _selected(path, spans)
        target = _target(out, Path("runs") / f"{path.stem}.html")
        with progress_bars() as progress:
            view, about = _of_trace(path, trace, ranks, slots, policy or ["ultraep"], progress)
    written = write_report(view, about, target, bound)
    if as_json:
        print_json(
            {
                "file": str(written.file),
                "bytes": written.bytes,
                "records": len(view.time),
                "imbalance": written.summary,
                "kept": written.kept,
            }
        )
    else:
        for text in written.kept:
            if "THINNED" in text or "none:" in text:
                note(text)
    note(f"wrote {written.file}: {written.bytes / MEGABYTE:.1f} MB; open it in a browser")


def _of_sweep(path: Path, as_json: bool) -> None:
    """Write the page and the figures of a sweep anew, from the rows of its last whole run."""
    from ultraep_sim.commands.sweep import spec_of
    from ultraep_sim.report.sweep_report import write_report
    from ultraep_sim.sweep import SweepResult
    from ultraep_sim.sweep.export import read_rows

    spec, rows = spec_of(path), read_rows(path)
    with progress_bars() as progress:
        files = write_report(
            rows, spec.columns, path, question=spec.question, spec=spec.report,
            notes=SweepResult(spec, rows).notes, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json({"files": [str(file) for file in files]})
    note(f"wrote {', '.join(file.name for file in files)}; open {path / 'report.html'}")


def _of_trace(
    path: Path,
    trace: Trace,
    ranks: int | None,
    slots: int | None,
    policies: Sequence[str],
    progress: Report,
) -> tuple[LoadView, About]:
    from ultraep_sim.engine.watch import watch_trace
    from ultraep_sim.planning import EPLayout
    from ultraep_sim.report.html_report import About

    meta = trace.meta
    known = meta.source_ranks if meta.source_ranks > 1 else min(64, meta.num_experts)
    layout = EPLayout(
        known if ranks is None else ranks, meta.num_experts, 2 if slots is None else slots
    )
    view = watch_trace(trace, layout, policies, progress=progress)
    workload = f"{meta.kind}: {meta.describe()}; replayed on {layout.num_ranks} ranks with "
    workload += f"{layout.slots_per_rank} redundant slots each"
    notes = [f"How it was made: {meta.recorded}."]
    if meta.sampling:
        said = ", ".join(f"{name} {value}" for name, value in meta.sampling.items())
        notes.append(f"The trace is a sample: {said}.")
    sources = trace.with_sources(layout.num_ranks).meta.notes.get("sources")
    if sources is not None:
        notes.append(f"Sources: {sources}.")
    names = {label: label for label in view.contenders[1:]}
    return view, About(path.stem, meta.kind, workload, trace.digest, names, notes)


def _of_run(path: Path, spans: dict[str, slice | None], progress: Report) -> tuple[LoadView, About]:
    import numpy as np

    from ultraep_sim.report.html_report import About
    from ultraep_sim.report.html_run import run_keys, view_of_run
    from ultraep_sim.report.results import read_run
    from ultraep_sim.trace.selection import Selection, parse_span

    run = read_run(path)
    keys = run_keys(run)
    wanted = Selection().narrowed(**{axis: parse_span(axis, span) for axis, span in spans.items()})
    keep = wanted.mask(keys.astype(np.int32))
    _refuse_empty(int(keep.sum()), path, spans)
    progress("reading", 0, len(keys))
    records, experts, missing = _records(run)
    view = view_of_run(run, keep, records, experts)
    meta = run.summary.get("trace", {}).get("meta", {})
    # A run whose summary has no metadata says what its loads are in its label.
    drawn = meta.get("synthetic", str(run.summary["workload"]).startswith("SYNTHETIC"))
    notes = [f"{text}." for text in (*run.summary.get("notes", []), missing) if text]
    about = About(
        run.path.resolve().name,
        "SYNTHETIC" if drawn else "recorded",
        str(run.summary["workload"]),
        run.summary.get("trace", {}).get("digest", "not recorded"),
        run.names,
        notes,
    )
    return view, about


def _records(run: RunDirectory) -> tuple[Iterator[Record] | None, int, str]:
    """Open what a run replayed, if it is still there and the same; else say why not."""
    from ultraep_sim.engine.workload import make_workload
    from ultraep_sim.scenario import load_scenario

    try:
        workload = make_workload(load_scenario(run.path / "scenario.yaml"))
        digest = workload.trace.digest
    except UltraEPSimError as error:
        return None, 0, f"expert loads are not shown: {error}"
    if digest != run.summary.get("trace", {}).get("digest"):
        return None, 0, "expert loads are not shown: the trace is not the one that the run replayed"
    return iter(workload), workload.trace.meta.num_experts, ""


def _selected(path: Path, spans: dict[str, slice | None]) -> Trace:
    from ultraep_sim.trace import load_trace

    trace = load_trace(path)
    if any(span is not None for span in spans.values()):
        trace = trace.select(**spans)
    _refuse_empty(trace.num_records, path, spans)
    return trace


def _refuse_empty(count: int, path: Path, spans: dict[str, slice | None]) -> None:
    if count:
        return
    asked = [f"--{axis} {span.start}:{span.stop}" for axis, span in spans.items() if span]
    raise InputError(
        "the selection leaves no record",
        file=path,
        place=" ".join(asked) or None,
        remedy="see `ultraep-sim trace info` for the steps and layers there are",
    )


def _refuse_options(**given: object) -> None:
    """Refuse what is for a trace: a run has its ranks, slots and policies already."""
    for name, value in given.items():
        if value is not None:
            raise InputError(
                "a run directory is shown as it was recorded",
                place=f"--{name}",
                value=value,
                remedy="leave it out, or give the trace instead of the run",
            )


def _span(axis: str, text: str | None) -> slice | None:
    if text is None:
        return None
    first, colon, past = text.partition(":")
    numbers = [part.strip() for part in (first, past)]
    if not colon or not all(part.isascii() and (part.isdigit() or not part) for part in numbers):
        raise InputError(
            "not a range",
            place=f"--{axis}",
            value=text,
            remedy="write FIRST:PAST, for example 0:100; either may be left out",
        )
    start, stop = (int(part) if part else None for part in numbers)
    if stop is not None and stop <= (start or 0):
        raise InputError(
            "an empty range", place=f"--{axis}", value=text, remedy="give FIRST below PAST"
        )
    return slice(start or 0, stop)


def _bound(max_mb: float) -> int:
    # The comparison is false for a NaN too.
    if not 0.5 <= max_mb <= 500:
        raise InputError(
            "out of range", place="--max-mb", value=max_mb, remedy="give 0.5 to 500 megabytes"
        )
    return int(max_mb * MEGABYTE)


def _target(out: str | None, default: Path) -> Path:
    """Return where the page goes; what cannot be written fails before the work, not after it."""
    path = default if out is None else given_path(out, "--out", "name an .html file")
    if path.is_dir() or path.suffix.lower() not in (".html", ".htm"):
        better = path / "load.html" if path.is_dir() else path.with_suffix(".html")
        raise InputError(
            "the page is an .html file",
            place="--out",
            value=str(path),
            remedy=f"write --out {better}",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(
            "cannot be written", file=path, remedy="check its permissions, or write elsewhere"
        )
    return path
