"""How much slower real routing is than forced routing of the same imbalance, as published.

In the published layer every part of `none` and `ultraep` takes longer than a law that knows only
the imbalance says, by a factor that is nearly the same for an imbalance of 2.86 and of 1.03. The
force-balanced run sends the same number of tokens between every pair of ranks and to every expert;
real routing does not. Nobody has taken the factor apart: message sizes between pairs, uneven groups
of the GEMM, and waiting that is booked as communication may all be in it. Here it is one number a
part, fitted to the published breakdown (Qwen3-235B) and used for other models and policies in the
training table, never for the breakdown's own rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from ..model.profiles import Direction
from ..model.provenance import Quantity, fitted
from .tables import Tables, load_tables, number

PARTS = ("moe_compute", "token_all_to_all")
_SOURCE = "layer_breakdown.csv, forward, none and ultraep over ideal x mean imbalance"


@dataclass(frozen=True)
class Uneven:
    """Factors on the time that the plain law gives; 1 is off.

    Attributes
    ----------
    compute, all_to_all : Quantity
        Of the experts' GEMM, and of dispatch and combine.
    """

    compute: Quantity
    all_to_all: Quantity


OFF = Uneven(*(Quantity(1.0, "1", "assumed", "switched off", 1.0, 1.0),) * 2)


def implied(part: str) -> dict[str, float]:
    """Divide published by plain law, by policy, for one part of the forward layer."""
    tables = load_tables()
    imbalance = {
        row["policy"]: number(row["mean_rank_imbalance"])
        for row in tables["training"]
        if row["model"] == "qwen3-235b"
    }
    bars = {
        row["policy"]: float(row["latency_ms"])
        for row in tables["layer_breakdown"]
        if row["direction"] == get_args(Direction)[0] and row["part"] == part
    }
    found = {}
    for policy, bar in bars.items():
        at = imbalance.get(policy)
        if policy != "ideal" and at is not None:
            found[policy] = bar / (bars["ideal"] * at)
    return found


def routed(tables: Tables) -> Quantity:
    """Return the one overhead of real routing that the paper suite fits: on its all-to-all.

    Taken from the layer without balancing alone, so that no row of a balancer decides it: the
    published all-to-all of ``none``, forward, over ``ideal``'s times the imbalance of ``none``. The
    experts' GEMM has a part in `published`; here it has none, as a class of policies may have one
    overhead. 1 where a cell is missing.
    """
    part = {"model": "qwen3-235b", "direction": "forward", "part": PARTS[1]}
    none, ideal = (tables.find("layer_breakdown", **part, policy=p) for p in ("none", "ideal"))
    run = tables.find("training", model="qwen3-235b", policy="none")
    cells = [
        number(row[column]) if row is not None else None
        for row, column in (
            (none, "latency_ms"),
            (ideal, "latency_ms"),
            (run, "mean_rank_imbalance"),
        )
    ]
    if cells[0] is None or cells[1] is None or cells[2] is None:
        return OFF.all_to_all
    return fitted(cells[0] / (cells[1] * cells[2]), "1", "layer_breakdown.csv, none, forward")


def published() -> Uneven:
    """Return the factors of the published breakdown: geometric means, with what they lie between.

    The same holds backward, which is assumed: no backward row of them is published.
    """
    return Uneven(*(_factor(part) for part in PARTS))


def _factor(part: str) -> Quantity:
    found = list(implied(part).values())
    middle = float(np.exp(np.log(found).mean()))
    return fitted(middle, "1", _SOURCE, min(found), max(found))
