"""Recompute the table of `docs/traces.md` that says how close synthetic traces are (minutes)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ultraep_sim.trace import Trace, closeness, load_trace
from ultraep_sim.trace.synth_like import fit_like

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "traces.md"
TRACES = ("train-aux-steps", "train-aux", "train-bias-steps", "train-bias", "prefill-switch")
SEEDS = range(5)
BEGIN, END = "<!-- synth -->", "<!-- /synth -->"


def differences(name: str, seeds: Iterable[int] = SEEDS) -> dict[str, list[float]]:
    """Difference of every statistic, by seed; relative where `Compared.relative` says so."""
    real = load_trace(ROOT / "traces" / f"{name}.parquet")
    fitted = fit_like(real)
    found: dict[str, list[float]] = {}
    for seed in seeds:
        drawn = fitted.draw(seed=seed)
        drawn = Trace.from_records(drawn.meta, drawn)  # drawn once, read twice
        for one in closeness(real, drawn):
            label = f"{one.name} (%)" if one.relative else one.name
            value = 100 * one.difference if one.relative else one.difference
            found.setdefault(label, []).append(value)
    return found


def table() -> str:
    """Return the Markdown table: the range of the difference over seeds."""
    columns = {name: differences(name) for name in TRACES}
    labels = list(dict.fromkeys(label for column in columns.values() for label in column))
    lines = [f"| synthetic - real | {' | '.join(TRACES)} |", "|---|" + "---:|" * len(TRACES)]
    lines.append(f"| seeds | {' | '.join(str(len(SEEDS)) for _ in TRACES)} |")
    for label in labels:
        digits = 1 if label.endswith("(%)") else 3
        cells = []
        for column in columns.values():
            values = [v for v in column.get(label, []) if v == v]
            span = f"{min(values):+.{digits}f} to {max(values):+.{digits}f}" if values else "-"
            cells.append(span)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    block = f"{BEGIN}\n{table()}\n{END}"
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    PAGE.write_text(re.sub(pattern, lambda _: block, text, flags=re.DOTALL), encoding="utf-8")
