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
from .anchor_files import number, read

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
    imbalance = {
        row["policy"]: number(row["mean_rank_imbalance"])
        for row in read("training")
        if row["model"] == "qwen3-235b"
    }
    bars = {
        row["policy"]: float(row["latency_ms"])
        for row in read("layer_breakdown")
        if row["direction"] == get_args(Direction)[0] and row["part"] == part
    }
    found = {}
    for policy, bar in bars.items():
        at = imbalance.get(policy)
        if policy != "ideal" and at is not None:
            found[policy] = bar / (bars["ideal"] * at)
    return found


def published() -> Uneven:
    """Return the factors of the published breakdown: geometric means, with what they lie between.

    The same holds backward, which is assumed: no backward row of them is published.
    """
    return Uneven(*(_factor(part) for part in PARTS))


def _factor(part: str) -> Quantity:
    found = list(implied(part).values())
    middle = float(np.exp(np.log(found).mean()))
    return fitted(middle, "1", _SOURCE, min(found), max(found))
