"""An all-to-all from its actual matrix: who sends how much to whom, and which side binds.

The matrix comes from the split of a plan (source rank to instance), so it holds for any policy. It
counts (token, expert) pairs, or distinct (token, rank) visits where the library sends a token once
to each rank (`ultraep_sim.fabric.dedup`). Combine is dispatch turned round: what a rank received
it sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..errors import InputError
from ..model.profiles import Direction, RackProfile
from ..planning.layout import EPLayout
from ..planning.plan import Plan
from .alltoall import all_to_all

Matrix = NDArray[np.integer[Any]] | NDArray[np.float64]
Way = Literal["dispatch", "combine"]


def pair_matrix(plan: Plan) -> NDArray[np.int64]:
    """Count the pairs from every source rank to every host.

    Parameters
    ----------
    plan : Plan
        Its loads must have one row a rank.

    Returns
    -------
    ndarray of int64, shape [ranks, ranks]
        Row: source. The diagonal stays on its rank. Rows sum to the loads of a source, columns to
        the rank loads of the plan.

    Raises
    ------
    InputError
        The source of the loads is unknown.
    """
    require_sources(plan)
    ranks = plan.layout.num_ranks
    out = np.zeros((ranks, ranks), np.int64)
    _by_host(plan.split, plan.rank, out)
    return out


def require_sources(plan: Plan) -> None:
    """Refuse a plan whose loads do not say which rank a token comes from."""
    ranks = plan.layout.num_ranks
    if plan.loads.shape[0] != ranks:
        raise InputError(
            "the source of the loads is unknown",
            place="plan.loads",
            value=plan.loads.shape,
            remedy=f"give one row for each of the {ranks} ranks",
        )


@njit(cache=True)
def _by_host(split, rank, out):  # type: ignore[no-untyped-def]  # numba kernel
    for s in range(split.shape[0]):
        for i in range(rank.shape[0]):
            out[s, rank[i]] += split[s, i]


@dataclass(frozen=True, eq=False)
class Sides:
    """What ranks send and receive at dispatch, in pairs or tokens; each [ranks].

    Attributes
    ----------
    near_sent, near_received : ndarray
        Inside the scale-up domain, other ranks only.
    far_sent, far_received : ndarray
        Across domains.
    """

    near_sent: Matrix
    near_received: Matrix
    far_sent: Matrix
    far_received: Matrix

    def turned(self) -> Sides:
        """Return the sides of combine: what was received goes back."""
        return Sides(self.near_received, self.near_sent, self.far_received, self.far_sent)


def sides(matrix: Matrix, layout: EPLayout) -> Sides:
    """Sum a matrix over its two ends, what stays in a domain apart from what leaves it.

    Parameters
    ----------
    matrix : ndarray [ranks, ranks]
        As from `pair_matrix`.
    layout : EPLayout
    """
    domain = layout.domain_of
    far = np.where(domain[:, None] != domain[None, :], matrix, 0)
    near = matrix - far
    near[np.diag_indices(len(near))] = 0
    return Sides(near.sum(axis=1), near.sum(axis=0), far.sum(axis=1), far.sum(axis=0))


@dataclass(frozen=True, eq=False)
class Exchange:
    """One all-to-all on an idle, healthy fabric.

    Attributes
    ----------
    seconds : float64 [ranks]
        Busy time of each rank, floor included.
    rank : int
        The slowest.
    fabric : {"scale-up", "scale-out"}
        What binds it.
    side : {"send", "receive"}
        Which direction of its port binds.
    floor_share : float
        Part of its time that is the floor.
    """

    seconds: NDArray[np.float64]
    rank: int
    fabric: Literal["scale-up", "scale-out"]
    side: Literal["send", "receive"]
    floor_share: float


def exchange(
    rack: RackProfile,
    matrix: Matrix,
    layout: EPLayout,
    bytes_per_pair: float,
    *,
    way: Way = "dispatch",
    direction: Direction = "forward",
) -> Exchange:
    """Time an all-to-all from its matrix and say what binds it.

    Parameters
    ----------
    rack : RackProfile
    matrix : ndarray [ranks, ranks]
        Pairs (or distinct visits) at dispatch.
    layout : EPLayout
    bytes_per_pair : float
        Bytes one of them carries.
    way : {"dispatch", "combine"}
    direction : {"forward", "backward"}

    Returns
    -------
    Exchange
    """
    found = sides(matrix, layout)
    if way == "combine":
        found = found.turned()
    near_sent, near_received, far_sent, far_received = _rows(found)
    none = near_sent * 0
    near = all_to_all(rack, near_sent, near_received, none, none, bytes_per_pair, direction)[0]
    far = all_to_all(rack, none, none, far_sent, far_received, bytes_per_pair, direction)[0]
    both = np.maximum(near, far)
    rank = int(both.argmax())
    scale_up = bool(near[rank] >= far[rank])
    sent, received, floor = (
        (found.near_sent, found.near_received, rack.alltoall_floor_us.si)
        if scale_up
        else (found.far_sent, found.far_received, rack.scale_out_floor_us.si)
    )
    return Exchange(
        both,
        rank,
        "scale-up" if scale_up else "scale-out",
        "send" if sent[rank] > received[rank] else "receive",
        float(floor / both[rank]) if both[rank] > 0 else 0.0,
    )


def _rows(found: Sides) -> tuple[Any, Any, Any, Any]:
    """Return the four columns as batches of one record."""
    return (
        found.near_sent[None],
        found.near_received[None],
        found.far_sent[None],
        found.far_received[None],
    )
