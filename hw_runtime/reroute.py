"""Which instance every single token goes to, once a plan has split the loads over instances.

A plan says how many tokens of a source go to each instance of an expert (`split_tokens`). Here
those numbers become tokens. The rule is integer arithmetic on the token's *place*: how many tokens
of the same source chose the same expert before it. So every token can be computed for itself once
the places are counted (a prefix sum), and a kernel gives the same bits as this file.

The rule, for place ``p`` of ``n`` tokens and the instances of the expert in plan order, ``q`` of
the tokens still to be given out going to the next instance: the token goes there if
``(p + 1) * q // n > p * q // n``; otherwise it is token ``p - p * q // n`` of the ``n - q`` left
over for the instances that follow. The fractions telescope, so every instance gets exactly its
number, spread evenly over the tokens (Bresenham's line): any run of consecutive tokens is shared
out like the whole, which keeps pieces of a micro-batch balanced too.

Two forms of routing are served:

top-k ids
    ``ids`` [tokens, k]; a token names an expert once, so every pair has a place of its own.
dense
    ``chosen`` [tokens, experts], true where a token goes to an expert (the routing map of
    Megatron-LM), with values beside it (probabilities), moved to columns of physical experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.planning.plan import Plan


@dataclass(frozen=True, eq=False)
class Instances:
    """Instances of a plan under the numbers that dispatch uses.

    Attributes
    ----------
    num_ranks : int
    per_rank : int
        Physical experts a rank has room for: the most mains of any rank, then the slots.
    mains_room : int
        The most mains of any rank.
    offsets : int64 [experts + 1]
        Instances of expert ``e`` are ``offsets[e]:offsets[e + 1]``, the main first.
    rank, slot : int32 [instances]
        Host, and redundant slot (-1 for a main).
    physical : int32 [instances]
        ``rank * per_rank + row`` for a main, ``rank * per_rank + mains_room + slot`` for a
        replica: sorted by it, the tokens of a rank are those of its mains, then of its slots.
    """

    num_ranks: int
    per_rank: int
    mains_room: int
    offsets: NDArray[np.int64] = field(repr=False)
    rank: NDArray[np.int32] = field(repr=False)
    slot: NDArray[np.int32] = field(repr=False)
    physical: NDArray[np.int32] = field(repr=False)

    @property
    def num_physical(self) -> int:
        """Physical experts of the group, idle ones included."""
        return self.num_ranks * self.per_rank


def instances(plan: Plan, main_row: NDArray[np.int32]) -> Instances:
    """Give the instances of a plan their physical numbers.

    Parameters
    ----------
    plan : Plan
    main_row : ndarray of int32, shape [experts]
        Row of each expert among the mains of its home (`Geometry.main_row`).

    Returns
    -------
    Instances
    """
    layout = plan.layout
    room = int(layout.mains_per_rank.max())
    per_rank = room + layout.slots_per_rank
    local = np.where(plan.is_replica, room + plan.slot, main_row[plan.expert])
    physical = plan.rank.astype(np.int64) * per_rank + local
    return Instances(
        layout.num_ranks, per_rank, room, plan.offsets, plan.rank, plan.slot,
        physical.astype(np.int32),
    )  # fmt: skip


def choose_topk(
    ids: NDArray[np.integer], offsets: NDArray[np.int64], split: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Choose the instance of every (token, expert) pair of one source.

    Parameters
    ----------
    ids : ndarray of int, shape [tokens, k]
        Experts of each token, none twice.
    offsets : ndarray of int64, shape [experts + 1]
    split : ndarray of int64, shape [instances]
        Tokens of this source for each instance (a row of `Plan.split`).

    Returns
    -------
    ndarray of int32, shape [tokens, k]
        Instance (index into the plan) of each pair.

    Raises
    ------
    InputError
        An id out of range, an expert named twice by one token, or other counts than the split's.

    Examples
    --------
    >>> offsets, split = np.array([0, 2, 3]), np.array([3, 1, 2])
    >>> choose_topk(np.array([[0], [0], [1], [0], [0], [1]]), offsets, split).ravel().tolist()
    [1, 0, 2, 0, 0, 2]
    """
    ids = np.ascontiguousarray(ids)
    experts = len(offsets) - 1
    out = np.empty(ids.shape, np.int32)
    seen = np.zeros(experts, np.int64)
    row, column = _place_topk(ids, seen, out)
    if row >= 0:
        _refuse_pair(ids, row, column, experts)
    _same_counts(seen, offsets, split)
    _choose_topk(ids, offsets, split, seen, out)
    return out


