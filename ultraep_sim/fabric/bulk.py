"""The baseline of weight distribution: whole experts by point-to-point sends and receives.

As a framework's batched send/receive runs it: one launch for the batch, then every rank works off
its sends in order and its receives in order, one at a time each, and a message moves only while
both its ends are at it. A rank whose next partner is busy waits, though another could be served
(head-of-line blocking): that makes small fan-outs dear, which tiles avoid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..errors import InputError
from ..model.provenance import Quantity, fitted
from ..planning.plan import Plan
from .tiles import require_one_domain

Seconds = NDArray[np.float64]

_ROWS = "send/recv rows of the weight-distribution figure at imbalance 1.5 and 8 (Qwen3, EP64)"
BULK_BASE = fitted(577, "us", f"intercept of the {_ROWS}", 300, 650)
BULK_RATE = fitted(513, "GB/s", f"slope of the {_ROWS}", 280, 560)


@dataclass(frozen=True)
class BulkModel:
    """What a batch of sends and receives takes.

    Attributes
    ----------
    base : Quantity
        Launch of the whole batch.
    rate : Quantity
        Bandwidth of one message.
    """

    base: Quantity = BULK_BASE
    rate: Quantity = BULK_RATE

    def __post_init__(self) -> None:
        if self.rate.value <= 0:
            raise InputError(
                "not a positive number", place="rate", value=self.rate.value,
                remedy="give a number above 0",
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class BulkResult:
    """What happened; messages in the order of the plan's replicas.

    Attributes
    ----------
    finish : float64 [ranks]
        When a rank's last message is over; 0 on a rank that takes no part.
    source, destination : int32 [messages]
    start, end : float64 [messages]
        Both ports are held from one to the other.
    """

    finish: Seconds
    source: NDArray[np.int32]
    destination: NDArray[np.int32]
    start: Seconds
    end: Seconds

    @property
    def seconds(self) -> float:
        """When the last rank is done."""
        return float(self.finish.max(initial=0.0))


def bulk_plan(plan: Plan, copy_bytes: float, model: BulkModel | None = None) -> BulkResult:
    """Send every replica from its home, expert by expert.

    Parameters
    ----------
    plan : Plan
    copy_bytes : float
        Bytes of one expert's weights.
    model : BulkModel, optional

    Raises
    ------
    InputError
        A replica outside its home's scale-up domain.
    """
    require_one_domain(plan)
    main = plan.rank[plan.offsets[:-1]]
    first = np.zeros(len(plan.rank), bool)
    first[plan.offsets[:-1]] = True
    source = main[plan.expert][~first]
    return bulk(source, plan.rank[~first], copy_bytes, plan.layout.num_ranks, model)


def bulk(
    source: NDArray[np.int32],
    destination: NDArray[np.int32],
    copy_bytes: float,
    num_ranks: int,
    model: BulkModel | None = None,
) -> BulkResult:
    """Run messages of equal size, in order on every port.

    Parameters
    ----------
    source, destination : ndarray of int32, shape [messages]
        A message within one rank waits for its turn and takes no time.
    copy_bytes : float
    num_ranks : int
    model : BulkModel, optional

    Returns
    -------
    BulkResult
    """
    model = model or BulkModel()
    start, end = np.empty(len(source)), np.empty(len(source))
    base = model.base.si
    _in_order(source, destination, copy_bytes / model.rate.si, base, num_ranks, start, end)
    finish = np.zeros(num_ranks)
    np.maximum.at(finish, source, end)
    np.maximum.at(finish, destination, end)
    return BulkResult(finish, source, destination, start, end)


@njit(cache=True)
def _in_order(source, destination, seconds, base, ranks, start, end):  # type: ignore[no-untyped-def]
    egress = np.full(ranks, base)
    ingress = np.full(ranks, base)
    for i in range(source.shape[0]):
        s, d = source[i], destination[i]
        start[i] = max(egress[s], ingress[d])
        end[i] = start[i] + (seconds if s != d else 0.0)
        egress[s] = end[i]
        ingress[d] = end[i]
