"""Replicas of many records as flat arrays: what a batch planner hands over."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Replicas(NamedTuple):
    """What a policy that keeps mains home decided for N records.

    Attributes
    ----------
    opened : ndarray of int64, shape [N]
    expert, rank : ndarray of int32, shape [N, M]
        In the order they were opened; the first ``opened`` of each row.
    quota : ndarray of int64, shape [N, M]
        What each replica takes off its main.
    """

    opened: NDArray[np.int64]
    expert: NDArray[np.int32]
    rank: NDArray[np.int32]
    quota: NDArray[np.int64]


def none_of(records: int) -> Replicas:
    """Return no replica for each of so many records."""
    return Replicas(
        np.zeros(records, np.int64),
        np.empty((records, 0), np.int32),
        np.empty((records, 0), np.int32),
        np.empty((records, 0), np.int64),
    )
