"""Pipeline hops and data-parallel gradient sync: closed forms on an otherwise idle fabric.

A ring moves ``(n - 1) / n`` of the bytes through every port, for a reduce-scatter as for an
all-gather. Gradients that every rank holds are first reduce-scattered inside the expert-parallel
group and then, a shard a rank, between replicas.
"""

from __future__ import annotations

from dataclasses import dataclass

from ultraep_sim.model.profiles import RackProfile


@dataclass(frozen=True)
class Wire:
    """A way between GPUs.

    Parameters
    ----------
    rate : float
        Bytes a second of one GPU and direction.
    floor_s : float
        Seconds before the first byte counts.
    """

    rate: float
    floor_s: float

    def seconds(self, size: float) -> float:
        """Time of one transfer of `size` bytes; nothing takes no time."""
        return self.floor_s + size / self.rate if size > 0 else 0.0

    def ring(self, size: float, members: int) -> float:
        """Time of a ring reduce-scatter (or all-gather) of `size` bytes over `members` GPUs."""
        return self.seconds(size * (members - 1) / members)


def inside(rack: RackProfile) -> Wire:
    """Return the way of bulk sends and receives in the scale-up domain."""
    return Wire(rack.migrate_rate, rack.migrate_base_us.si)


def inside_ring(rack: RackProfile) -> Wire:
    """Return the way of collectives in the scale-up domain: at the rate of an all-to-all."""
    return Wire(rack.alltoall_rate("backward"), rack.alltoall_floor_us.si)


def between(rack: RackProfile) -> Wire:
    """Return the way between scale-up domains, over the NICs."""
    return Wire(rack.scale_out_rate, rack.scale_out_floor_us.si)


def sync_common(group: Wire, replicas: Wire, size: float, ranks: int, copies: int) -> float:
    """Seconds to reduce-scatter (or all-gather) `size` bytes that all ranks and replicas share.

    Parameters
    ----------
    group, replicas : Wire
        Inside the expert-parallel group, and between its replicas.
    size : float
        Bytes on each rank.
    ranks, copies : int
        Of the group, and replicas of it.
    """
    return group.ring(size, ranks) + replicas.ring(size / ranks, copies)
