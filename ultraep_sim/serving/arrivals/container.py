"""What a recording of arrivals holds, whatever file it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Tokens of a block that Mooncake hashes.
BLOCK_TOKENS = 512


@dataclass(frozen=True, eq=False)
class Blocks:
    """Hashes of the prompts' blocks: equal ids are equal prompts up to there.

    Attributes
    ----------
    ids : ndarray of int64, [blocks]
        Of all requests, one after the other.
    starts : ndarray of int64, [requests + 1]
        Request i has ``ids[starts[i]:starts[i + 1]]``, one for every 512 tokens begun.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]

    def seen_before(self) -> NDArray[np.int64]:
        """Return how many leading blocks of each request an earlier one had, [requests].

        Notes
        -----
        As if every block stayed in a cache without bounds from the moment its request arrives:
        an upper limit on what a prefix cache finds (assumed). An id that only the request itself
        repeats is not found.
        """
        counts = np.diff(self.starts)
        owner = np.repeat(np.arange(counts.size), counts)
        _, first, which = np.unique(self.ids, return_index=True, return_inverse=True)
        missed = owner[first[which]] == owner
        # The first miss ends the run; a request without one has found all its blocks.
        within = np.arange(self.ids.size) - self.starts[owner]
        found = counts.astype(np.int64)
        np.minimum.at(found, owner[missed], within[missed])
        return found


@dataclass(frozen=True, eq=False)
class Arrivals:
    """Recorded requests, in order of arrival.

    Attributes
    ----------
    arrival_s : ndarray of float64, [requests]
        Seconds since the first; not decreasing.
    tokens, output_tokens : ndarray of int64, [requests]
        Of prompt and answer, at least 1 each.
    blocks : Blocks or None
        Where the recording hashes prompts.
    label : str
        What it is and the file's name, without its folder.
    """

    arrival_s: NDArray[np.float64]
    tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    blocks: Blocks | None
    label: str

    def __len__(self) -> int:
        return int(self.arrival_s.size)

    @property
    def span_s(self) -> float:
        """Seconds from the first request to the last."""
        return float(self.arrival_s[-1])