def choose_dense(
    chosen: NDArray[np.bool_], offsets: NDArray[np.int64], split: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Choose the instance of every chosen (token, expert) cell of one source.

    Parameters
    ----------
    chosen : ndarray of bool, shape [tokens, experts]
    offsets : ndarray of int64, shape [experts + 1]
    split : ndarray of int64, shape [instances]

    Returns
    -------
    ndarray of int32, shape [tokens, experts]
        Instance, -1 where the token does not go to the expert. The same as `choose_topk` gives
        for the same pairs.
    """
    _same_counts(chosen.sum(axis=0, dtype=np.int64), offsets, split)
    out = np.full(chosen.shape, -1, np.int32)
    _choose_dense(np.ascontiguousarray(chosen), offsets, split, out)
    return out


def spread_dense(
    values: NDArray[np.generic], instance: NDArray[np.int32], table: Instances
) -> NDArray[np.generic]:
    """Move values of (token, expert) cells to the columns of their physical experts.

    Parameters
    ----------
    values : ndarray, shape [tokens, experts]
    instance : ndarray of int32, shape [tokens, experts]
        From `choose_dense`.
    table : Instances

    Returns
    -------
    ndarray, shape [tokens, physical experts]
        Zero wherever nothing was moved.
    """
    out = np.zeros((len(values), table.num_physical), values.dtype)
    token, expert = np.nonzero(instance >= 0)
    out[token, table.physical[instance[token, expert]]] = values[token, expert]
    return out


def gather_dense(
    grad: NDArray[np.generic], instance: NDArray[np.int32], table: Instances
) -> NDArray[np.generic]:
    """Gather the gradient of `spread_dense` back to the logical experts; a pure gather, no sum.

    Parameters
    ----------
    grad : ndarray, shape [tokens, physical experts]
    instance : ndarray of int32, shape [tokens, experts]
    table : Instances

    Returns
    -------
    ndarray, shape [tokens, experts]
    """
    column = table.physical[np.maximum(instance, 0)]
    found = np.take_along_axis(grad, column.astype(np.int64), axis=1)
    return np.asarray(np.where(instance >= 0, found, np.zeros((), grad.dtype)))


def count_topk(ids: NDArray[np.integer], num_experts: int) -> NDArray[np.int32]:
    """Count the tokens of each expert, int32 [experts], with the checks of `choose_topk`."""
    ids = np.ascontiguousarray(ids)
    seen = np.zeros(num_experts, np.int64)
    row, column = _place_topk(ids, seen, np.empty(ids.shape, np.int32))
    if row >= 0:
        _refuse_pair(ids, row, column, num_experts)
    return seen.astype(np.int32)


def _refuse_pair(ids: NDArray[np.integer], row: int, column: int, experts: int) -> None:
    value = int(ids[row, column])
    if 0 <= value < experts:
        raise InputError(
            "a token names an expert twice",
            place=f"topk_ids[{row}, {column}]",
            value=value,
            remedy="take the k best of distinct experts",
        )
    raise InputError(
        "expert id out of range",
        place=f"topk_ids[{row}, {column}]",
        value=value,
        remedy=f"give 0 to {experts - 1}",
    )


def _same_counts(
    seen: NDArray[np.int64], offsets: NDArray[np.int64], split: NDArray[np.int64]
) -> None:
    given = np.add.reduceat(split, offsets[:-1])
    wrong = np.flatnonzero(given != seen)
    if wrong.size:
        raise InputError(
            "the tokens are not those the placement was planned for",
            place=f"expert {wrong[0]}",
            value=int(seen[wrong[0]]),
            remedy=f"the plan expects {int(given[wrong[0]])}: call update_placement with these ids",
        )


@njit(cache=True)
def _place_topk(ids, seen, place):  # type: ignore[no-untyped-def]
    """Give each pair its place; return the first bad pair, or -1, -1."""
    tokens, k = ids.shape
    experts = seen.shape[0]
    for t in range(tokens):
        for j in range(k):
            e = ids[t, j]
            if e < 0 or e >= experts:
                return t, j
            for i in range(j):
                if ids[t, i] == e:
                    return t, j
            place[t, j] = seen[e]
            seen[e] += 1
    return -1, -1


@njit(cache=True)
def _instance_of(place, count, begin, end, split):  # type: ignore[no-untyped-def]
    """Apply the rule of the module to one token; all products stay below 2^62."""
    p, n = np.int64(place), np.int64(count)
    for i in range(begin, end):
        before = p * split[i] // n
        if (p + 1) * split[i] // n > before:
            return i
        p -= before
        n -= split[i]
    return -1


@njit(cache=True)
def _choose_topk(ids, offsets, split, seen, out):  # type: ignore[no-untyped-def]
    for t in range(ids.shape[0]):
        for j in range(ids.shape[1]):
            e = ids[t, j]
            out[t, j] = _instance_of(out[t, j], seen[e], offsets[e], offsets[e + 1], split)


@njit(cache=True)
def _choose_dense(chosen, offsets, split, out):  # type: ignore[no-untyped-def]
    for e in range(chosen.shape[1]):
        count = 0
        for t in range(chosen.shape[0]):
            count += chosen[t, e]
        place = 0
        for t in range(chosen.shape[0]):
            if chosen[t, e]:
                out[t, e] = _instance_of(place, count, offsets[e], offsets[e + 1], split)
                place += 1
