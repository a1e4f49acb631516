"""Plan many records at once, in parallel: the batch form of our planner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import LoadsError
from .assemble import plan_from_replicas
from .layout import EPLayout
from .loads import MAX_TOTAL
from .mosaic_solver import Effort, MosaicOptions, MosaicSolver
from .plan import Plan


@dataclass(frozen=True, eq=False)
class PlanBatch:
    """Plans of N records as flat arrays.

    Attributes
    ----------
    layout : EPLayout
    loads : ndarray of int64, shape [N, sources, experts]
    tau, count : ndarray of int64, shape [N]
        Threshold, and number of replicas.
    expert, rank : ndarray of int32, shape [N, ranks x slots]
        The first ``count`` of each row are that record's replicas.
    quota : ndarray of int64, shape [N, ranks x slots]

    Examples
    --------
    >>> import numpy as np
    >>> layout = EPLayout(num_ranks=4, num_experts=8, slots_per_rank=1)
    >>> batch = plan_many(np.array([[70, 10, 5, 5, 5, 5, 10, 10], [10] * 8]), layout)
    >>> batch.count.tolist(), round(batch.plan(0).imbalance, 3)
    ([3, 0], 1.033)
    """

    layout: EPLayout
    loads: NDArray[np.int64]
    tau: NDArray[np.int64]
    count: NDArray[np.int64]
    expert: NDArray[np.int32]
    rank: NDArray[np.int32]
    quota: NDArray[np.int64]
    may_cross: bool = False

    def __len__(self) -> int:
        return len(self.tau)

    def plan(self, record: int) -> Plan:
        """Return one record's plan."""
        n = int(self.count[record])
        return plan_from_replicas(
            self.layout,
            self.loads[record],
            self.expert[record, :n],
            self.rank[record, :n],
            self.quota[record, :n],
            policy="mosaic",
            tau=int(self.tau[record]),
            may_cross=self.may_cross,
        )


def plan_many(
    loads: ArrayLike,
    layout: EPLayout,
    *,
    target: float = 1.01,
    effort: Effort = "fast",
    speeds: ArrayLike | None = None,
    tile_rows: int = 1,
    cross: bool = False,
) -> PlanBatch:
    """Plan every record with the mosaic planner, on all threads.

    Parameters
    ----------
    loads : array_like of int, shape [N, experts] or [N, sources, experts]
        One row or one a rank, as in `check_loads`.
    layout : EPLayout
    target, effort, tile_rows, cross
        See `MosaicOptions`. Each record's plan is the one a single solve gives, except that the
        search for the best possible balance (target 1.0, thorough) is left out.
    speeds : array_like of float, shape [ranks], optional

    Returns
    -------
    PlanBatch

    Raises
    ------
    LoadsError
        If the loads are not such integers; the record is named.
    PolicyError
        If an option is impossible.
    """
    matrix = _check(np.asarray(loads), layout)
    solver = MosaicSolver(layout, speeds)
    options = MosaicOptions(target, effort, tile_rows, cross)
    found = solver.solve_many(np.ascontiguousarray(matrix.sum(axis=1)), options)
    return PlanBatch(layout, matrix, *found, may_cross=cross)


def _check(array: NDArray[Any], layout: EPLayout) -> NDArray[np.int64]:
    if array.dtype.kind not in "iu" or array.ndim not in (2, 3) or array.size == 0:
        raise LoadsError(
            "a batch needs integer loads of shape [records, experts] or "
            "[records, source ranks, experts], none of them empty",
            place="loads",
            value=f"{array.dtype} {array.shape}",
        )
    matrix = array[:, None, :] if array.ndim == 2 else array
    if matrix.shape[2] != layout.num_experts or matrix.shape[1] not in (1, layout.num_ranks):
        raise LoadsError(
            f"a record does not fit {layout.num_ranks} ranks and {layout.num_experts} experts",
            place="loads",
            value=array.shape,
            remedy=f"give one row, or {layout.num_ranks}, of {layout.num_experts} loads",
        )
    # Python integers: an unsigned or a huge value must not wrap before it is seen.
    if int(matrix.min()) < 0 or int(matrix.max()) > MAX_TOTAL:
        outside = (matrix < 0) | (matrix > MAX_TOTAL)
        at = [int(i) for i in np.argwhere(outside)[0]]
        raise LoadsError(
            "a load is negative or reaches 2^31",
            place=f"loads{at if array.ndim == 3 else [at[0], at[2]]}",
            value=int(matrix[tuple(at)]),
        )
    checked = np.ascontiguousarray(matrix, dtype=np.int64)
    totals = checked.sum(axis=(1, 2))
    if int(totals.max()) > MAX_TOTAL:
        worst = int(totals.argmax())
        raise LoadsError(
            "the total load of a record reaches 2^31",
            place=f"loads[{worst}]",
            value=int(totals[worst]),
            remedy=f"a record may hold {MAX_TOTAL} pairs; split the micro-batch",
        )
    return checked
