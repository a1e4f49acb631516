"""Prefill serving: mean rank imbalance, and request rate at the line over that of ``ideal``.

The final model is the variant that is fitted as training is: to the rate of ``ideal`` and to the
imbalance under ``none`` and ``eplb`` (`ultraep_sim.validate.serving_fit.FITTED`). Its searches take
minutes and are stored; `fresh` does them again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..rows import Row, make_row
from ..serving import simulate, simulated
from ..serving_cases import POLICIES, cases
from ..serving_fit import FITTED, fit_all, start_rate
from ..serving_store import staleness, stored_version
from ..tables import Cell, Tables, number
from ..training_cases import degrees_of
from .training import source_of

TABLE = "serving"
SOURCE = "arXiv 2606.04101, figure; rates are pixel reads, +-2 %"
RATE = "requests_per_second_at_slo"

Progress = Callable[[str, int, int], None]


def fresh(inputs: Tables, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Fit and search every run that can be set up anew (minutes)."""
    found = []
    for case, variant, one in fit_all(cases(inputs), (FITTED,), progress):
        found += simulate(
            case, variant, one, POLICIES, ideal_rate=start_rate(case), progress=progress
        )
    return found


def rows(
    tables: Tables, inputs: Tables, searched: list[dict[str, Any]] | None = None
) -> tuple[list[Row], set[Cell]]:
    """Return every row, and the cells the simulated numbers were fitted to.

    Parameters
    ----------
    tables, inputs : Tables
    searched : list of dict, optional
        What `fresh` found; by default what is stored.
    """
    if searched is None:
        version, stale = stored_version(), staleness(inputs)
        read = set(version["cells"])
        told = f"stored search, code {version['code']}"
        told += f" ({', '.join(stale)}: --fresh searches again)" if stale else ""
        searched = [row for row in simulated() if row["variant"] == FITTED.name]
    else:
        cases(inputs)
        read, told = {cell for cell in inputs.read if cell[0] == TABLE}, "searched now"
    ours = {(row["model"], row["workload"], row["policy"]): row for row in searched}
    out = []
    for key in _keys(tables):
        out += _rows(tables, key, ours, read, told)
    return out, read


def _keys(tables: Tables) -> list[tuple[str, str, str]]:
    """Return published runs, then those the settings name."""
    workloads = dict.fromkeys(row["workload"] for row in tables[TABLE])
    named = [row["model"] for row in tables["settings"] if "EP" in degrees_of(row["serving"])]
    grid = [(model, load, policy) for model in named for load in workloads for policy in POLICIES]
    given = [(row["model"], row["workload"], row["policy"]) for row in tables[TABLE]]
    return list(dict.fromkeys((*given, *grid)))


def _rows(
    tables: Tables,
    key: tuple[str, str, str],
    ours: dict[tuple[str, str, str], dict[str, Any]],
    read: set[Cell],
    told: str,
) -> list[Row]:
    model, workload, policy = key
    row = tables.find(TABLE, model=model, workload=workload, policy=policy)
    base = tables.find(TABLE, model=model, workload=workload, policy="ideal")
    mine, ideal = ours.get(key, {}), ours.get((model, workload, "ideal"), {})
    metrics = {
        "mean_rank_imbalance": (
            None if row is None else number(row["mean_rank_imbalance"]), mine.get("imbalance"),
        ),
        "relative_rps_at_slo": (
            None if row is None or base is None else _over(number(row[RATE]), number(base[RATE])),
            _over(mine.get("rate_per_s"), ideal.get("rate_per_s")),
        ),
    }  # fmt: skip
    out = []
    for metric, (published, value) in metrics.items():
        notes = [source_of(row, SOURCE)] if row and published is not None else ["not published"]
        notes += ["1 by definition"] if policy == "ideal" else []
        notes += [told] if value is not None else ["not searched: --fresh does, where it can"]
        fitted = policy == "ideal" or (
            metric == "mean_rank_imbalance" and (TABLE, " | ".join(key), metric) in read
        )
        out.append(
            make_row(
                TABLE, "/".join(key), metric, published, value,
                fitted=fitted, provenance="; ".join(notes),
            )
        )  # fmt: skip
    return out


def _over(part: float | None, whole: float | None) -> float | None:
    return None if part is None or whole is None else part / whole
