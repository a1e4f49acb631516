"""Turn what a policy decided into the grouped arrays of a `Plan`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .layout import EPLayout
from .plan import Plan


def plan_from_replicas(
    layout: EPLayout,
    loads: NDArray[np.int64],
    expert: NDArray[np.int32],
    rank: NDArray[np.int32],
    quota: NDArray[np.int64],
    **fields: Any,
) -> Plan:
    """Build a plan that keeps mains home from a list of replicas with quotas.

    Parameters
    ----------
    layout : EPLayout
    loads : ndarray of int64, shape [sources, experts]
    expert, rank : ndarray of int32, shape [replicas]
        In the order they were opened; slots of a rank are numbered in that order.
    quota : ndarray of int64, shape [replicas]
        What each replica takes off its main.
    **fields
        Further fields of `Plan`.

    Returns
    -------
    Plan
    """
    instances = layout.num_experts + expert.shape[0]
    offsets = np.empty(layout.num_experts + 1, np.int64)
    out_rank = np.empty(instances, np.int32)
    out_slot = np.empty(instances, np.int32)
    out_quota = np.empty(instances, np.int64)
    total = loads[0] if loads.shape[0] == 1 else loads.sum(axis=0)
    used = np.zeros(layout.num_ranks, np.int32)
    group_replicas(
        total, layout.home, expert, rank, quota, used, offsets, out_rank, out_slot, out_quota
    )
    return Plan(layout, loads, offsets, out_rank, out_slot, out_quota, **fields)


def even_quotas(loads: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Split every expert's load evenly over its instances; the first take the remainder.

    Parameters
    ----------
    loads : ndarray of int64, shape [experts]
    offsets : ndarray of int64, shape [experts + 1]

    Returns
    -------
    ndarray of int64, shape [instances]

    Examples
    --------
    >>> import numpy as np
    >>> even_quotas(np.array([7, 2]), np.array([0, 3, 4])).tolist()
    [3, 2, 2, 2]
    """
    counts = np.diff(offsets)
    base, rest = np.divmod(loads, counts)
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    return np.asarray(np.repeat(base, counts) + (position < np.repeat(rest, counts)))


@njit(cache=True)
def group_replicas(  # type: ignore[no-untyped-def]  # numba kernel: shapes in plan_from_replicas
    total, home, expert, rank, quota, used, offsets, out_rank, out_slot, out_quota
):
    """Fill offsets, hosts, slots and quotas of one plan; ``used`` comes as zeros."""
    experts = home.shape[0]
    offsets[:] = 0
    for i in range(expert.shape[0]):
        offsets[expert[i] + 1] += 1
    for e in range(experts):
        offsets[e + 1] += offsets[e] + 1
        begin = offsets[e]
        out_rank[begin] = home[e]
        out_slot[begin] = -1
        out_quota[begin] = total[e]
    filled = np.ones(experts, np.int64)
    for i in range(expert.shape[0]):
        e, r = expert[i], rank[i]
        at = offsets[e] + filled[e]
        filled[e] += 1
        out_rank[at] = r
        out_slot[at] = used[r]
        used[r] += 1
        out_quota[at] = quota[i]
        out_quota[offsets[e]] -= quota[i]
