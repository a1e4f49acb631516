"""Dispatch and combine on a healthy, otherwise idle fabric: a closed form per rank.

A rank takes ``floor + max(bytes sent, bytes received) / bandwidth`` on each of two fabrics: the
scale-up domain (near) and the NICs (far). Near and far traffic overlap, and a rank is done when
the slower of them is: they are different links, and the libraries that cross domains keep both
busy at once. The exchange as a whole takes the maximum over ranks; per-rank times are kept.

Loads are counted in (token, expert) pairs: a token that visits two experts of one rank is sent
twice. A library that de-duplicates sends it once; hand in distinct visits then
(`ultraep_sim.fabric.dedup`). With E / R experts a rank that is rare on 64 ranks, common on 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.model.profiles import Direction, RackProfile

Counts = NDArray[np.integer[Any]]
Seconds = NDArray[np.float64]


def all_to_all(
    rack: RackProfile,
    near_sent: Counts,
    near_received: Counts,
    far_sent: Counts,
    far_received: Counts,
    bytes_per_pair: float,
    direction: Direction = "forward",
) -> Seconds:
    """Time each rank is busy in one all-to-all.

    Parameters
    ----------
    rack : RackProfile
        Bandwidths and floors.
    near_sent, near_received, far_sent, far_received : integer ndarray [N, R]
        Pairs a rank sends and receives inside its scale-up domain and across domains. For a
        combine pass the received counts of dispatch as sent, and the other way round.
    bytes_per_pair : float
        Bytes one pair carries.
    direction : {"forward", "backward"}
        Which of the rack's two achieved rates holds.

    Returns
    -------
    ndarray of float64 [N, R]
        Seconds. A record in which no rank uses a fabric pays no floor for it.
    """
    near = _one_fabric(
        near_sent,
        near_received,
        bytes_per_pair,
        rack.alltoall_rate(direction),
        rack.alltoall_floor_us.si,
    )
    far = _one_fabric(
        far_sent, far_received, bytes_per_pair, rack.scale_out_rate, rack.scale_out_floor_us.si
    )
    return np.maximum(near, far)


def _one_fabric(
    sent: Counts, received: Counts, bytes_per_pair: float, rate: float, floor: float
) -> Seconds:
    busiest = np.maximum(sent, received)
    used = busiest.any(axis=-1, keepdims=True)
    return busiest * (bytes_per_pair / rate) + np.where(used, floor, 0.0)
