"""When every unit of a pipeline starts and ends: one max-plus recurrence over all stages."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..job import Job
from .orders import Orders

Seconds = NDArray[np.float64]


def arrange(
    job: Job, plan: Orders, seconds: Seconds, num_units: int
) -> tuple[Seconds, Seconds, Seconds, Seconds]:
    """Arrange the items of one replica in time.

    Parameters
    ----------
    job : Job
    plan : Orders
    seconds : float64 [items]
        How long each takes.
    num_units : int
        Units of a virtual stage.

    Returns
    -------
    forward_start, forward_end, backward_start, backward_end : float64 [VS, units]
    """
    shape = (job.virtual_stages, num_units)
    times = tuple(np.full(shape, np.nan) for _ in range(4))
    done = _arrange(plan.begin, plan.forward, plan.backward, seconds, job.hop_s, *times)
    if not done:  # an order in which stages wait for each other in a circle
        raise RuntimeError(f"the {job.schedule} order of {job.stages} stages does not end")
    return times  # type: ignore[return-value]  # four, by construction


@njit(cache=True)
def _arrange(begin, forward, backward, seconds, hop, f_start, f_end, b_start, b_end):  # type: ignore[no-untyped-def]
    stages = begin.shape[0] - 1
    last = f_end.shape[0] - 1
    at = begin[:-1].copy()
    free = np.zeros(stages)
    moved = True
    while moved:
        moved = False
        for s in range(stages):
            while at[s] < begin[s + 1]:
                fs, fu = forward[at[s]]
                bs, bu = backward[at[s]]
                start = free[s]
                if fs > 0:
                    start = max(start, f_end[fs - 1, fu] + hop[fs - 1])
                if bs >= 0 and bs < last:
                    start = max(start, b_end[bs + 1, bu] + hop[bs])
                # max(x, nan) is x or nan by the order of its arguments: ask for what is missing
                if (fs > 0 and np.isnan(f_end[fs - 1, fu])) or (
                    bs >= 0 and bs < last and np.isnan(b_end[bs + 1, bu])
                ):
                    break
                end = start + seconds[at[s]]
                if fs >= 0:
                    f_start[fs, fu], f_end[fs, fu] = start, end
                if bs >= 0:
                    b_start[bs, bu], b_end[bs, bu] = start, end
                free[s] = end
                at[s] += 1
                moved = True
    return np.all(at == begin[1:])
