"""Moving expert weights and gradients: streaming, broadcast, bulk migration, reduction.

Closed forms per rank. Streaming cuts weights into tiles and keeps the link of the busiest GPU
full, so a rank takes ``base + max(copies sent, copies received) x bytes / rate``.

Copies whose two ends are in different scale-up domains (``far``) go over the NICs at the rack's
achieved all-to-all rate across domains. They overlap with the others on their own links, and a
rank is done when the slower of the two is. That they keep a NIC as busy as an all-to-all does is
our assumption; none of the sources streams weights across domains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.model.profiles import RackProfile

Counts = NDArray[np.integer[Any]]
Far = tuple[Counts, Counts]
Seconds = NDArray[np.float64]


def distribute(
    rack: RackProfile,
    sent: Counts,
    received: Counts,
    copy_bytes: float,
    relayed: NDArray[np.bool_] | None = None,
    far: Far | None = None,
) -> Seconds:
    """Time each rank is busy distributing replica weights by tile streaming.

    Parameters
    ----------
    rack : RackProfile
        Streaming rate, constant part, relay extra.
    sent, received : integer ndarray [N, R]
        Copies a rank sends (home or relay) and receives.
    copy_bytes : float
        Bytes of one expert's weights.
    relayed : bool ndarray [N], optional
        Records that use the two-stage relay tree: their second stage starts one chunk late and
        polls flags, which costs `relay_us` once.
    far : pair of integer ndarray [N, R], optional
        Those of ``sent`` and ``received`` that cross domains. Their constant part is the larger
        of the streaming kernel's and the floor of the NICs.

    Returns
    -------
    ndarray of float64 [N, R]
        Seconds; 0 on a rank that takes no part.
    """
    extra: Seconds | float = 0.0
    if relayed is not None:
        extra = np.where(relayed, rack.relay_us.si, 0.0)[..., None]
    (near_sent, near_received), far = _near_and_far(sent, received, far)
    constant = np.full((*np.shape(sent)[:-1], 1), rack.stream_base_us.si) + extra
    near = _busiest(np.maximum(near_sent, near_received), copy_bytes / rack.stream_rate, constant)
    return np.maximum(near, _far_copies(rack, far, copy_bytes, extra))


def broadcast(
    rack: RackProfile,
    sent: Counts,
    received: Counts,
    copy_bytes: float,
    far: Far | None = None,
) -> Seconds:
    """Time each rank is busy with broadcasts of one expert to all ranks of its domain.

    A collective over a ring or by the switch's multicast, pipelined tile by tile: every port
    carries one copy of an expert whatever the fan-out, so the fullest receiver sets the time.
    FasterMoE (PPoPP 2022) describes the broadcast of shadowed experts; that it runs at the rack's
    streaming rate and with its constant part is our assumption (no ring start-up is added).

    Parameters
    ----------
    rack : RackProfile
        Streaming rate and constant part.
    sent, received : integer ndarray [N, R]
        Replicas a home rank has elsewhere, and replicas a rank receives. How many experts are
        behind those of a home is not known here: a rank that only sends counts for one copy,
        never more than the receivers do.
    copy_bytes : float
        Bytes of one expert's weights.
    far : pair of integer ndarray [N, R], optional
        Those of ``sent`` and ``received`` that cross domains, which no collective carries: they
        go one by one, as in `distribute`.

    Returns
    -------
    ndarray of float64 [N, R]
        Seconds; 0 on a rank that takes no part.
    """
    constant = np.full((*np.shape(sent)[:-1], 1), rack.stream_base_us.si)
    (near_sent, near_received), far = _near_and_far(sent, received, far)
    near = _busiest(_carried(near_sent, near_received), copy_bytes / rack.stream_rate, constant)
    return np.maximum(near, _far_copies(rack, far, copy_bytes))


def migrate(
    rack: RackProfile,
    moved: Counts,
    copy_bytes: float,
    crosses: NDArray[np.bool_] | None = None,
) -> Seconds:
    """Time each rank is busy receiving experts after a re-placement, by bulk send/receive.

    Parameters
    ----------
    rack : RackProfile
        Bulk rate and constant part.
    moved : integer ndarray [N, R]
        Experts a rank receives in each record.
    copy_bytes : float
        Bytes of one expert's weights. Optimizer state is not moved: it is sharded apart.
    crosses : bool ndarray [N], optional
        Records whose placement may spread an expert over several domains. A moved expert is taken
        from a NIC there, at the lower of the two rates: where it came from is not on record.
    """
    constant = np.full((*np.shape(moved)[:-1], 1), rack.migrate_base_us.si)
    rate: Any = rack.migrate_rate
    if crosses is not None:
        rate = np.where(crosses, min(rate, rack.scale_out_rate), rate)[..., None]
    return _busiest(moved, copy_bytes / rate, constant)


def reduce_gradients(
    rack: RackProfile,
    copies_sent: Counts,
    copies_received: Counts,
    gradient_bytes: float,
    sms: int | None = None,
    far: Far | None = None,
) -> Seconds:
    """Time each rank is busy adding replica gradients to the main ones.

    The home of an expert reads every replica's gradient (`copies_sent` of them) and adds it, bound
    by its SM budget; a rank that holds replicas serves `copies_received` reads, bound by its link.
    There is no relay on this way.

    Parameters
    ----------
    rack : RackProfile
        Reduction rate on its SM budget, streaming rate.
    copies_sent, copies_received : integer ndarray [N, R]
        As in the forward distribution, direct.
    gradient_bytes : float
        Bytes of one expert's fp32 gradient.
    sms : int, optional
        Another SM budget; the rate is proportional to it up to the link's.
    far : pair of integer ndarray [N, R], optional
        Those of ``copies_sent`` and ``copies_received`` that cross domains: the home's SMs add
        them like all others, but the NICs bring them.
    """
    home = np.multiply(copies_sent, gradient_bytes / rack.grad_reduce_rate(sms), dtype=np.float64)
    (_, near_received), far = _near_and_far(copies_sent, copies_received, far)
    served = np.multiply(near_received, gradient_bytes / rack.stream_rate, dtype=np.float64)
    return np.maximum(np.maximum(home, served), _far_gradients(rack, far, gradient_bytes))


def reduce_broadcast(
    rack: RackProfile,
    sent: Counts,
    received: Counts,
    gradient_bytes: float,
    far: Far | None = None,
) -> Seconds:
    """Time each rank is busy reducing the gradients of broadcast experts to their homes.

    The way back of `broadcast`: partial sums travel the ring, or the switch adds, so each port
    carries one gradient an expert and no home reads every replica. FasterMoE (PPoPP 2022)
    describes the collective; the streaming rate, with no bound by SMs, is our assumption.

    Parameters
    ----------
    rack : RackProfile
        Streaming rate.
    sent, received : integer ndarray [N, R]
        As in `broadcast`.
    gradient_bytes : float
        Bytes of one expert's fp32 gradient.
    far : pair of integer ndarray [N, R], optional
        As in `broadcast`.
    """
    (near_sent, near_received), far = _near_and_far(sent, received, far)
    seconds = gradient_bytes / rack.stream_rate
    near = np.multiply(_carried(near_sent, near_received), seconds, dtype=np.float64)
    return np.maximum(near, _far_gradients(rack, far, gradient_bytes))


def _near_and_far(sent: Counts, received: Counts, far: Far | None) -> tuple[Far, Far]:
    """Split what is sent and received into what stays in a domain and what leaves it."""
    if far is None:
        return (sent, received), (np.zeros_like(sent), np.zeros_like(received))
    return (sent - far[0], received - far[1]), far


def _far_copies(
    rack: RackProfile, far: Far, copy_bytes: float, extra: Seconds | float = 0.0
) -> Seconds:
    base = max(rack.stream_base_us.si, rack.scale_out_floor_us.si)
    constant = np.full((*np.shape(far[0])[:-1], 1), base) + extra
    return _busiest(np.maximum(*far), copy_bytes / _far_rate(rack), constant)


def _far_gradients(rack: RackProfile, far: Far, gradient_bytes: float) -> Seconds:
    floor = np.full((*np.shape(far[0])[:-1], 1), rack.scale_out_floor_us.si)
    return _busiest(np.maximum(*far), gradient_bytes / _far_rate(rack), floor)


def _far_rate(rack: RackProfile) -> float:
    return min(rack.scale_out_rate, rack.stream_rate)


def _carried(sent: Counts, received: Counts) -> Counts:
    """Count the copies a port carries: one of each expert that is broadcast through it."""
    return np.maximum(received, np.minimum(sent, 1))


def _busiest(copies: Counts, seconds_per_copy: float | Seconds, constant: Seconds) -> Seconds:
    return np.where(np.asarray(copies) > 0, constant + copies * seconds_per_copy, 0.0)
