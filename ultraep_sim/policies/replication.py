"""EPLB's rules: who gets one more replica, which pack takes it, and the two composed.

Source: DeepSeek's public EPLB algorithm, written from its description (DESIGN section 6).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from ..errors import PolicyError


def replicate(
    loads: NDArray[np.int64], extra: int, max_copies: int | None = None
) -> NDArray[np.int64]:
    """Give ``extra`` more instances, one by one, to the largest load per instance.

    Parameters
    ----------
    loads : ndarray of int64, shape [experts]
    extra : int
        Instances beyond one each.
    max_copies : int, optional
        No expert gets more instances than this; default no limit. What no expert may take
        is not given out.

    Returns
    -------
    ndarray of int64, shape [experts]
        Instances of each expert; ties go to the lower expert.

    Examples
    --------
    >>> import numpy as np
    >>> replicate(np.array([90, 132, 40, 61]), 2).tolist()
    [2, 2, 1, 1]
    """
    copies = np.ones(loads.shape[0], np.int64)
    _replicate(loads, extra, loads.shape[0] + extra if max_copies is None else max_copies, copies)
    return copies


def pack(weights: NDArray[np.float64], packs: int) -> NDArray[np.int64]:
    """Put items on packs of equal item count, heaviest first, each on the lightest with room.

    Parameters
    ----------
    weights : ndarray of float64, shape [items]
    packs : int
        Where it does not divide the items, some packs hold one fewer.

    Returns
    -------
    ndarray of int64, shape [items]
        The pack of each item; ties go to the lower item and the lower pack. With one item a pack
        there is nothing to balance and item ``i`` stays on pack ``i``, as published.
    """
    return pack_in_order(weights, packs)[0]


def pack_in_order(
    weights: NDArray[np.float64], packs: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pack as `pack` does; also return each item's place on its pack, int64 [items]."""
    if len(weights) <= packs:
        return np.arange(len(weights)), np.zeros(len(weights), np.int64)
    order = np.argsort(-weights, kind="stable")
    out = np.empty((2, len(weights)), np.int64)
    _pack(weights, order, packs, out[0], out[1])
    return out[0], out[1]


def rebalance(
    weights: ArrayLike, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
) -> NDArray[np.int64]:
    """Return EPLB's placement of whole layers: the expert at every physical place.

    Hierarchical: groups of experts are packed onto nodes, experts are replicated inside their
    node, physical experts are packed onto the node's GPUs. Global, the same with one group and
    one node, where ``num_nodes`` does not divide ``num_groups``.

    Parameters
    ----------
    weights : array_like, shape [experts] or [layers, experts]
        Expected load of each expert.
    num_replicas : int
        Physical experts in all.
    num_groups : int
        Groups of consecutive experts; a token's experts lie in few of them.
    num_nodes, num_gpus : int
        ``num_gpus`` counts all nodes.

    Returns
    -------
    ndarray of int64, shape [num_replicas] or [layers, num_replicas]
        Logical expert at each place, GPU by GPU.

    Raises
    ------
    PolicyError
        If a number does not divide the one it must.

    Examples
    --------
    >>> rebalance([90, 132, 40, 61], 6, 1, 1, 2).tolist()
    [1, 3, 2, 1, 0, 0]
    """
    table = np.atleast_2d(np.asarray(weights, np.float64))
    experts = table.shape[1]
    if num_nodes < 1 or num_groups % num_nodes:
        num_groups, num_nodes = 1, 1
    for name, whole, part in (
        ("num_groups", experts, num_groups),
        ("num_nodes", num_gpus, num_nodes),
        ("num_gpus", num_replicas, num_gpus),
    ):
        if part < 1 or whole % part:
            raise PolicyError(f"does not divide {whole}", place=name, value=part)
    if num_replicas < experts:
        raise PolicyError(
            f"fewer than the {experts} experts", place="num_replicas", value=num_replicas
        )
    out = np.array([_rebalance(w, num_replicas, num_groups, num_nodes, num_gpus) for w in table])
    return out[0] if np.ndim(weights) == 1 else out


def _rebalance(
    weights: NDArray[np.float64], num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
) -> NDArray[np.int64]:
    """Place one layer; int64 [num_replicas]."""
    members = np.arange(len(weights)).reshape(num_groups, -1)
    by_node = _in_pack_order(weights[members].sum(axis=1), num_nodes)
    nodes = members[by_node].reshape(num_nodes, -1)
    placed = []
    for experts in nodes:
        local = weights[experts]
        physical = _replicate_in_order(local, num_replicas // num_nodes)
        share = local / np.bincount(physical)
        order = _in_pack_order(share[physical], num_gpus // num_nodes)
        placed.append(experts[physical[order]])
    return np.concatenate(placed)


def _in_pack_order(weights: NDArray[np.float64], packs: int) -> NDArray[np.int64]:
    """Return the items pack by pack, each pack in the order it was filled."""
    pack_of, place = pack_in_order(weights, packs)
    return np.lexsort((place, pack_of))


@njit(cache=True)
def _replicate_in_order(loads, total):  # type: ignore[no-untyped-def]
    """Return the expert of each physical one: all once, then in the order they were added."""
    experts = loads.shape[0]
    copies = np.ones(experts, np.int64)
    out = np.empty(total, np.int64)
    for i in range(total):
        out[i] = i if i < experts else np.argmax(loads / copies)
        if i >= experts:
            copies[out[i]] += 1
    return out


@njit(cache=True)
def _replicate(loads, extra, max_copies, copies):  # type: ignore[no-untyped-def]
    for _ in range(extra):
        best = -1
        best_share = -1.0
        for e in range(loads.shape[0]):
            share = loads[e] / copies[e]
            if share > best_share and copies[e] < max_copies:
                best = e
                best_share = share
        if best < 0:
            return
        copies[best] += 1


@njit(cache=True)
def _pack(weights, order, packs, out, place):  # type: ignore[no-untyped-def]
    capacity = (weights.shape[0] + packs - 1) // packs
    load = np.zeros(packs, np.float64)
    count = np.zeros(packs, np.int64)
    for i in order:
        best = -1
        for p in range(packs):
            if count[p] < capacity and (best < 0 or load[p] < load[best]):
                best = p
        out[i] = best
        place[i] = count[best]
        load[best] += weights[i]
        count[best] += 1
