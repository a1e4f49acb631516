"""Tokens that are sent once to a rank though they visit several of its experts.

Counts give (token, expert) pairs. A library that de-duplicates sends a token once to every rank it
visits, so what travels are distinct (token, rank) visits. With the top-k ids of every token they
are counted exactly. From counts alone they are estimated for each source and host. With
``p_i = pairs / tokens`` the chance that a token of the source takes instance ``i`` of the host,

    visits = tokens x (1 - prod_i (1 - p_i) x prod_{i<j} (1 - p_i p_j / d)),
    d = sum over all experts of p (1 - p).

The first product takes a token's choices as independent; the second corrects for the fixed number
of different experts a token takes, to the first order of conditional Poisson sampling (J. Hajek,
Ann. Math. Stat. 35, 1964). The result is kept between the bounds that hold for any tokens: at least
the pairs of the largest instance and all pairs over top-k, at most all pairs and all tokens. That
experts like to come together, or not, is not in the counts: the estimate keeps that error, and the
tests state it on recorded tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..errors import InputError
from ..planning.plan import Plan
from .pairs import require_sources


def distinct_visits(plan: Plan, top_k: int) -> NDArray[np.float64]:
    """Estimate distinct (token, rank) visits from the counts of a plan.

    Parameters
    ----------
    plan : Plan
        Its loads must have one row a rank.
    top_k : int
        Experts of a token: a source has ``loads / top_k`` tokens.

    Returns
    -------
    ndarray of float64, shape [ranks, ranks]
        Row: source. Shares of an expert with several instances are
        taken in proportion after locality, not rounded to tokens.

    Raises
    ------
    InputError
        ``top_k`` is no count, or the source of the loads is unknown.
    """
    require_sources(plan)
    _check_top_k(top_k)
    ranks = plan.layout.num_ranks
    visits = np.empty((ranks, ranks))
    _estimate(plan.loads, plan.offsets, plan.rank, plan.quota, plan.locality, float(top_k), visits)
    return visits


def dedup_factors(plan: Plan, top_k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Say what part of the pairs that cross ranks is left after de-duplication.

    Parameters
    ----------
    plan : Plan
    top_k : int

    Returns
    -------
    sent, received : ndarray of float64, shape [ranks]
        Estimated distinct visits over pairs at dispatch, in 0..1; 1 where there are none.
    """
    require_sources(plan)
    _check_top_k(top_k)
    ranks = plan.layout.num_ranks
    visits, sent, received = np.empty((ranks, ranks)), np.empty(ranks), np.empty(ranks)
    _factors(
        plan.loads, plan.offsets, plan.rank, plan.quota, plan.locality, float(top_k),
        visits, sent, received,
    )  # fmt: skip
    return sent, received


def count_visits(
    plan: Plan, topk: NDArray[np.integer[Any]], source: NDArray[np.integer[Any]]
) -> NDArray[np.int64]:
    """Count distinct (token, rank) visits exactly, from the experts of every token.

    Tokens of a source fill the split of the plan in order: the first that want an expert go to
    its first instance, as many as the split says.

    Parameters
    ----------
    plan : Plan
        For the loads of these tokens.
    topk : integer ndarray, shape [tokens, top_k]
        Different experts of each token.
    source : integer ndarray, shape [tokens]
        Rank that holds it.

    Returns
    -------
    ndarray of int64, shape [ranks, ranks]
        Row: source.

    Raises
    ------
    InputError
        The tokens do not have the loads of the plan.
    """
    require_sources(plan)
    loads = np.zeros_like(plan.loads)
    np.add.at(loads, (np.asarray(source)[:, None], topk), 1)
    if not np.array_equal(loads, plan.loads):
        raise InputError(
            "the tokens do not have the loads of the plan",
            place="topk",
            value=f"{int(loads.sum())} pairs, the plan {int(plan.loads.sum())}",
            remedy="plan on the counts of these tokens",
        )
    ranks = plan.layout.num_ranks
    out = np.zeros((ranks, ranks), np.int64)
    _count(
        np.asarray(topk, np.int64), np.asarray(source, np.int64), plan.split.copy(),
        plan.offsets, plan.rank, out,
    )  # fmt: skip
    return out


def _check_top_k(top_k: int) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 1:
        raise InputError(
            "not a positive integer", place="top_k", value=top_k, remedy="give 1 or more"
        )


