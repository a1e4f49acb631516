"""Tables of the published comparisons: for a terminal, and for the pages in docs/."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

Row = dict[str, Any]


class Column(NamedTuple):
    """A key of the rows, its heading, and how its value is written."""

    key: str
    head: str
    form: str = "{}"


ERROR = "{:+.1%}"

BREAKDOWN = (
    Column("direction", "direction"),
    Column("part", "part"),
    Column("policy", "policy"),
    Column("published", "published [ms]", "{:.2f}"),
    Column("plain", "plain law [ms]", "{:.2f}"),
    Column("plain_error", "error", ERROR),
    Column("simulated", "simulated [ms]", "{:.2f}"),
    Column("simulated_error", "error", ERROR),
    Column("uneven", "uneven [ms]", "{:.2f}"),
    Column("kind", "kind"),
)

TRAINING = (
    Column("model", "model"),
    Column("policy", "policy"),
    Column("published_imbalance", "imbalance published", "{:.2f}"),
    Column("imbalance", "simulated", "{:.2f}"),
    Column("published", "TFLOPS published", "{:.0f}"),
    Column("plain_published", "plain law", "{:.0f}"),
    Column("plain_published_error", "error", ERROR),
    Column("mechanisms", "mechanisms", "{:.0f}"),
    Column("mechanisms_error", "error", ERROR),
    Column("uneven", "uneven", "{:.0f}"),
    Column("uneven_error", "error", ERROR),
    Column("fitted", "fitted", "{:.0f}"),
    Column("fitted_error", "error", ERROR),
    Column("left_out_error", "left out", ERROR),
)

IDEAL = (
    Column("model", "model"),
    Column("recompute", "recompute"),
    Column("micro_batches", "micro-batches", "{:d}"),
    Column("published", "TFLOPS published", "{:.0f}"),
    Column("simulated", "simulated", "{:.0f}"),
    Column("error", "error", ERROR),
    Column("problem", "does not run"),
)

SERVING = (
    Column("model", "model"),
    Column("workload", "workload"),
    Column("variant", "variant"),
    Column("policy", "policy"),
    Column("published_imbalance", "imbalance published", "{:.2f}"),
    Column("imbalance", "simulated", "{:.2f}"),
    Column("imbalance_error", "error", ERROR),
    Column("rate_per_s", "requests/s", "{:.0f}"),
    Column("published_relative", "over ideal, published", "{:.3f}"),
    Column("relative", "simulated", "{:.3f}"),
    Column("relative_error", "error", ERROR),
    Column("law", "plain law", "{:.3f}"),
    Column("law_error", "error", ERROR),
    Column("kind", "kind"),
)

ORDERS = (
    Column("model", "model"),
    Column("workload", "workload"),
    Column("variant", "variant"),
    Column("order", "slowest first"),
    Column("agrees", "as published"),
)

ACCURACY = (
    Column("sequence", "sequence"),
    Column("recompute", "recompute"),
    Column("fits", "fits the ideal step"),
    Column("column", "model"),
    Column("rows", "rows"),
    Column("median_error", "median error", "{:.1%}"),
    Column("worst_error", "worst error", ERROR),
)


def _word(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


def cells(row: Row, columns: Sequence[Column]) -> list[str]:
    """Write one row; what there is not stays blank."""
    found = []
    for column in columns:
        value = row.get(column.key)
        text = "" if value is None else column.form.format(_word(value))
        found.append(text.replace("_", " ") if column.key in ("part", "column") else text)
    return found


def markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Return a Markdown table; numbers to the right."""
    heads = [column.head for column in columns]
    ruler = ["---" if column.form == "{}" else "---:" for column in columns]
    lines = [heads, ruler, *(cells(row, columns) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """Return a table for the terminal."""
    from rich import box
    from rich.table import Table

    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        side = "left" if column.form == "{}" else "right"
        found.add_column(column.head, justify=side, no_wrap=True)  # type: ignore[arg-type]  # one of the two
    for row in rows:
        found.add_row(*cells(row, columns))
    return found
