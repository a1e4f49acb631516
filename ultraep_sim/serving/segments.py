"""What a step computes: chunks of requests, a few on every rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """The chunks of one step, S of them, in order of rank.

    Attributes
    ----------
    rank, request : int64 [S]
        Where a chunk is computed, and whose it is.
    start : int64 [S]
        Tokens of the request whose keys and values are there already: computed or cached.
    count : int64 [S]
        Tokens of the chunk, from 1 up.
    last : bool [S]
        Whether the chunk is its request's last: its first token follows.
    """

    rank: Ints
    request: Ints
    start: Ints
    count: Ints
    last: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: list[tuple[int, int, int, int, bool]]) -> Segments:
        """Gather rows of rank, request, start, count and last."""
        table = np.array(rows, np.int64).reshape(-1, 5).T
        rank, request, start, count, last = np.ascontiguousarray(table)
        return cls(rank, request, start, count, last.astype(np.bool_))

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def total(self) -> int:
        """Tokens of the step."""
        return int(self.count.sum())

    def tokens(self, ranks: int) -> Ints:
        """Tokens of each rank, int64 [ranks]."""
        found = np.zeros(ranks, np.int64)
        np.add.at(found, self.rank, self.count)
        return found

    def finishing(self, ranks: int) -> Ints:
        """Count the requests of each rank whose first token follows, int64 [ranks]."""
        return np.bincount(self.rank[self.last], minlength=ranks)
