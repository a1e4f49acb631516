"""Exact integer rescaling of load rows to another number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..errors import TraceError
from .meta import TraceMeta

_MAX_ROW = 2**31 - 1
_EXACT_FLOAT = 2**53


@dataclass(frozen=True)
class Rescale:
    """The step of a trace view that gives every row the same number of tokens.

    Parameters
    ----------
    row_total : int
        New sum of every row, pairs: tokens a rank times top-k.
    """

    row_total: int

    def __call__(self, loads: NDArray[np.int32]) -> NDArray[np.int32]:
        """Rescale one load matrix."""
        return rescale_rows(loads, self.row_total)


def rescale_meta(meta: TraceMeta, tokens_per_rank: int) -> TraceMeta:
    """Check the new number of tokens and label the metadata with it.

    Raises
    ------
    TraceError
        If the tokens are no positive integer or a row's sum would reach 2^31.
    """
    limit = _MAX_ROW // (meta.top_k * meta.source_ranks)
    whole = isinstance(tokens_per_rank, int) and not isinstance(tokens_per_rank, bool)
    if not whole or not 1 <= tokens_per_rank <= limit:
        raise TraceError(
            f"a trace is rescaled to 1..{limit} tokens a rank",
            place="rescaled(tokens_per_rank=...)",
            value=tokens_per_rank,
            remedy="the sum of a record must stay below 2^31",
        )
    note = {"tokens_per_rank": tokens_per_rank, "from": meta.tokens_per_rank}
    return meta.replace(tokens_per_rank=tokens_per_rank).with_note("rescaled_to", note)


def rescale_rows(loads: NDArray[np.int32], row_total: int) -> NDArray[np.int32]:
    """Rescale every row to ``row_total`` by largest remainder.

    Row by row, ``count * row_total / row_sum`` is rounded down, and the pairs still missing
    go one each to the largest remainders (tie: lower expert). So every count moves by less
    than one from its exact share, a valid row stays valid (no count above the row's tokens),
    and the result depends on nothing but its input. A row without tokens keeps none.

    Parameters
    ----------
    loads : ndarray of int32, shape [source_ranks, num_experts], C-contiguous
        Non-negative, rows summing below 2^31.
    row_total : int
        New sum of each row, below 2^31.

    Returns
    -------
    ndarray of int32, shape [source_ranks, num_experts]

    Examples
    --------
    >>> import numpy as np
    >>> rescale_rows(np.array([[3, 2, 1, 0]], dtype=np.int32), 10).tolist()
    [[5, 3, 2, 0]]
    """
    return np.asarray(_rescale_rows(np.ascontiguousarray(loads, dtype=np.int32), row_total))


@njit(cache=True, nogil=True)
def _rescale_rows(loads: NDArray[np.int32], row_total: int) -> NDArray[np.int32]:
    rows, experts = loads.shape
    out = np.empty((rows, experts), dtype=np.int32)
    rest = np.empty(experts, dtype=np.float64)
    for r in range(rows):
        row_sum = 0
        for e in range(experts):
            row_sum += loads[r, e]
        if row_sum == 0 or row_sum == row_total:
            out[r] = loads[r]
            continue
        if row_sum * row_total < _EXACT_FLOAT:
            _floor_shares(loads[r], row_sum, row_total, out[r], rest)
        else:
            _floor_large_shares(loads[r], row_sum, row_total, out[r], rest)
        missing = row_total
        for e in range(experts):
            missing -= out[r, e]
        if missing:
            _give_to_largest(rest, row_sum, missing, out[r])
    return out


@njit(cache=True, nogil=True)
def _floor_shares(
    row: NDArray[np.int32],
    row_sum: int,
    row_total: int,
    out: NDArray[np.int32],
    rest: NDArray[np.float64],
) -> None:
    """Round every share down and keep the remainders, in 1 / row_sum.

    All values are integers below 2^53, so floats are exact but for the quotient, which can be
    off by one; the remainder shows it. Without integer divisions the loop runs as vectors.
    """
    total = float(row_total)
    whole = float(row_sum)
    factor = total / whole
    for e in range(row.size):
        count = float(row[e])
        share = np.floor(count * factor)
        left = count * total - share * whole
        step = (1.0 if left >= whole else 0.0) - (1.0 if left < 0.0 else 0.0)
        out[e] = np.int32(share + step)
        rest[e] = left - step * whole


@njit(cache=True, nogil=True)
def _floor_large_shares(
    row: NDArray[np.int32],
    row_sum: int,
    row_total: int,
    out: NDArray[np.int32],
    rest: NDArray[np.float64],
) -> None:
    """Do the same for products from 2^53 on, in integers."""
    for e in range(row.size):
        product = row[e] * row_total  # int32 x int64
        out[e] = product // row_sum
        rest[e] = product % row_sum


@njit(cache=True, nogil=True)
def _give_to_largest(
    rest: NDArray[np.float64], row_sum: int, missing: int, out: NDArray[np.int32]
) -> None:
    """Add one to the ``missing`` largest remainders (tie: lower expert); spoils ``rest``.

    Bisects the value at the cut. Counting is a vector loop without branches, which beats
    sorting and selecting; keys made unique by the expert leave no ties to treat apart.
    """
    experts = rest.size
    for e in range(experts):
        rest[e] = rest[e] * experts + (experts - 1 - e)
    # All keys reach `low`, none reaches `high`; the cut leaves exactly `missing` above.
    low, high = 0, row_sum * experts
    while True:
        middle = (low + high) // 2
        reach = _count_from(rest, float(middle))
        if reach == missing:
            break
        if reach > missing:
            low = middle
        else:
            high = middle
    cut = float(middle)
    for e in range(experts):
        out[e] += np.int32(rest[e] >= cut)


@njit(cache=True, nogil=True)
def _count_from(values: NDArray[np.float64], bound: float) -> int:
    count = 0
    for e in range(values.size):
        count += 1 if values[e] >= bound else 0
    return count
