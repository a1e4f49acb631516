"""From one expert-parallel group to another: the hop of a pipeline."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.fairshare import max_min_rates
from ultraep_sim.fabric.groups import Gpus
from ultraep_sim.fabric.health import Rates
from ultraep_sim.fabric.topology import Topology
from ultraep_sim.fabric.topology_arrays import flatten


class GroupLink(NamedTuple):
    """What rank ``i`` of one group has to rank ``i`` of another while all send at once.

    Attributes
    ----------
    latency_s : float
        Of the farthest pair.
    rate : float
        Bytes/s of the slowest pair.
    """

    latency_s: float
    rate: float


def group_link(
    topology: Topology,
    group_a: Gpus,
    group_b: Gpus,
    *,
    others: tuple[Gpus, Gpus] | None = None,
    rates: Rates = "achieved",
) -> GroupLink:
    """Return latency and bandwidth of a pipeline hop, rank by rank.

    Pairs in one scale-up domain use its planes, others their NICs and, between leaves, the spines
    as the group's NICs and the oversubscription leave them: rates are max-min fair with every
    rank sending at once.

    Parameters
    ----------
    topology : Topology
        In any state of health.
    group_a, group_b : int64 [R]
        Physical GPUs, as `groups.place_groups` names them.
    others : pair of int64 [N], optional
        Sources and destinations of transfers that run at the same time (hops of other replicas).
    rates : {"achieved", "nominal"}

    Raises
    ------
    InputError
        Groups of different sizes, or a pair that a dead link cuts off.
    """
    src, dst = np.asarray(group_a, np.int64), np.asarray(group_b, np.int64)
    if src.shape != dst.shape or src.ndim != 1 or not len(src):
        raise InputError(
            "two groups have as many ranks, at least one",
            place="group_b",
            value=(src.shape, dst.shape),
            remedy="give two rows of place_groups()",
        )
    ranks, arrays = len(src), flatten(topology, rates)
    if others is not None:
        src, dst = np.concatenate([src, others[0]]), np.concatenate([dst, others[1]])
    routes = arrays.routes(src, dst)
    fair = max_min_rates(arrays.capacity, routes.ptr, routes.links, None, routes.shares)[:ranks]
    if fair.min() == 0:
        cut = int(fair.argmin())
        raise InputError(
            f"dead links cut GPU {src[cut]} off from GPU {dst[cut]}",
            place="group_b",
            value=int(dst[cut]),
            remedy="place the group on other GPUs, or let transfers stripe over what lives",
        )
    return GroupLink(float(routes.latency_s[:ranks].max()), float(fair.min()))
