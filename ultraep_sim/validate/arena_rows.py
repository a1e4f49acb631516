"""The arena's rows in the form of every suite: means by family, beside the bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .rows import make_row

Row = dict[str, Any]
TABLE = "arena"
#: Metric, the arena's key, and the bound that no plan beats.
METRICS = (
    ("final_imbalance", "imbalance", "tau_lower_bound"),
    ("slots_used", "replicas", "replica_lower_bound"),
    ("max_fanout", "max_fanout", None),
)


def judged(rows: Sequence[Row]) -> list[Row]:
    """Return means over the draws of a family.

    ``case`` is ``EXPERTS/RANKS/SLOTS/FAMILY/POLICY``. In the place of the published value stands
    the mean of the proven lower bounds, None where they do not speak of every draw.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["imbalance"] is not None:
            key = (*(str(row[name]) for name in ("experts", "ranks", "slots", "family")),
                   row["policy"])  # fmt: skip
            groups.setdefault(key, []).append(row)
    out = []
    for key, mine in groups.items():
        for metric, name, bound in METRICS:
            least = None if bound is None else _mean([row[bound] for row in mine])
            out.append(
                make_row(
                    TABLE, "/".join(key), metric, least, _mean([row[name] for row in mine]),
                    fitted=False,
                    provenance="no bound" if least is None else "lower bound that no plan beats",
                )
            )  # fmt: skip
    return out


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
