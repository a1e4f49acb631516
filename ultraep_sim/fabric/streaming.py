"""Moving expert weights and gradients: tile streaming, bulk migration, gradient reduction.

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


def _busiest(copies: Counts, seconds_per_copy: float, constant: Seconds) -> Seconds:
    return np.where(np.asarray(copies) > 0, constant + copies * seconds_per_copy, 0.0)