@njit(cache=True)
def _estimate(loads, offsets, rank, quota, locality, top_k, visits):  # type: ignore[no-untyped-def]
    """Fill ``visits`` [ranks, ranks]; it holds the chance of not visiting on the way."""
    ranks, experts = loads.shape
    visits[:] = 1.0
    mass = np.zeros((ranks, ranks, 2))  # sum and maximum of p over the host's instances so far
    tokens, per_token, per_d = np.zeros(ranks), np.zeros(ranks), np.zeros(ranks)
    for s in range(ranks):
        pairs, squares = 0.0, 0.0
        for e in range(experts):
            pairs += loads[s, e]
            squares += float(loads[s, e]) * loads[s, e]
        if pairs > 0:
            tokens[s] = pairs / top_k
            per_token[s] = top_k / pairs
            d = top_k - squares * per_token[s] ** 2
            per_d[s] = 1.0 / d if d > 1e-9 else 0.0
    own = np.zeros(ranks)
    for e in range(experts):
        begin, end = offsets[e], offsets[e + 1]
        if end - begin == 1:
            r = rank[begin]
            for s in range(ranks):
                _miss(visits, mass, s, r, loads[s, e] * per_token[s], per_d[s])
            continue
        total, room = 0.0, 0.0
        for s in range(ranks):
            own[s] = 0.0
            total += loads[s, e]
        for i in range(begin, end):
            room += quota[i]
            if locality:  # what the instance on the source's own rank takes first
                r = rank[i]
                local = min(loads[r, e] - own[r], float(quota[i]))
                own[r] += local
                _miss(visits, mass, r, r, local * per_token[r], per_d[r])
                total -= local
                room -= local
        if total <= 0:
            continue
        for i in range(begin, end):
            left = float(quota[i])
            if locality:
                left -= min(float(loads[rank[i], e]), left)
            share = left / room
            if share <= 0:
                continue
            r = rank[i]
            for s in range(ranks):
                _miss(visits, mass, s, r, (loads[s, e] - own[s]) * share * per_token[s], per_d[s])
    for s in range(ranks):
        for r in range(ranks):
            chance, most = mass[s, r, 0], mass[s, r, 1]
            visited = min(max(1.0 - visits[s, r], most, chance / top_k), chance, 1.0)
            visits[s, r] = tokens[s] * visited


@njit(cache=True)
def _miss(visits, mass, s, r, chance, per_d):  # type: ignore[no-untyped-def]  # numba kernel
    """Multiply by the chance of missing one more instance, given that all before were missed."""
    missed = (1.0 - chance) * (1.0 - mass[s, r, 0] * chance * per_d)
    visits[s, r] *= max(0.0, missed)
    mass[s, r, 0] += chance
    mass[s, r, 1] = max(mass[s, r, 1], chance)


@njit(cache=True)
def _factors(  # type: ignore[no-untyped-def]  # numba kernel: shapes in dedup_factors
    loads, offsets, rank, quota, locality, top_k, visits, sent, received
):
    _estimate(loads, offsets, rank, quota, locality, top_k, visits)
    ranks, experts = loads.shape
    pairs_sent, pairs_received = np.zeros(ranks), np.zeros(ranks)
    for s in range(ranks):
        for e in range(experts):
            pairs_sent[s] += loads[s, e]
    for i in range(rank.shape[0]):
        pairs_received[rank[i]] += quota[i]
    for e in range(experts):
        for i in range(offsets[e], offsets[e + 1]):
            r = rank[i]
            if locality or offsets[e + 1] - offsets[e] == 1:
                own = float(loads[r, e])
                for j in range(offsets[e], i):
                    if rank[j] == r:
                        own -= min(own, float(quota[j]))
                own = min(own, float(quota[i]))
            else:
                total = 0.0
                for j in range(offsets[e], offsets[e + 1]):
                    total += quota[j]
                own = loads[r, e] * quota[i] / total if total > 0 else 0.0
            pairs_sent[r] -= own
            pairs_received[r] -= own
    for r in range(ranks):
        out, into = 0.0, 0.0
        for s in range(ranks):
            if s != r:
                out += visits[r, s]
                into += visits[s, r]
        sent[r] = out / pairs_sent[r] if pairs_sent[r] > 0.5 else 1.0
        received[r] = into / pairs_received[r] if pairs_received[r] > 0.5 else 1.0


@njit(cache=True)
def _count(topk, source, left, offsets, rank, out):  # type: ignore[no-untyped-def]  # numba kernel
    seen = np.full(out.shape[0], -1, np.int64)
    for t in range(topk.shape[0]):
        s = source[t]
        for k in range(topk.shape[1]):
            i = offsets[topk[t, k]]
            while left[s, i] == 0:
                i += 1
            left[s, i] -= 1
            if seen[rank[i]] != t:
                seen[rank[i]] = t
                out[s, rank[i]] += 1
