"""How long every unit of one replica takes, and when the layers of its last backwards end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..critical import Rules, critical, slowest
from ..job import Job
from .chains import Chains, backward_chain, forward_chain, run_jointly
from .orders import NONE, Orders

Seconds = NDArray[np.float64]

_JOINT = ("two_batch", "dualpipe")
_COMPUTE = ("attention", "compute")


@dataclass(frozen=True)
class Units:
    """Units of one replica.

    Attributes
    ----------
    seconds : float64 [items]
        How long each item of the orders takes once it starts.
    compute : float64 [items]
        The kernels of its compute stream, summed.
    backward : list of Chains, [VS]
        To tell when layers end inside a last backward.
    """

    seconds: Seconds
    compute: Seconds
    backward: list[Chains]


def units(job: Job, replica: int, plan: Orders) -> Units:
    """Time the items of all stages of one replica."""
    joint = job.overlap in _JOINT
    # Beside another micro-batch's work the restore is on the communication stream in any case.
    restore = "exposed" if joint else job.restore
    rules = Rules(True, job.recompute, restore, job.hidden, job.hides_prefetch)
    added = critical(slowest(job.busy(replica)), rules)
    ahead, behind, work = [], [], []
    for vs, (first, stop) in enumerate(job.layers):
        mine = {name: seconds[:, first:stop] for name, seconds in added.items()}
        extra = job.extra_forward[replica, vs].max(), job.extra_backward[replica, vs].max()
        before, after = (np.full(job.micro_batches, seconds) for seconds in extra)
        ahead.append(forward_chain(mine, before))
        behind.append(backward_chain(mine, after, recompute=job.recompute == "full"))
        work.append(_compute(mine, before, after, recompute=job.recompute == "full"))
    seconds = np.empty(len(plan.forward))
    compute = np.empty(len(plan.forward))
    for item, ((fs, fu), (bs, bu)) in enumerate(zip(plan.forward, plan.backward, strict=True)):
        parts = [] if fs == NONE else [(ahead[fs], m) for m in members(job, fu)]
        parts += [] if bs == NONE else [(behind[bs], m) for m in members(job, bu)]
        seconds[item] = _together(parts)
        compute[item] = 0.0 if fs == NONE else work[fs][0][members(job, fu)].sum()
        compute[item] += 0.0 if bs == NONE else work[bs][1][members(job, bu)].sum()
    return Units(seconds, compute, behind)


def members(job: Job, unit: int) -> list[int]:
    """Micro-batches of a unit."""
    return [2 * unit, 2 * unit + 1] if job.overlap == "two_batch" else [int(unit)]


def layer_ends(job: Job, chains: Chains, unit: int, layers: int) -> tuple[Seconds, float]:
    """When each layer of a virtual stage has its gradient, from the start of a backward unit.

    Returns
    -------
    float64 [layers]
    float
        And when what is once a unit has it.
    """
    ends = _ends([(chains, m) for m in members(job, unit)])
    latest = np.max(ends, axis=0)
    # The last operation of a layer is its latest: chains are in order.
    at = np.zeros(layers)
    np.maximum.at(at, chains.layer[chains.layer >= 0], latest[chains.layer >= 0])
    return at, float(latest[-1])


def _together(parts: list[tuple[Chains, int]]) -> float:
    if len(parts) == 1:
        chains, micro_batch = parts[0]
        return float(chains.seconds[micro_batch].sum())
    return max(float(end.max()) for end in _ends(parts))


def _ends(parts: list[tuple[Chains, int]]) -> list[Seconds]:
    if len(parts) == 1:
        chains, micro_batch = parts[0]
        return [np.cumsum(chains.seconds[micro_batch])]
    (a, i), (b, j) = parts
    end_a, end_b = np.empty(len(a.stream)), np.empty(len(b.stream))
    run_jointly(a.stream, a.seconds[i], b.stream, b.seconds[j], end_a, end_b)
    return [end_a, end_b]


def _compute(
    added: dict[str, Seconds], before: Seconds, after: Seconds, *, recompute: bool
) -> tuple[Seconds, Seconds]:
    """Seconds of compute kernels of a forward and of a backward, [M] each."""
    forward = sum(added[f"fwd_{name}"].sum(axis=1) for name in _COMPUTE)
    backward = sum(added[f"bwd_{name}"].sum(axis=1) for name in _COMPUTE)
    return before + forward, after + backward + (forward if recompute else 0.0)
