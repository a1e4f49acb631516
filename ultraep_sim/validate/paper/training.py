"""Training: throughput and mean rank imbalance of every run and policy.

The final model is the simulator's layers on replayed loads, with one overhead of real routing on
its all-to-all (`ultraep_sim.validate.uneven.routed`). Beside it stands the plain law, ``T / T_ideal
= 1 + s (I - 1)`` with the simulated imbalance: what one gets without any mechanism.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...model import get_rack
from ..dynamics import Dynamics, PolicyLoads
from ..rows import Row, make_row
from ..tables import Record, Tables, number
from ..training import RACK, SEQUENCE, Prepared, case_rows
from ..uneven import OFF, Uneven, routed
from .runs import Run, replayed

TABLE = "training"
SOURCE = "arXiv 2606.04101, labels of a figure"


@dataclass(frozen=True)
class Replayed:
    """A run with what every policy made of its loads."""

    run: Run
    dynamics: Dynamics
    loads: dict[str, PolicyLoads]


def replay_all(found: Sequence[Run], tables: Tables) -> list[Replayed]:
    """Replay every run under the published policies and those that the tables name besides."""
    named = tuple(row["policy"] for row in tables[TABLE])
    return [Replayed(run, *replayed(run, named)) for run in found]


def simulate(found: Sequence[Replayed], inputs: Tables) -> dict[tuple[str, str], dict[str, float]]:
    """Return the simulated numbers by model and policy.

    Returns
    -------
    dict
        ``mean_rank_imbalance``; where the model's shape is public also ``tflops_per_gpu``, and
        ``plain``, the throughput by the plain law.
    """
    factors = Uneven(OFF.compute, routed(inputs))
    out: dict[tuple[str, str], dict[str, float]] = {}
    for one in found:
        case = one.run.case
        for policy, loads in one.loads.items():
            out[case.shape.name, policy] = {"mean_rank_imbalance": loads.imbalance}
        if one.run.timed:
            prepared = Prepared(case, one.dynamics, one.loads)
            for row in case_rows(prepared, get_rack(RACK), SEQUENCE, "none", factors):
                mine = out[row["model"], row["policy"]]
                mine |= {"tflops_per_gpu": row["uneven"], "plain": row["plain_simulated"]}
    return out


def source_of(row: Record, default: str = SOURCE) -> str:
    """Return where a published row is from."""
    return row.get("provenance") or default


def rows(
    tables: Tables, read: set[tuple[str, str, str]], found: Sequence[Replayed], inputs: Tables
) -> tuple[list[Row], list[Row]]:
    """Return the rows of the final model, and those of the plain law beside it."""
    simulated = simulate(found, inputs)
    assumed = {one.run.case.shape.name: one.run.assumed for one in found}
    keys = dict.fromkeys((*((r["model"], r["policy"]) for r in tables[TABLE]), *simulated))
    final, plain = [], []
    for model, policy in keys:
        ours = simulated.get((model, policy), {})
        row = tables.find(TABLE, model=model, policy=policy)
        for metric in ("tflops_per_gpu", "mean_rank_imbalance"):
            published = None if row is None else number(row[metric])
            value = ours.get(metric)
            if metric == "tflops_per_gpu" and value is None and published is None:
                continue
            by_definition = policy == "ideal" and metric == "mean_rank_imbalance"
            fitted = by_definition or (TABLE, f"{model} | {policy}", metric) in read
            notes = [source_of(row)] if row and published is not None else ["not published"]
            notes += ["1 by definition"] if by_definition else []
            notes += [f"assumed: {assumed[model]}"] if assumed.get(model) else []
            notes += [] if value is not None else ["not simulated: unknown model or policy"]
            told = "; ".join(notes)
            final.append(
                make_row(
                    TABLE, f"{model}/{policy}", metric, published, value,
                    fitted=fitted, provenance=told,
                )
            )  # fmt: skip
            if metric == "tflops_per_gpu" and "plain" in ours:
                plain.append(
                    make_row(
                        "training, plain law", f"{model}/{policy}", metric, published,
                        ours["plain"], fitted=fitted, provenance=told,
                    )
                )  # fmt: skip
    return final, plain
