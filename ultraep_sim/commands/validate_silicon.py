"""The suite of ``ultraep-sim validate`` that compares kernel laws with public kernel tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ultraep_sim.commands.console import note, print_json, print_renderable, progress_bars

if TYPE_CHECKING:
    from rich.table import Table

_LEGEND = """\
Held-out balanced rows: a hash of the row picks one in four, the law never sees them. good: median
at most 3 % and p90 at most 10 %. Skewed rows time the hottest rank and do not store its load; loads
are drawn, and balanced rows alone predict a distribution. in band, in half: share of the skewed
rows inside its central 90 % and 50 %. width: upper over lower end of the 90 % band. learnt: share
of power_law_1.2 in a band whose shift and spread power_law_1.01 taught."""

QUICK = ("h200",)
#: What a plot calls alike: more colours than these nobody tells apart.
FAMILIES = {
    "mla_attention": "attention",
    "mla_block": "attention block, presets",
    "dispatch": "all-to-all",
    "combine": "all-to-all",
    "nccl_alltoall": "all-to-all",
    "rack_alltoall": "all-to-all",
    "rack_alltoall_larger_group": "all-to-all, larger group",
    "wide_ep_context": "wide_ep",
    "wide_ep_context_by_balanced": "wide_ep, law of another kernel",
}


def show(*, tables: str | None, quick: bool, plot: str | None, as_json: bool) -> None:
    """Run the suite and print it; exit with 1 where a committed threshold is broken."""
    from ultraep_sim.calibrate.silicon.profile import RACK_OF
    from ultraep_sim.validate import silicon

    systems = QUICK if quick else tuple(RACK_OF)
    with progress_bars() as progress:
        found = silicon.run(tables=tables, systems=systems, progress=progress)
    if plot is not None:
        _draw(found, Path(plot))
    if as_json:
        print_json({"suite": "silicon", "quick": quick, **found})
    else:
        _print(found)
    for text in found["broken"]:
        note(f"broken threshold: {text}")
    if found["broken"]:
        raise typer.Exit(1)


def _draw(found: dict[str, Any], target: Path) -> None:
    """Draw held-out rows of all tables, and the sets of each system on a page of their own."""
    from ultraep_sim.report import plot_silicon_sets
    from ultraep_sim.report.plot_validation import write_plot
    from ultraep_sim.report.style import save, stem_of, style

    stem = stem_of(target)
    rows = found["rows"]
    tables = rows[0]["provenance"].split(":")[0]
    shown = [{**row, "table": FAMILIES.get(row["table"], row["table"])} for row in rows]
    files = write_plot(
        shown,
        stem,
        "Kernel times, simulated against measured",
        f"Held-out rows of the public kernel tables. {tables}",
        ("measured [ms]", "simulated [ms]"),
    )
    with style():
        for system in dict.fromkeys(entry["system"] for entry in found["sets"]):
            page = plot_silicon_sets.figure(
                [r for r in rows if r["table"] == "grouped_gemm" and _is_of(r["case"], system)],
                {case: p for case, p in found["positions"].items() if _is_of(case, system)},
                f"Grouped GEMM on {system.upper()}, set by set",
                "Above: simulated over measured, % off (bands 5 and 10 %; beyond 30 % at the "
                "edge), fitted rows grey, held-out rows blue. Below: where skewed rows lie in what "
                f"balanced rows predict (0 to 1; vermilion: outside the central 90 %). {tables}",
            )
            files += save(page, stem.with_name(f"{stem.name}-{system}"))
    for path in files:
        note(f"wrote {path}")


def _is_of(case: str, system: str) -> bool:
    return case.startswith(f"{system}/")


def _print(found: dict[str, Any]) -> None:
    from rich.text import Text

    shown: list[Any] = [Text("Grouped GEMM", "bold"), _sets(found["sets"]), Text(_LEGEND)]
    shown += [Text("\nOther kernels, rows not fitted", "bold"), _others(found["others"])]
    shown += [Text("\nErrors by table and role", "bold"), _summary(found["summary"])]
    for entry in found["copies"]:
        if entry["copied_from_h100"]:
            shown.append(
                Text(
                    f"{entry['table']}: {entry['copied_from_h100']} of {entry['rows']} rows of "
                    f"{entry['nodes']} nodes are copies of H100's"
                )
            )
    figures = found["figures"]
    shown.append(
        Text(
            f"{figures['grouped_gemm_good_sets']} of {figures['grouped_gemm_sets']} sets are good; "
            f"{figures['power_law_inside_band']:.1%} of {figures['power_law_rows']} skewed rows "
            f"are inside the band of balanced rows ({figures['power_law_inside_half_band']:.1%} in "
            f"its half, {figures['power_law_inside_band_learnt']:.1%} of 1.2 in the learnt band)"
        )
    )
    print_renderable(*shown)


def _table(*heads: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for at, head in enumerate(heads):
        table.add_column(head, justify="right" if at else "left", no_wrap=True)
    return table


def _sets(sets: list[dict[str, Any]]) -> Table:
    table = _table(
        "set", "held out", "median", "p90", "worst", "good", "in band", "in half", "width", "learnt"
    )
    for entry in sets:
        held, skewed = entry["residuals"]["held_out"], entry.get("power_law")
        shares: tuple[str, ...] = ("-",) * 4
        if skewed:
            shares = (
                *(f"{skewed[key] / skewed['rows']:.0%}" for key in ("inside", "inside_half")),
                f"{skewed['median_width']:.2f}",
                f"{skewed['learnt_inside'] / skewed['learnt_rows']:.0%}",
            )
        table.add_row(
            entry["set"],
            str(held["rows"]),
            *(f"{held[key]:.1%}" for key in ("median", "p90", "worst")),
            "yes" if entry["good"] else "",
            *shares,
        )
    return table


def _others(others: list[dict[str, Any]]) -> Table:
    table = _table("table", "system or set", "rows", "median", "p90", "worst")
    for entry in others:
        held = entry["residuals"]["held_out"]
        errors = (f"{held[key]:.1%}" for key in ("median", "p90", "worst"))
        name = entry["set"] or entry["system"]
        table.add_row(entry["table"], name, str(held["rows"]), *errors)
    return table


def _summary(summary: list[dict[str, Any]]) -> Table:
    table = _table("table", "role", "rows", "median", "p90", "worst")
    for entry in summary:
        errors = (f"{entry[key]:.1%}" for key in ("median", "p90", "worst"))
        table.add_row(entry["table"], entry["role"], str(entry["rows"]), *errors)
    return table
