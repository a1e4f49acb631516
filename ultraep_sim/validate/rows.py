"""One form for every comparison: a row, its role, and what all rows of a role say together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

Row = dict[str, Any]
Role = Literal["fitted", "predicted"]

FIELDS = (
    "table", "case", "metric", "published", "simulated", "relative_error", "role", "provenance",
)  # fmt: skip
ROLES: tuple[Role, ...] = ("fitted", "predicted")
TARGET, MISS = 0.05, 0.15
"""Wanted median error of predicted rows; error beyond which a row is told with its causes."""


def make_row(
    table: str,
    case: str,
    metric: str,
    published: float | None,
    simulated: float | None,
    *,
    fitted: bool,
    provenance: str,
) -> Row:
    """Return a row of every suite.

    Parameters
    ----------
    table, case, metric : str
        What is compared; ``case`` is a path.
    published, simulated : float or None
        What it is judged by and what we compute; None where there is none.
    fitted : bool
        Whether a parameter rests on the published value, or the value is 1 by definition.
    provenance : str
        Where the published value is from, and what has to be known of the simulated one.
    """
    known = published is not None and simulated is not None
    error = simulated / published - 1 if known and published else None  # type: ignore[operator]  # known
    role: Role = "fitted" if fitted else "predicted"
    cells = (table, case, metric, published, simulated, error, role, provenance)
    return dict(zip(FIELDS, cells, strict=True))


def summarise(rows: Iterable[Row]) -> list[Row]:
    """Sum up absolute errors by role, over all tables and for each.

    Returns
    -------
    list of dict
        ``table`` ("all" or a name), ``role``, ``count`` (rows with an error), ``median``, ``p90``,
        ``worst`` (signed, of the largest size) and ``worst_case``; None where nothing is known.
    """
    rows = list(rows)
    tables = list(dict.fromkeys(row["table"] for row in rows))
    return [
        {"table": table, "role": role, **_statistics(_known(rows, table, role))}
        for table in (["all", *tables] if len(tables) > 1 else tables)
        for role in ROLES
        if any(row["role"] == role and table in ("all", row["table"]) for row in rows)
    ]


def _known(rows: Sequence[Row], table: str, role: str) -> list[Row]:
    return [
        row
        for row in rows
        if row["role"] == role
        and table in ("all", row["table"])
        and row["relative_error"] is not None
    ]


def _statistics(rows: Sequence[Row]) -> Row:
    if not rows:
        return {"count": 0, "median": None, "p90": None, "worst": None, "worst_case": None}
    size = np.abs([row["relative_error"] for row in rows])
    worst = rows[int(size.argmax())]
    return {
        "count": len(rows),
        "median": float(np.median(size)),
        "p90": float(np.quantile(size, 0.9)),
        "worst": worst["relative_error"],
        "worst_case": f"{worst['case']} {worst['metric']}",
    }
