"""Which replica gradients are added to which main, in which order, and the sum itself.

The order is fixed: the main first, then the replicas by ascending rank, each added in fp32; one
rounding at the end where the main is bf16. So the bits depend on neither timing nor fabric.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.planning.plan import Plan

from .bf16 import from_float, to_float


@dataclass(frozen=True, eq=False)
class GradientList:
    """Experts with replicas, and where the replicas are.

    Attributes
    ----------
    num_ranks : int
    expert, home, row : int32 [tasks]
        Expert, its home, and its row among the mains of its home.
    offsets : int64 [tasks + 1]
        Replicas of task ``t`` are ``offsets[t]:offsets[t + 1]``, by ascending rank.
    rank, slot : int32 [replicas]
    """

    num_ranks: int
    expert: NDArray[np.int32] = field(repr=False)
    home: NDArray[np.int32] = field(repr=False)
    row: NDArray[np.int32] = field(repr=False)
    offsets: NDArray[np.int64] = field(repr=False)
    rank: NDArray[np.int32] = field(repr=False)
    slot: NDArray[np.int32] = field(repr=False)

    def pair_bytes(self, gradient_bytes: int) -> NDArray[np.int64]:
        """Bytes of replica gradients that each home reads, int64 [replica's rank, home]."""
        out = np.zeros((self.num_ranks, self.num_ranks), np.int64)
        np.add.at(out, (self.rank, np.repeat(self.home, np.diff(self.offsets))), gradient_bytes)
        return out


def gradient_list(plan: Plan, main_row: NDArray[np.int32]) -> GradientList:
    """List the gradient reduction of a plan.

    Parameters
    ----------
    plan : Plan
        With mains at home, inside one scale-up domain.
    main_row : ndarray of int32, shape [experts]
        Row of each expert among the mains of its home (`Geometry.main_row`).

    Returns
    -------
    GradientList
    """
    hot = np.flatnonzero(plan.fanout > 0)
    replica = np.flatnonzero(plan.is_replica)
    order = replica[np.lexsort((plan.rank[replica], plan.expert[replica]))]
    return GradientList(
        plan.layout.num_ranks,
        hot.astype(np.int32),
        plan.rank[plan.offsets[hot]],
        main_row[hot],
        np.append(0, np.cumsum(plan.fanout[hot])).astype(np.int64),
        plan.rank[order],
        plan.slot[order],
    )


def ordered_sum(main: NDArray[np.generic], replicas: list[NDArray[np.generic]]) -> None:
    """Add gradients to ``main`` in place, in the order given, accumulating in fp32.

    Parameters
    ----------
    main : ndarray of float32, or of uint16 (bf16 bits), shape [n]
    replicas : list of the same, each of either dtype
    """
    total = _wide(main)
    for replica in replicas:
        total = total + _wide(replica)
    main[...] = from_float(total) if main.dtype == np.uint16 else total


def _wide(values: NDArray[np.generic]) -> NDArray[np.float32]:
    if values.dtype == np.uint16:
        return to_float(values.astype(np.uint16, copy=False))
    return values.astype(np.float32, copy=True)
