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
    """Bulk sends and receives in the scale-up domain."""
    return Wire(rack.migrate_rate, rack.migrate_base_us.si)


def inside_ring(rack: RackProfile) -> Wire:
    """Collectives in the scale-up domain, at the rate an all-to-all reaches there."""
    return Wire(rack.alltoall_rate("backward"), rack.alltoall_floor_us.si)


def between(rack: RackProfile) -> Wire:
    """Between scale-up domains, over the NICs."""
    return Wire(rack.scale_out_rate, rack.scale_out_floor_us.si)


def sync_expert_gradients(rack: RackProfile, size: float, replicas: int, *, near: bool) -> float:
    """Seconds to reduce-scatter `size` bytes of a rank's own experts over the replicas."""
    return (inside_ring(rack) if near else between(rack)).ring(size, replicas)


def sync_common(
    rack: RackProfile, size: float, ranks: int, replicas: int, *, near_group: bool, near: bool
) -> float:
    """Seconds to reduce-scatter (or all-gather) `size` bytes that all ranks and replicas share.

    Parameters
    ----------
    rack : RackProfile
    size : float
        Bytes on each rank.
    ranks, replicas : int
        Of the expert-parallel group, and copies of it.
    near_group, near : bool
        Whether the group, and its replicas, lie inside one scale-up domain.
    """
    group = (inside_ring(rack) if near_group else between(rack)).ring(size, ranks)
    return group + (inside_ring(rack) if near else between(rack)).ring(size / ranks, replicas)
