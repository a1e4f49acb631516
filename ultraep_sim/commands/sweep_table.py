"""The table of a sweep on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ultraep_sim.commands.console import print_renderable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ultraep_sim.sweep import SweepResult
    from ultraep_sim.sweep.points import Row

_SHOWN = (
    "mean_rank_imbalance",
    "layer_time_ms",
    "iteration_ms",
    "tflops_per_gpu",
    "fraction_of_ideal",
    "speedup_over_none",
    "ttft_p99_s",
    "goodput_per_s",
    "tokens_per_s",
)
_DAGGER = "\N{DAGGER}"
_NOTES_SHOWN = 12
_ROWS_SHOWN = 200


def show(result: SweepResult, findings: str = "") -> None:
    """Print what a search found, or the rows (of repetitions only the first), and the notes."""
    from rich.markdown import Markdown
    from rich.text import Text

    from ultraep_sim.report.plot_sweep import NO_FIT
    from ultraep_sim.sweep.result import nominal

    rows = nominal(result.rows) if result.spec.repeats else result.rows
    notes = result.notes
    more = len(notes) - _NOTES_SHOWN
    # A report tells the notes itself.
    lines = [] if findings else [f"Note: {text}." for text in notes[:_NOTES_SHOWN]]
    if more > 0 and not findings:
        lines.append(f"{more} more notes: see the column notes of sweep.csv.")
    if not all(map(_fits, rows)):
        lines.insert(0, f"{_DAGGER} {NO_FIT}.")
    if len(rows) < len(result.rows):
        lines.insert(0, "The first seed with nominal numbers is shown; all rows: sweep.csv.")
    if len(rows) > _ROWS_SHOWN:
        lines.insert(0, f"{len(rows) - _ROWS_SHOWN} more rows: sweep.csv.")
    question = [Text(result.spec.question, style="bold")] if result.spec.question else []
    table = _answers(result.answers) if result.answers else _table(result, rows[:_ROWS_SHOWN])
    told = [Markdown(findings)] if findings else []
    print_renderable(*([] if told else question), table, *map(Text, lines), *told)


def duration(seconds: float) -> str:
    """Return a time for people: 0.31 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _fits(row: Row) -> bool:
    return row.get("fits") is not False


def _answers(rows: Sequence[Row]) -> Table:
    from rich import box
    from rich.table import Table

    from ultraep_sim.sweep.points import columns_of

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = columns_of(rows)
    for name in columns:
        table.add_column(name, no_wrap=True, justify="left" if name == "policy" else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    return table


def _table(result: SweepResult, rows: Sequence[Row]) -> Table:
    from rich import box
    from rich.table import Table

    axes = result.spec.columns
    shown = [name for name in _SHOWN if name in result.columns]
    if not all(map(_fits, rows)):
        shown.append("memory_GB")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (*axes, "policy"):
        table.add_column(name, no_wrap=True)
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for row in rows:
        at = (str(row.get(name, "")) for name in axes)
        policy = row["policy"] if _fits(row) else f"{row['policy']} {_DAGGER}"
        table.add_row(*at, policy, *(_cell(row.get(name)) for name in shown))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
