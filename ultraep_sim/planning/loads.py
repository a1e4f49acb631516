"""What a load matrix must be before anything is planned on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import LoadsError
from .layout import EPLayout

MAX_TOTAL = 2**31 - 1
"""Largest total load of one layer and micro-batch: products of two loads must fit int64."""


def check_loads(
    loads: ArrayLike, layout: EPLayout | None = None, *, file: str | Path | None = None
) -> NDArray[np.int64]:
    """Check a load matrix and return it as int64 [source ranks, experts].

    Parameters
    ----------
    loads : array_like of int, shape [experts] or [source ranks, experts]
        (token, expert) pairs. A vector means the source is unknown.
    layout : EPLayout, optional
        If given, the shape must fit it: its experts, and either one row or one a rank.
    file : str or Path, optional
        Named in the errors.

    Returns
    -------
    ndarray of int64, shape [sources, experts], C-contiguous

    Raises
    ------
    LoadsError
        If the content is not integer, negative, empty, of the wrong shape, or too large.
    """
    array = np.asarray(loads)
    if array.dtype.kind not in "iu":
        raise _not_integer(array, file)
    if array.ndim not in (1, 2) or array.size == 0:
        raise LoadsError(
            "loads need shape [experts] or [source ranks, experts], none of them empty",
            file=file,
            place="shape",
            value=array.shape,
        )
    matrix = array[None, :] if array.ndim == 1 else array
    if layout is not None:
        _check_shape(array, matrix, layout, file)
    if array.dtype.kind == "u" and int(matrix.max()) > MAX_TOTAL:
        raise _too_large(matrix, file)
    matrix = np.ascontiguousarray(matrix, dtype=np.int64)
    if int(matrix.min()) < 0:
        at = tuple(int(i) for i in np.argwhere(matrix < 0)[0])
        where = at[1:] if array.ndim == 1 else at
        raise LoadsError(
            "a load is negative",
            file=file,
            place=f"loads[{', '.join(map(str, where))}]",
            value=int(matrix[at]),
            remedy="loads count (token, expert) pairs and start at 0",
        )
    # Bound every entry before summing, so that the sum itself cannot overflow.
    if int(matrix.max()) > MAX_TOTAL or int(matrix.sum()) > MAX_TOTAL:
        raise _too_large(matrix, file)
    return matrix


def expert_loads(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum the sources: int64 [experts]."""
    return np.asarray(matrix.sum(axis=0), dtype=np.int64)


def spread_evenly(vector: NDArray[np.int64], num_ranks: int) -> NDArray[np.int64]:
    """Give every source rank its expected share of loads whose source is unknown.

    Exact: columns sum to ``vector``. The remainders rotate over the ranks from expert to
    expert, so that no rank collects them all.

    Parameters
    ----------
    vector : ndarray of int64, shape [experts]
    num_ranks : int

    Returns
    -------
    ndarray of int64, shape [num_ranks, experts]

    Examples
    --------
    >>> import numpy as np
    >>> spread_evenly(np.array([3, 4, 1]), 2).tolist()
    [[2, 2, 0], [1, 2, 1]]
    """
    base, rest = np.divmod(vector, num_ranks)
    first = np.concatenate(([0], np.cumsum(rest)[:-1])) % num_ranks
    position = (np.arange(num_ranks)[:, None] - first[None, :]) % num_ranks
    return np.ascontiguousarray(base[None, :] + (position < rest[None, :]), dtype=np.int64)


def _check_shape(
    array: NDArray[np.generic],
    matrix: NDArray[np.generic],
    layout: EPLayout,
    file: str | Path | None,
) -> None:
    sources, experts = matrix.shape
    if experts != layout.num_experts:
        raise LoadsError(
            "the last axis is not the layout's experts",
            file=file,
            place="shape",
            value=array.shape,
            remedy=f"the layout has {layout.num_experts} experts",
        )
    if sources not in (1, layout.num_ranks):
        raise LoadsError(
            "source rows do not fit the layout's ranks",
            file=file,
            place="shape",
            value=array.shape,
            remedy=f"give one row (source unknown) or {layout.num_ranks}",
        )


def _not_integer(array: NDArray[np.generic], file: str | Path | None) -> LoadsError:
    value: object = str(array.dtype)
    place = "dtype"
    if array.dtype.kind == "f" and array.size:
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            place = f"loads[{', '.join(str(int(i)) for i in bad[0])}]"
            value = float(array[tuple(bad[0])])
    return LoadsError(
        "loads must be integers",
        file=file,
        place=place,
        value=value,
        remedy="loads count (token, expert) pairs; save them as int32 or int64",
    )


def _too_large(matrix: NDArray[np.generic], file: str | Path | None) -> LoadsError:
    total = sum(int(x) for x in np.asarray(matrix).ravel()[:65536])
    return LoadsError(
        "the total load reaches 2^31",
        file=file,
        place="loads",
        value=f"sum of at least {total}" if total > MAX_TOTAL else "sum over the limit",
        remedy=f"one layer and micro-batch may hold {MAX_TOTAL} pairs; split the micro-batch",
    )
