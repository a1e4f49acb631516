"""Fit the load dynamics anew and recompute the comparisons of docs/accuracy.md (a few minutes).

The block that `make readme` writes is the other script's; `tests/validate/test_accuracy_page.py`
fails where the page says anything else than what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultraep_sim.report.pages import replaced
from ultraep_sim.report.plot_validation import write_plot
from ultraep_sim.validate import breakdown, paper, training, transfers
from ultraep_sim.validate.dynamics import store
from ultraep_sim.validate.first_principles import ideal_rows
from ultraep_sim.validate.paper.runs import refit
from ultraep_sim.validate.rows import Row, summarise
from ultraep_sim.validate.show import (
    ACCURACY,
    BREAKDOWN,
    ERROR,
    IDEAL,
    TRAINING,
    Column,
    markdown,
)
from ultraep_sim.validate.tables import load_tables
from ultraep_sim.validate.training import Prepared
from ultraep_sim.validate.uneven import PARTS, implied, published
from ultraep_sim.validate.verdict import misses
from ultraep_sim.validate.waiting import WAITING, waiting_rows

PAGE = Path(__file__).with_name("accuracy.md")
README = PAGE.parents[1] / "README.md"
PICTURE = Path(__file__).with_name("simulated-published")

SUMMARY = (
    Column("table", "table"),
    Column("role", "role"),
    Column("count", "rows", "{:d}"),
    Column("median", "median error", "{:.1%}"),
    Column("p90", "p90", "{:.1%}"),
    Column("worst", "worst", ERROR),
    Column("worst_case", "worst row"),
)
MISSES = (
    Column("row", "row"),
    Column("published", "published", "{:.4g}"),
    Column("simulated", "simulated", "{:.4g}"),
    Column("relative_error", "error", ERROR),
    Column("role", "role"),
    Column("reason", "why, as far as we know"),
)
MANIFEST = (
    Column("table", "table"),
    Column("row", "row"),
    Column("column", "column"),
    Column("parameter", "decides"),
)


def summary_block(found: paper.Paper) -> str:
    """Tell the errors of the paper suite by role and table, the plain law last."""
    return markdown(summarise(found.rows) + summarise(found.plain), SUMMARY)


def readme_block(found: paper.Paper) -> str:
    """Tell the predicted rows by table, for the README."""
    lines = [line for line in summarise(found.rows) if line["role"] == "predicted"]
    columns = [column for column in SUMMARY if column.key not in ("role", "worst_case")]
    return markdown(lines, columns)


def misses_block(found: paper.Paper) -> str:
    """Tell every row that is off by more than 15 %."""
    rows: list[Row] = [
        row | {"row": f"{row['table']} {row['case']} {row['metric']}"} for row in misses(found.rows)
    ]
    return markdown(rows, MISSES)


def manifest_block(found: paper.Paper) -> str:
    """Tell every published cell that decided a number."""
    rows = [line | {"row": line["row"].replace(" | ", ", ")} for line in found.manifest]
    return markdown(rows, MANIFEST)


def layer_block(prepared: Sequence[Prepared]) -> str:
    """Tell the layer breakdown under a synthetic trace, and what its misses have in common."""
    one = next(one for one in prepared if one.case.shape.name == breakdown.MODEL)
    rows = breakdown.rows_of(one.case, one.loads)
    factors = dict(zip(PARTS, (published().compute, published().all_to_all), strict=True))
    told = []
    for part, factor in factors.items():
        by_policy = ", ".join(f"{value:.2f} (`{name}`)" for name, value in implied(part).items())
        told.append(
            f"- {part.replace('_', ' ')}: published over plain law {by_policy}; "
            f"geometric mean {factor.value:.3f}."
        )
    return markdown(rows, BREAKDOWN) + "\n\n" + "\n".join(told)


def training_block(prepared: Sequence[Prepared]) -> str:
    """Tell the training table, its errors, and the errors at other settings."""
    rows = training.table(prepared)
    dynamics = ", ".join(
        f"{one.case.shape.name} {one.dynamics.noise:.3f} ({one.dynamics.fitted_to})"
        for one in prepared
    )
    overheads = {row["class"]: row["overhead_us"] for row in rows if row["class"]}
    outside = ", ".join(
        f"{row['model']} {row['ideal_share']:.3f} and {row['outside_share']:.3f}"
        for row in rows
        if row["policy"] == "ideal"
    )
    return "\n\n".join(
        (
            markdown(rows, TRAINING),
            f"Noise fitted: {dynamics}.",
            "Share of expert GEMM and all-to-all in the ideal step (s), and of what lies outside "
            f"the layers: {outside}.",
            "Fitted overhead a layer [us]: "
            + ", ".join(f"{name} {value:.0f}" for name, value in overheads.items())
            + ".",
            markdown(training.band(prepared), ACCURACY),
        )
    )


def waiting_block(prepared: Sequence[Prepared]) -> str:
    """Tell how long replicas wait for the slowest one."""
    return markdown(waiting_rows(prepared), WAITING)


def ideal_block() -> str:
    """Tell the ideal throughput from first principles."""
    return markdown(ideal_rows(), IDEAL)


def transfers_block() -> str:
    """Tell the weight distribution."""
    return transfers.markdown(transfers.run())


def main() -> None:
    """Write the page."""
    store(refit(load_tables().inputs()))
    prepared = training.prepare()
    found = paper.run()
    blocks: dict[str, Any] = {
        "summary": summary_block(found),
        "misses": misses_block(found),
        "manifest": manifest_block(found),
        "layer": layer_block(prepared),
        "training": training_block(prepared),
        "waiting": waiting_block(prepared),
        "ideal": ideal_block(),
        "transfers": transfers_block(),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, new in blocks.items():
        text = replaced(text, name, new)
    PAGE.write_text(text, encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    README.write_text(replaced(readme, "accuracy", readme_block(found)), encoding="utf-8")
    png, svg = write_plot(found.rows, PICTURE)
    svg.unlink()  # one picture for the page is enough
    print(f"wrote {PAGE}, {README} and {png}")


if __name__ == "__main__":
    main()
