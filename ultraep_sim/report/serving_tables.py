"""Tables of serving: one row a policy, and what the numbers show in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]
Columns = Sequence[tuple[str, str, Callable[[float], str]]]

SERVED: Columns = (
    ("ttft_mean_s", "TTFT\nmean\n[s]", lambda v: f"{v:.2f}"),
    ("ttft_p50_s", "\np50\n[s]", lambda v: f"{v:.2f}"),
    ("ttft_p90_s", "\np90\n[s]", lambda v: f"{v:.2f}"),
    ("ttft_p99_s", "\np99\n[s]", lambda v: f"{v:.2f}"),
    ("goodput_per_s", "goodput\nat SLO\n[req/s]", lambda v: f"{v:.1f}"),
    ("slo_attainment", "inside\nSLO\n[%]", lambda v: f"{100 * v:.1f}"),
    ("step_ms", "step\n\n[ms]", lambda v: f"{v:.0f}"),
    ("busy", "busy\n\n[%]", lambda v: f"{100 * v:.0f}"),
    ("mean_rank_imbalance", "mean\nimbalance\n[max/mean]", lambda v: f"{v:.3f}"),
    ("attention_imbalance", "attention\nimbalance\n[max/mean]", lambda v: f"{v:.2f}"),
    ("share_balancing", "balancing\nof step\n[%]", lambda v: f"{100 * v:.1f}"),
    ("cost_per_million_tokens", "cost per\nM tokens\n[currency]", lambda v: f"{v:.3f}"),
)

FOUND: Columns = (
    ("rate_per_s", "largest\nrate\n[req/s]", lambda v: f"{v:.1f}"),
    ("rate_low", "95 %\nfrom\n[req/s]", lambda v: f"{v:.1f}"),
    ("rate_high", "\nto\n[req/s]", lambda v: f"{v:.1f}"),
    ("relative_to_ideal", "of\nideal\n[%]", lambda v: f"{100 * v:.1f}"),
    ("relative_low", "95 %\nfrom\n[%]", lambda v: f"{100 * v:.1f}"),
    ("relative_high", "\nto\n[%]", lambda v: f"{100 * v:.1f}"),
    ("mean_rank_imbalance", "mean\nimbalance\n[max/mean]", lambda v: f"{v:.3f}"),
)

_LOST = ("timed_out", "cancelled", "refused", "too_long", "pending")


def serving_table(rows: Sequence[Row], columns: Columns = SERVED) -> Table:
    """Lay out rows of `ultraep_sim.serving`, an absent number as a dash."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy\n\n", no_wrap=True)
    for _, header, _ in columns:
        table.add_column(Text(header), justify="right", no_wrap=True)
    for row in rows:
        cells = ("-" if row.get(key) is None else show(row[key]) for key, _, show in columns)
        table.add_row(str(row["policy"]), *cells)
    return table


def lost(rows: Sequence[Row]) -> list[str]:
    """Say which shares of the requests got no first token, where any did not."""
    found = []
    for row in rows:
        parts = [f"{100 * row[k]:.1f} % {k.replace('_', ' ')}" for k in _LOST if row.get(k)]
        if parts:
            found.append(f"{row['policy']}: {', '.join(parts)}")
    return found


def serving_finding(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    """Say in one sentence which policy serves most requests inside the SLO."""
    real = [row for row in rows if names.get(str(row["policy"])) != "ideal"]
    if not real:
        return "Only the ideal was run; add policies to compare."
    best = max(real, key=lambda row: (row["goodput_per_s"], -(row["ttft_mean_s"] or 0.0)))
    text = (
        f"{best['policy']} serves {best['goodput_per_s']:.1f} requests/s inside the SLO "
        f"({100 * best['slo_attainment']:.1f} % of those sent)"
    )
    base = next((row for row in rows if names.get(str(row["policy"])) == "none"), None)
    if base is not None and base is not best:
        text += f"; without balancing it is {base['goodput_per_s']:.1f}"
    return text + "."


def capacity_finding(rows: Sequence[Row], names: Mapping[str, str], slo: str) -> str:
    """Say in one sentence how much more the best policy serves than none."""
    real = [row for row in rows if names.get(str(row["policy"])) != "ideal"]
    if not real:
        return "Only the ideal was searched; add policies to compare."
    best = max(real, key=lambda row: row["rate_per_s"])
    text = f"{best['policy']} serves up to {best['rate_per_s']:.1f} requests/s with {slo}"
    base = next((row for row in rows if names.get(str(row["policy"])) == "none"), None)
    if base is not None and base is not best:
        text += f", {best['rate_per_s'] / base['rate_per_s']:.2f}x what no balancing does"
    if best["relative_to_ideal"] is not None:
        text += f", {100 * best['relative_to_ideal']:.1f} % of forced balance"
    return text + "."
