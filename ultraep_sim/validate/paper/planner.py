"""Planner quality and time: every published row, and all sizes of the settings by imbalance."""

from __future__ import annotations

import re
from collections.abc import Callable

from ...policies import available_policies
from ..draws import Shape
from ..families import TARGETS
from ..published import METRICS, WITHOUT_LOCALITY, simulate
from ..rows import Row, make_row
from ..tables import Tables, number, row_name
from .runs import Run

TABLE = "planner"
POLICIES = ("eplb_plus", "ultraep", f"ultraep{WITHOUT_LOCALITY}")
_ALL = (*METRICS, "solve_ms")
#: What the mean rows do not say; the README's rows are of these.
_EXPERTS, _SLOTS = 256, 2

Progress = Callable[[str, int, int], None]


def rows(
    tables: Tables,
    read: set[tuple[str, str, str]],
    found: list[Run],
    progress: Progress | None = None,
) -> list[Row]:
    """Return every row.

    ``case`` is ``EXPERTS/RANKS/SLOTS/initial IMBALANCE/POLICY``; the imbalance is ``1.5-8`` where a
    row is a mean over that range.
    """
    out, seen = [], set()
    for row in tables[TABLE]:
        shape, policy = shape_of(row["case"]), row["policy"]
        text = row["initial_imbalance"].strip()
        span = re.search(r"initial (\d+(?:\.\d+)?-\d+(?:\.\d+)?)", row["case"])
        shown = text or (span[1] if span else "unknown")
        targets = (float(text),) if text else TARGETS
        ours = _simulated(policy, targets, shape) if shape and (text or span) else {}
        case = f"{_path(shape) if shape else row['case']}/initial {shown}/{policy}"
        seen.add(case)
        for metric in _ALL:
            published, value = number(row[metric]), ours.get(metric)
            if published is None and value is None:
                continue
            told = row.get("provenance") or "not said"
            out.append(
                make_row(
                    TABLE, case, metric, published, value,
                    fitted=(TABLE, row_name(TABLE, row), metric) in read,
                    provenance=told if value is not None else f"{told}; not simulated",
                )
            )  # fmt: skip
    shapes = dict.fromkeys(
        Shape(run.case.shape.num_experts, run.case.ranks, run.case.slots) for run in found
    )
    for done, shape in enumerate(shapes, start=1):
        for target in TARGETS:
            for policy in POLICIES:
                case = f"{_path(shape)}/initial {target}/{policy}"
                if case in seen:
                    continue
                for metric, value in _simulated(policy, (target,), shape).items():
                    out.append(
                        make_row(
                            TABLE, case, metric, None, value, fitted=False,
                            provenance="not published; a size of the settings",
                        )
                    )  # fmt: skip
        if progress is not None:
            progress("planner", done, len(shapes))
    return out


def shape_of(case: str) -> Shape | None:
    """Read ``EP64, 256 experts, 2 slots``; None without the ranks."""
    ranks, experts = re.search(r"EP\s?(\d+)", case), re.search(r"(\d+) experts", case)
    slots = re.search(r"(\d+) slots", case)
    if ranks is None:
        return None
    return Shape(
        int(experts[1]) if experts else _EXPERTS, int(ranks[1]), int(slots[1]) if slots else _SLOTS
    )


def _path(shape: Shape) -> str:
    return f"{shape.experts}/{shape.ranks}/{shape.slots}"


def _simulated(policy: str, targets: tuple[float, ...], shape: Shape) -> dict[str, float]:
    if policy.removesuffix(WITHOUT_LOCALITY) not in available_policies():
        return {}
    return simulate(policy, targets, shape=shape)
