"""Which experts the slots of every rank hold, as serving systems want to be told."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...planning.plan import Plan


def slot_experts(plan: Plan) -> NDArray[np.int64]:
    """Return the expert in every slot of every rank, mains first.

    Systems load one expert into every slot, so slots that the plan leaves empty hold again the
    rank's own experts, in turn: such a copy takes no tokens.

    Returns
    -------
    ndarray of int64, shape [ranks, slots]
        ``slots`` is the most that a rank holds: mains and redundant slots.
    """
    ranks = plan.layout.num_ranks
    held: list[list[int]] = [[] for _ in range(ranks)]
    order = np.lexsort((plan.expert, plan.slot, plan.rank))
    for at in order:
        held[int(plan.rank[at])].append(int(plan.expert[at]))
    mains = np.bincount(plan.layout.home, minlength=ranks)
    width = max(int(mains.max()) + plan.layout.slots_per_rank, *(len(row) for row in held))
    for rank, row in enumerate(held):
        if not row:
            raise InputError(
                "a rank holds no expert, and a serving system loads one into every slot",
                place="placement",
                value=rank,
                remedy="use as many ranks as experts at most",
            )
        own = len(row)
        row.extend(row[at % own] for at in range(width - own))
    return np.array(held, dtype=np.int64)


def all_layers(plans: Mapping[int, Plan]) -> dict[int, NDArray[np.int64]]:
    """Return `slot_experts` of every layer, ascending.

    Raises
    ------
    InputError
        If there is no layer, or ranks or slots differ.
    """
    tables = {layer: slot_experts(plans[layer]) for layer in sorted(plans)}
    shapes = {table.shape for table in tables.values()}
    if len(shapes) != 1:
        raise InputError(
            "every layer needs the same ranks and slots",
            place="placement",
            value=sorted(shapes),
            remedy="plan all layers with one layout",
        )
    return tables
