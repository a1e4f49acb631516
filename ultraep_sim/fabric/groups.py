"""Expert-parallel groups on physical GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import ProfileError

if TYPE_CHECKING:
    from ultraep_sim.fabric.topology import Topology

Gpus = NDArray[np.int64]


def domains_needed(groups: int, ranks: int, domain_size: int) -> int:
    """Return how many scale-up domains hold so many groups of so many ranks."""
    if groups < 1 or ranks < 1 or domain_size < 1:
        raise ProfileError(
            "groups, ranks and the size of a domain are at least 1",
            value=(groups, ranks, domain_size),
            remedy="give positive numbers",
        )
    if ranks <= domain_size:
        return -(-groups // (domain_size // ranks))
    return groups * -(-ranks // domain_size)


def place_groups(topology: Topology, groups: int, ranks: int) -> Gpus:
    """Name the physical GPUs of expert-parallel groups.

    A group that fits into a domain stays in one, and as many share it as fit whole; what is left
    of the domain is spare (EP64 in a domain of 72 leaves 8). A larger group starts on a domain of
    its own and fills one after the other, so its ranks lie in domains as `EPLayout` has them.

    Parameters
    ----------
    topology : Topology
    groups, ranks : int

    Returns
    -------
    ndarray of int64, shape [groups, ranks]

    Raises
    ------
    ProfileError
        The fabric has too few domains.
    """
    size = topology.domain_size
    needed = domains_needed(groups, ranks, size)
    if needed > topology.domains:
        raise ProfileError(
            f"{groups} groups of {ranks} ranks need {needed} domains of {size} GPUs; this fabric "
            f"has {topology.domains}",
            place="topology.domains",
            value=topology.domains,
            remedy=f"give {needed} or more, or fewer groups",
        )
    group, rank = np.arange(groups, dtype=np.int64)[:, None], np.arange(ranks, dtype=np.int64)
    if ranks <= size:
        together = size // ranks
        return group // together * size + group % together * ranks + rank
    return group * -(-ranks // size) * size + rank


def spares(topology: Topology, placement: Gpus) -> Gpus:
    """Return the physical GPUs that no group has, int64 [spares], ascending."""
    return np.setdiff1d(np.arange(topology.num_gpus, dtype=np.int64), placement)
