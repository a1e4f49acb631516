"""Give a trace as many source ranks as a group has: merge rows, or spread them evenly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..errors import TraceError
from .meta import MAX_SOURCE_RANKS, MAX_TOKENS_PER_RANK, TraceMeta


@dataclass(frozen=True)
class Resource:
    """The step of a trace view that merges or spreads source rows.

    Parameters
    ----------
    num_ranks : int
        Rows afterwards.
    top_k : int
        Experts chosen per token.
    """

    num_ranks: int
    top_k: int

    def __call__(self, loads: NDArray[np.int32]) -> NDArray[np.int32]:
        """Merge or spread the rows of one load matrix."""
        return resource_rows(loads, self.num_ranks, self.top_k)

    def many(self, loads: NDArray[np.int32]) -> NDArray[np.int32]:
        """Do the same to many records, [records, rows, experts], on all threads."""
        if loads.shape[1] != 1 or self.num_ranks == 1:
            return np.stack([self(one) for one in loads])
        return np.asarray(_spread_many(np.ascontiguousarray(loads), self.num_ranks, self.top_k))


def resource_meta(meta: TraceMeta, num_ranks: int) -> TraceMeta:
    """Check the number of ranks and say in the metadata what happens to the rows.

    The nominal tokens of the whole group stay what they were.

    Raises
    ------
    TraceError
        If ``num_ranks`` is no sensible positive integer.
    """
    whole = isinstance(num_ranks, int) and not isinstance(num_ranks, bool)
    if not whole or not 1 <= num_ranks <= MAX_SOURCE_RANKS:
        raise TraceError(
            f"a trace has 1..{MAX_SOURCE_RANKS} source ranks",
            place="with_sources(num_ranks=...)",
            value=num_ranks,
            remedy="give the number of ranks of the expert-parallel group",
        )
    rows = meta.source_ranks
    if rows == num_ranks:
        return meta
    if rows % num_ranks == 0:
        what = f"{rows} rows merged by {rows // num_ranks} neighbours into {num_ranks}"
    elif num_ranks % rows == 0:
        known = "1 row (source unknown)" if rows == 1 else f"{rows} rows"
        what = f"{known} spread evenly over {num_ranks}; real sources differ more"
    else:
        what = f"{rows} rows summed and spread evenly over {num_ranks}; real sources differ more"
    tokens = max(1, round(meta.tokens_per_rank * rows / num_ranks))
    before = meta.notes.get("sources")
    return meta.replace(
        source_ranks=num_ranks, tokens_per_rank=min(tokens, MAX_TOKENS_PER_RANK)
    ).with_note("sources", f"{before}; then {what}" if before else what)


def resource_rows(loads: NDArray[np.int32], num_ranks: int, top_k: int) -> NDArray[np.int32]:
    """Turn ``[rows, experts]`` into ``[num_ranks, experts]`` with the same column sums.

    With more rows than ranks, and a multiple, neighbouring rows are summed. With fewer rows,
    each is spread over its share of the ranks as `spread_row` does. Where neither number
    divides the other, all rows are summed, and the sum is spread.

    Parameters
    ----------
    loads : ndarray of int32, shape [rows, num_experts]
        Every row sums to a multiple of ``top_k`` and has no count above its tokens.
    num_ranks : int
    top_k : int

    Returns
    -------
    ndarray of int32, shape [num_ranks, num_experts]
        The same guarantees hold for every row.
    """
    rows, experts = loads.shape
    if rows == num_ranks:
        return loads
    if rows % num_ranks == 0:
        merged = loads.reshape(num_ranks, rows // num_ranks, experts).sum(axis=1, dtype=np.int32)
        return np.ascontiguousarray(merged)
    if num_ranks % rows:
        loads = loads.sum(axis=0, dtype=np.int32, keepdims=True)
    return np.asarray(_spread(np.ascontiguousarray(loads), num_ranks, top_k))


def spread_row(row: NDArray[np.int32], num_ranks: int, top_k: int) -> NDArray[np.int32]:
    """Spread the pairs of one source over ranks, evenly and as real tokens could lie.

    Imagine the row's tokens numbered 0..T-1 and dealt to the ranks in turn. Its pairs, expert
    by expert, are dealt to the tokens in turn as well: T x top-k pairs give every token
    exactly top-k pairs, all of different experts because no expert has more than T. So
    columns sum exactly, every rank's sum is top-k times its tokens (which differ by one at
    most and are the same in every layer), no expert has more pairs on a rank than the rank
    has tokens, and every cell is within two of its even share.

    Parameters
    ----------
    row : ndarray of int32, shape [num_experts]
    num_ranks : int
    top_k : int

    Returns
    -------
    ndarray of int32, shape [num_ranks, num_experts]

    Examples
    --------
    >>> import numpy as np
    >>> spread_row(np.array([4, 1, 2, 1], dtype=np.int32), 2, 2).tolist()
    [[2, 1, 1, 0], [2, 0, 1, 1]]
    """
    return np.asarray(_spread(np.ascontiguousarray(row[None, :]), num_ranks, top_k))


@njit(cache=True, parallel=True, nogil=True)
def _spread_many(loads: NDArray[np.int32], num_ranks: int, top_k: int) -> NDArray[np.int32]:
    out = np.empty((loads.shape[0], num_ranks, loads.shape[2]), dtype=np.int32)
    for n in prange(loads.shape[0]):
        _spread_into(loads[n], top_k, out[n])
    return out


@njit(cache=True, nogil=True)
def _spread(loads: NDArray[np.int32], num_ranks: int, top_k: int) -> NDArray[np.int32]:
    out = np.empty((num_ranks, loads.shape[1]), dtype=np.int32)
    _spread_into(loads, top_k, out)
    return out


@njit(cache=True, nogil=True)
def _spread_into(loads: NDArray[np.int32], top_k: int, out: NDArray[np.int32]) -> None:
    rows, experts = loads.shape
    share = out.shape[0] // rows
    # An expert's pairs lie on consecutive tokens, wrapping once round at most: dealt to the ranks
    # in turn, they are two runs, and each run gives every rank its base and one more to the ranks
    # from its first on. Runs are told expert by expert, so that ranks can be filled row by row.
    base, first = np.empty(experts, np.int32), np.empty(experts, np.int32)
    extra, wrapped = np.empty(experts, np.int32), np.empty(experts, np.int32)
    for r in range(rows):
        total = 0
        for e in range(experts):
            total += loads[r, e]
        tokens = total // top_k
        token = 0  # the next token to be dealt a pair
        for e in range(experts):
            count = int(loads[r, e])
            until_wrap = min(count, tokens - token)
            each = until_wrap // share
            base[e], extra[e], wrapped[e] = each, until_wrap - each * share, 0
            first[e] = token % share
            if count > until_wrap:
                after = count - until_wrap
                base[e] += after // share
                wrapped[e] = after % share
            token += count
            if token >= tokens:
                token -= tokens
        for i in range(share):
            at, around = np.int32(i), np.int32(i + share)
            row = out[r * share + i]
            for e in range(experts):
                turn = np.int32((around if at < first[e] else at) - first[e])
                one = np.int32(1) if turn < extra[e] else np.int32(0)
                more = np.int32(1) if at < wrapped[e] else np.int32(0)
                row[e] = np.int32(base[e] + one + more)
