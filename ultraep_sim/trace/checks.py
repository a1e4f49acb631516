"""What every record must be, checked in blocks so that the check costs microseconds a record.

One checker serves every way in: the Parquet reader and writer and arrays in memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from .meta import TraceMeta

MAX_TOTAL = 2**31 - 1
"""Largest sum of one record: the planner multiplies two loads in int64."""

_REMAKE = "the recording is damaged or not of this format; record or convert it again"


class RecordChecker:
    """Checks records in order; remembers the last one, so blocks may cut anywhere.

    Parameters
    ----------
    meta : TraceMeta
        What the records claim to be.
    file : str or Path, optional
        Named in the errors.
    """

    def __init__(self, meta: TraceMeta, file: str | Path | None = None) -> None:
        self.meta = meta
        self.file = file
        self._last_key: NDArray[np.int32] | None = None
        self._last_sums: NDArray[np.int64] | None = None

    def check(self, keys: NDArray[np.int32], loads: NDArray[np.int32]) -> None:
        """Check the next block.

        Parameters
        ----------
        keys : ndarray of int32, shape [records, 3]
            Step, micro-batch and layer of each record.
        loads : ndarray of int32, shape [records, source_ranks, num_experts]

        Raises
        ------
        TraceError
            Naming the first record, row and expert that is wrong.
        """
        if not len(keys):
            return
        self._check_keys(keys)
        sums = self._check_counts(keys, loads)
        self._check_layers_agree(keys, sums)
        self._last_key, self._last_sums = keys[-1].copy(), sums[-1].copy()

    def check_keys(self, keys: NDArray[np.int32]) -> None:
        """Check the keys of the next block without its counts; see `check`."""
        self._check_keys(keys)
        self._last_key = keys[-1].copy()

    def _check_keys(self, keys: NDArray[np.int32]) -> None:
        low = keys.min(axis=0)
        if low.min() < 0 or keys[:, 2].max() >= self.meta.num_layers:
            bad = (keys < 0).any(axis=1) | (keys[:, 2] >= self.meta.num_layers)
            at = keys[int(np.argmax(bad))]
            raise self._error(
                f"a record lies outside steps and micro-batches from 0 and layers "
                f"0..{self.meta.num_layers - 1}",
                at,
                value=tuple(int(x) for x in at),
            )
        before = keys[:-1]
        after = keys[1:]
        if self._last_key is not None:
            before, after = np.vstack([self._last_key, before]), keys
        ascending = _ascending(before, after)
        if not ascending.all():
            first = int(np.argmin(ascending))
            same = bool((before[first] == after[first]).all())
            raise self._error(
                "the record appears twice" if same else "the record is out of order",
                after[first],
                value=f"after {_place(before[first])}",
                remedy="sort by step, micro-batch, layer and source rank, without duplicates",
            )

    def _check_counts(self, keys: NDArray[np.int32], loads: NDArray[np.int32]) -> NDArray[np.int64]:
        top_k = self.meta.top_k
        # The smallest first: with no negative entry, the sum bounds every entry.
        if int(loads.min()) < 0:
            self._fail_entry(keys, loads, loads < 0, "a count is negative")
        sums = loads.sum(axis=2, dtype=np.int64)
        totals = sums.sum(axis=1)
        if int(totals.min()) == 0 or int(totals.max()) > MAX_TOTAL:
            at = int(np.argmax((totals == 0) | (totals > MAX_TOTAL)))
            total = int(totals[at])
            problem = "the record holds no token" if total == 0 else "the record's sum reaches 2^31"
            raise self._error(problem, keys[at], value=total, remedy="leave such records out")
        if (sums % top_k).any():
            at, row = (int(i) for i in np.argwhere(sums % top_k)[0])
            raise self._error(
                f"the sum of a row is not a multiple of top_k = {top_k}",
                keys[at],
                row=row,
                value=int(sums[at, row]),
                remedy="every token must count top_k times; dropped pairs belong in the load too",
            )
        if (loads.max(axis=2) * np.int64(top_k) > sums).any():
            wrong = loads * np.int64(top_k) > sums[:, :, None]
            self._fail_entry(keys, loads, wrong, "an expert has more pairs than its row has tokens")
        return np.asarray(sums, dtype=np.int64)

    def _check_layers_agree(self, keys: NDArray[np.int32], sums: NDArray[np.int64]) -> None:
        before_keys, before = keys[:-1], sums[:-1]
        after_keys, after = keys[1:], sums[1:]
        if self._last_key is not None and self._last_sums is not None:
            before_keys = np.vstack([self._last_key, before_keys])
            before = np.vstack([self._last_sums, before])
            after_keys, after = keys, sums
        same_batch = (before_keys[:, :2] == after_keys[:, :2]).all(axis=1)
        differ = same_batch[:, None] & (before != after)
        if differ.any():
            at, row = (int(i) for i in np.argwhere(differ)[0])
            raise self._error(
                f"the sum of a row differs from layer {int(before_keys[at, 2])}'s "
                f"{int(before[at, row])} in the same micro-batch",
                after_keys[at],
                row=row,
                value=int(after[at, row]),
                remedy="the same tokens pass every layer; " + _REMAKE,
            )

    def _fail_entry(
        self,
        keys: NDArray[np.int32],
        loads: NDArray[np.int32],
        wrong: NDArray[np.bool_],
        problem: str,
    ) -> None:
        at, row, expert = (int(i) for i in np.argwhere(wrong)[0])
        raise self._error(
            problem, keys[at], row=row, expert=expert, value=int(loads[at, row, expert])
        )

    def _error(
        self,
        problem: str,
        key: NDArray[np.int32],
        *,
        row: int | None = None,
        expert: int | None = None,
        value: object,
        remedy: str = _REMAKE,
    ) -> TraceError:
        return TraceError(
            problem,
            file=self.file,
            place=_place(key, row=row, expert=expert),
            value=value,
            remedy=remedy,
        )


def fold_rows(
    rows: NDArray[np.int32], source_ranks: int, file: str | Path | None = None
) -> NDArray[np.int32]:
    """Turn row indices into record keys, checking that every record has all its rows.

    Parameters
    ----------
    rows : ndarray of int32, shape [records * source_ranks, 4]
        Step, micro-batch, layer, source rank.
    source_ranks : int
        Rows a record must have, in order from 0.
    file : str or Path, optional
        Named in the errors.

    Returns
    -------
    ndarray of int32, shape [records, 3]

    Raises
    ------
    TraceError
        If a row is missing, twice there, or out of order.
    """
    groups = rows.reshape(-1, source_ranks, 4)
    expected = np.arange(source_ranks, dtype=np.int32)
    good = (groups[:, :, 3] == expected).all() and (groups[:, :, :3] == groups[:, :1, :3]).all()
    if good:
        return np.ascontiguousarray(groups[:, 0, :3])
    raise _row_error(rows, source_ranks, file)


def _row_error(rows: NDArray[np.int32], source_ranks: int, file: str | Path | None) -> TraceError:
    """Find the first row that is not the one that had to come."""
    due = np.tile(np.arange(source_ranks, dtype=np.int32), len(rows) // source_ranks)
    wrong = rows[:, 3] != due
    # Inside a record (every row but its first) the key must stay.
    wrong[1:] |= (due[1:] > 0) & (rows[1:, :3] != rows[:-1, :3]).any(axis=1)
    outside = (rows[:, 3] < 0) | (rows[:, 3] >= source_ranks)
    at = int(np.argmax(outside if outside.any() else wrong))
    source = int(rows[at, 3])
    if outside[at]:
        problem = f"source ranks must be 0..{source_ranks - 1}"
    elif at and bool((rows[at] == rows[at - 1]).all()):
        problem = f"the row of source rank {source} is there twice"
    else:
        problem = "the row is missing or out of order"
    inside = at > 0 and due[at] > 0
    place = _place(rows[at - 1 if inside else at, :3], row=int(due[at]))
    return TraceError(
        problem,
        file=file,
        place=place,
        value=f"source rank {source} of {_place(rows[at, :3])}",
        remedy=f"each (step, micro-batch, layer) needs exactly {source_ranks} rows, in order",
    )


def _ascending(before: NDArray[np.int32], after: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Lexicographic ``before < after`` for rows of three."""
    less = after > before
    same = after == before
    return np.asarray(
        less[:, 0] | (same[:, 0] & (less[:, 1] | (same[:, 1] & less[:, 2]))), dtype=np.bool_
    )


def _place(key: NDArray[np.int32], *, row: int | None = None, expert: int | None = None) -> str:
    text = f"step {int(key[0])}, micro-batch {int(key[1])}, layer {int(key[2])}"
    if row is not None:
        text += f", source rank {row}"
    if expert is not None:
        text += f", expert {expert}"
    return text
