"""What a plan is worth: modelled layer time against the weights it moves.

The policy sees only a frozen `CostModel`. A plan costs the fullest rank's compute, the fullest
rank's all-to-all, and, if it opens any replica, the start of a distribution, the weights on its
busiest port, and the gradients its busiest home reads back, as far as attention backward does not
hide them. Far replicas and far tokens are weighed `FAR` times: across domains the NIC binds
(25-100 GB/s a GPU instead of 700-900, DESIGN section 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..planning import EPLayout, MosaicOptions, MosaicSolver, Solution
from ..planning.relay import MIN_FANOUT, MIN_GAIN, SMALL_DOMAIN
from .base import CostModel

FAR = 10.0
"""How much dearer a byte is across domains; assumed, from 700-900 against 25-100 GB/s."""

THRESHOLDS = (1.0, 1.02, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 9.0)
"""Multiples of the first threshold that are weighed, besides doing nothing."""


def cheapest(
    solver: MosaicSolver,
    total: NDArray[np.int64],
    choices: Sequence[tuple[MosaicOptions, bool]],
    cost: CostModel,
    any_threshold: bool,
) -> tuple[Solution, bool]:
    """Return the solution with the least modelled time, and whether it was allowed to cross.

    Parameters
    ----------
    solver : MosaicSolver
    total : ndarray of int64, shape [experts]
    choices : sequence of (MosaicOptions, bool)
        Options to try; the flag says whether they let replicas cross domains.
    cost : CostModel
    any_threshold : bool
        Weigh looser thresholds and doing nothing too, not only what the options aim at.
    """
    best: tuple[float, Solution, bool] | None = None
    for options, crossing in choices:
        first = solver.solve(total, options)
        found = [first]
        if any_threshold:
            most = int(solver.needed(total))
            taus = [int(first.tau * m) for m in THRESHOLDS[1:] if first.tau * m < most]
            found += [s for t in taus if (s := solver.solve_at(total, t, options)) is not None]
            nothing = solver.solve_at(total, most, options)
            found += [nothing] if nothing is not None else []
        for solution in found:
            seconds = modelled_seconds(solver, total, solution, cost)
            if best is None or seconds < best[0]:
                best = seconds, solution, crossing
    assert best is not None  # noqa: S101  # there is at least one choice
    return best[1], best[2]


def modelled_seconds(
    solver: MosaicSolver, total: NDArray[np.int64], solution: Solution, cost: CostModel
) -> float:
    """Return the part of a layer's time that depends on the plan.

    Parameters
    ----------
    solver : MosaicSolver
        For its layout and speeds.
    total : ndarray of int64, shape [experts]
    solution : Solution
    cost : CostModel
    """
    layout = solver.layout
    load = np.zeros(layout.num_ranks)
    np.add.at(load, layout.home, total)
    homes = layout.home[solution.expert]
    np.subtract.at(load, homes, solution.quota)
    np.add.at(load, solution.rank, solution.quota)
    compute = float((load / solver.speeds * solver.one).max()) * cost.pair_s
    far = layout.domain_of[homes] != layout.domain_of[solution.rank]
    # Tokens of a far replica mostly come from the home's domain: they cross on the way.
    wire = load.copy()
    np.add.at(wire, solution.rank, solution.quota * far * (FAR - 1))
    seconds = compute + float(wire.max()) * cost.wire_s
    if len(solution.expert) == 0:
        return seconds
    return seconds + cost.copy_base_s + _copies(layout, solution, homes, far, cost)


def _copies(
    layout: EPLayout,
    solution: Solution,
    homes: NDArray[np.int32],
    far: NDArray[np.bool_],
    cost: CostModel,
) -> float:
    """Weights on their way out, and what is exposed of the gradients on their way back."""
    weight = np.where(far, FAR, 1.0)
    sent = np.bincount(homes, weight, layout.num_ranks)
    received = np.bincount(solution.rank, weight, layout.num_ranks)
    # There is no relay on the way back.
    return _weights(layout, solution, sent, received, cost) + cost.exposed_gradient(
        float(sent.max())
    )


def _weights(
    layout: EPLayout,
    solution: Solution,
    sent: NDArray[Any],
    received: NDArray[Any],
    cost: CostModel,
) -> float:
    """Weights on the busiest port, direct or, where the rule allows it, relayed."""
    direct = max(float(sent.max()), float(received.max()))
    if layout.domain <= SMALL_DOMAIN:
        return direct * cost.copy_s
    fanout = np.bincount(solution.expert, minlength=layout.num_experts)
    first = np.where(fanout >= MIN_FANOUT, np.minimum(np.rint(np.sqrt(fanout)), 8), fanout)
    relayed = np.bincount(layout.home, first, layout.num_ranks)
    if float(sent.max()) - float(relayed.max()) < MIN_GAIN:
        return direct * cost.copy_s
    # A relay forwards at most what is left of its expert, dealt out evenly.
    hops = float(np.ceil((fanout - first) / np.maximum(first, 1)).max())
    busiest = max(float(relayed.max()), hops, float(received.max()))
    return min(direct * cost.copy_s, busiest * cost.copy_s + cost.relay_s)
