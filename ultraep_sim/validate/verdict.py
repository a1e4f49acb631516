"""Whether a suite still holds what was committed: limits by table, and misses pinned by name.

`thresholds.csv` limits a statistic of a table's rows of one role. A row that is off by more than
15 % has to be pinned in `known_misses.csv` with its reason and the band it misses by; a pinned row
that leaves its band, to the better or to the worse, is an error too: the reason has to go.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from .rows import MISS, Row, summarise
from .tables import GIVEN

THRESHOLDS = Path(__file__).with_name("thresholds.csv")
KNOWN = Path(__file__).with_name("known_misses.csv")

#: What rows of a table may be off by for, where nobody has looked at one row yet.
CANDIDATES = {
    "training": "load of the model (skew, drift, correlation of layers), parts outside the layers",
    "layer_breakdown": "uneven routing beyond its imbalance; an unpublished sequence length",
    "weight_distribution": "loads behind the row, or another rule of when to relay",
    "serving": "prompt lengths and bursts, which are not published",
    "planner": "loads and layout behind the row; the price of a solve is one constant a policy",
}


def misses(rows: Sequence[Row]) -> list[Row]:
    """List rows off by more than `MISS`, worst first, each with ``reason`` and ``pinned``."""
    known = {(pin["table"], pin["case"], pin["metric"]): pin for pin in _read(KNOWN)}
    found = []
    for row in rows:
        if row["relative_error"] is None or abs(row["relative_error"]) <= MISS:
            continue
        pin = known.get((row["table"], row["case"], row["metric"]))
        reason = (
            pin["reason"] if pin else f"candidates: {CANDIDATES.get(row['table'], 'none known')}"
        )
        found.append(row | {"reason": reason, "pinned": pin is not None})
    return sorted(found, key=lambda row: -abs(row["relative_error"]))


def broken(suite: str, rows: Sequence[Row]) -> list[str]:
    """Say in one line each what no longer holds; empty where all does.

    Rows that were given and do not ship are judged by the limits, but no pin speaks of them.
    """
    ours = [row for row in rows if not row["provenance"].startswith(GIVEN)]
    return [*_over_limits(suite, rows), *_pins(suite, ours), *_unpinned(suite, ours)]


def _over_limits(suite: str, rows: Sequence[Row]) -> list[str]:
    told = {(line["table"], line["role"]): line for line in summarise(rows)}
    found = []
    for limit in _read(THRESHOLDS):
        if limit["suite"] != suite:
            continue
        line = told.get((limit["table"], limit["role"]))
        value = None if line is None else line[limit["statistic"]]
        if value is not None and abs(value) > float(limit["limit"]):
            found.append(
                f"{limit['table']}, {limit['role']}: {limit['statistic']} error {abs(value):.2%} "
                f"is above {float(limit['limit']):.2%}"
            )
    return found


def _pins(suite: str, rows: Sequence[Row]) -> list[str]:
    at = {(row["table"], row["case"], row["metric"]): row for row in rows}
    found = []
    for pin in _read(KNOWN):
        row = at.get((pin["table"], pin["case"], pin["metric"]))
        if pin["suite"] != suite or row is None or row["relative_error"] is None:
            continue
        error, low, high = row["relative_error"], float(pin["low"]), float(pin["high"])
        if not low <= error <= high:
            what = "passes" if abs(error) <= MISS else "misses by another amount"
            found.append(
                f"{pin['table']} {pin['case']} {pin['metric']}: pinned as a miss of {low:+.0%} to "
                f"{high:+.0%}, {what} now ({error:+.1%}); look at its reason in {KNOWN.name}"
            )
    return found


def _unpinned(suite: str, rows: Sequence[Row]) -> list[str]:
    if not any(pin["suite"] == suite for pin in _read(KNOWN)):
        return []
    return [
        f"{row['table']} {row['case']} {row['metric']}: off by {row['relative_error']:+.1%} and "
        f"not pinned in {KNOWN.name}"
        for row in misses(rows)
        if not row["pinned"]
    ]


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
