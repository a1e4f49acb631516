"""Moving expert weights and gradients: streaming, broadcast, bulk migration, reduction.

Closed forms per rank. Streaming cuts weights into tiles and keeps the link of the busiest GPU
full, so a rank takes ``base + max(copies sent, copies received) x bytes / rate``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.model.profiles import RackProfile

Counts = NDArray[np.integer[Any]]
Seconds = NDArray[np.float64]


def distribute(
    rack: RackProfile,
    sent: Counts,
    received: Counts,
    copy_bytes: float,
    relayed: NDArray[np.bool_] | None = None,
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

    Returns
    -------
    ndarray of float64 [N, R]
        Seconds; 0 on a rank that takes no part.
    """
    constant = np.full((*np.shape(sent)[:-1], 1), rack.stream_base_us.si)
    if relayed is not None:
        constant = constant + np.where(relayed, rack.relay_us.si, 0.0)[..., None]
    return _busiest(np.maximum(sent, received), copy_bytes / rack.stream_rate, constant)


def broadcast(rack: RackProfile, sent: Counts, received: Counts, copy_bytes: float) -> Seconds:
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

    Returns
    -------
    ndarray of float64 [N, R]
        Seconds; 0 on a rank that takes no part.
    """
    constant = np.full((*np.shape(sent)[:-1], 1), rack.stream_base_us.si)
    return _busiest(_carried(sent, received), copy_bytes / rack.stream_rate, constant)


def migrate(rack: RackProfile, moved: Counts, copy_bytes: float) -> Seconds:
    """Time each rank is busy receiving experts after a re-placement, by bulk send/receive.

    Parameters
    ----------
    rack : RackProfile
        Bulk rate and constant part.
    moved : integer ndarray [N, R]
        Experts a rank receives in each record.
    copy_bytes : float
        Bytes of one expert's weights. Optimizer state is not moved: it is sharded apart.
    """
    constant = np.full((*np.shape(moved)[:-1], 1), rack.migrate_base_us.si)
    return _busiest(moved, copy_bytes / rack.migrate_rate, constant)


def reduce_gradients(
    rack: RackProfile,
    copies_sent: Counts,
    copies_received: Counts,
    gradient_bytes: float,
    sms: int | None = None,
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
    """
    home = np.multiply(copies_sent, gradient_bytes / rack.grad_reduce_rate(sms), dtype=np.float64)
    served = np.multiply(copies_received, gradient_bytes / rack.stream_rate, dtype=np.float64)
    return np.maximum(home, served)


def reduce_broadcast(
    rack: RackProfile, sent: Counts, received: Counts, gradient_bytes: float
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
    """
    seconds = gradient_bytes / rack.stream_rate
    return np.multiply(_carried(sent, received), seconds, dtype=np.float64)


def _carried(sent: Counts, received: Counts) -> Counts:
    """Count the copies a port carries: one of each expert that is broadcast through it."""
    return np.maximum(received, np.minimum(sent, 1))


def _busiest(copies: Counts, seconds_per_copy: float, constant: Seconds) -> Seconds:
    return np.where(np.asarray(copies) > 0, constant + copies * seconds_per_copy, 0.0)
