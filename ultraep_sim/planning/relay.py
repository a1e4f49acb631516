"""Two-stage relay: some replicas of a hot expert forward it, so its home sends less.

Source: UltraEP, arXiv 2606.04101 (relay-based fan-out mitigation), from its description: about
sqrt(n) of the n replica ranks, eight at most, those with the least send volume; from four
replicas on; only if the busiest sender is relieved by at least two copies; never in domains of
eight GPUs or fewer.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

MIN_FANOUT = 4
MAX_RELAYS = 8
MIN_GAIN = 2
SMALL_DOMAIN = 8


def relay_tree(
    offsets: NDArray[np.int64], rank: NDArray[np.int32], num_ranks: int, domain_size: int
) -> tuple[NDArray[np.int32], bool]:
    """Say from which rank each instance receives its weights.

    Parameters
    ----------
    offsets : ndarray of int64, shape [experts + 1]
        Instances of each expert; the first is the main.
    rank : ndarray of int32, shape [instances]
        Host of each instance.
    num_ranks, domain_size : int

    Returns
    -------
    parent : ndarray of int32, shape [instances]
        Sending rank of each replica; the host itself for a main.
    relayed : bool
        False if the rule found no gain, and every replica comes straight from its home.
    """
    parent = np.empty(rank.shape[0], np.int32)
    direct = np.zeros(num_ranks, np.int64)
    sent = np.zeros(num_ranks, np.int64)
    relayed = fill_relay(offsets, rank, domain_size, parent, direct, sent)
    return parent, bool(relayed)


@njit(cache=True)
def fill_relay(offsets, rank, domain_size, parent, direct, sent):  # type: ignore[no-untyped-def]
    """Fill parents and the copies each rank sends, directly (``direct``) and relayed (``sent``)."""
    direct[:] = 0
    experts = offsets.shape[0] - 1
    widest = 0
    for e in range(experts):
        home = rank[offsets[e]]
        fanout = offsets[e + 1] - offsets[e] - 1
        direct[home] += fanout
        widest = max(widest, fanout)
        for i in range(offsets[e], offsets[e + 1]):
            parent[i] = home
    sent[:] = direct
    if widest < MIN_FANOUT or domain_size <= SMALL_DOMAIN:
        return False
    for fanout in range(widest, MIN_FANOUT - 1, -1):  # widest first, then the lower expert
        for e in range(experts):
            if offsets[e + 1] - offsets[e] - 1 == fanout:
                _relay_one(offsets[e] + 1, offsets[e + 1], rank, parent, sent)
    if direct.max() - sent.max() >= MIN_GAIN:
        return True
    sent[:] = direct
    for e in range(experts):
        for i in range(offsets[e], offsets[e + 1]):
            parent[i] = rank[offsets[e]]
    return False


@njit(cache=True)
def fill_candidate(offsets, rank, parent, sent, min_fanout=MIN_FANOUT):  # type: ignore[no-untyped-def]
    """Relay every expert from ``min_fanout`` replicas on, whatever it gains; say if there is any.

    Fills the parents and the copies each rank sends.
    """
    sent[:] = 0
    experts = offsets.shape[0] - 1
    widest = 0
    for e in range(experts):
        home, fanout = rank[offsets[e]], offsets[e + 1] - offsets[e] - 1
        sent[home] += fanout
        widest = max(widest, fanout)
        for i in range(offsets[e], offsets[e + 1]):
            parent[i] = home
    for fanout in range(widest, min_fanout - 1, -1):  # the order of the rule
        for e in range(experts):
            if offsets[e + 1] - offsets[e] - 1 == fanout:
                _relay_one(offsets[e] + 1, offsets[e + 1], rank, parent, sent)
    return widest >= min_fanout


@njit(cache=True)
def _relay_one(begin, end, rank, parent, sent):  # type: ignore[no-untyped-def]
    """Choose the relays of one expert's replicas and deal the others out among them."""
    fanout = end - begin
    home = parent[begin]
    relays = int(np.sqrt(fanout) + 0.5)
    relays = min(relays, MAX_RELAYS)
    sent[home] -= fanout - relays
    chosen = np.full(relays, -1, np.int64)
    for k in range(relays):
        best = -1
        for i in range(begin, end):
            taken = False
            for j in range(k):
                taken |= chosen[j] == i
            if not taken and (best < 0 or sent[rank[i]] < sent[rank[best]]):
                best = i
        chosen[k] = best
    k = 0
    for i in range(begin, end):
        is_relay = False
        for j in range(relays):
            is_relay |= chosen[j] == i
        if not is_relay:
            parent[i] = rank[chosen[k]]
            sent[rank[chosen[k]]] += 1
            k = (k + 1) % relays
