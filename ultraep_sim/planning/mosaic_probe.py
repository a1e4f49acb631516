"""One probe of the mosaic planner: bring every rank to its capacity at one threshold.

Kernels over a record's workspace; `mosaic_solver` says which thresholds are probed and owns the
workspace. Inside one domain a probe makes a pass of `mosaic.fit`, then shuffled ones, then tries
`chain`, then the published greedy; with crossing it covers what is left from other domains.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .chain import chain
from .mosaic import collect, fit, shuffle
from .quota import DYNAMIC_FLOOR, NO_FLOOR, greedy_oracle, order_by_load

SPEED_ONE = 1 << 16
"""What a speed of 1.0 is in the integers that kernels take."""

_MAX_LOAD = (1 << 31) - 1
_MAX_TAU = 1 << 42  # times the largest speed, 16, this still fits int64


@njit(cache=True)
def capacity(tau, speed):  # type: ignore[no-untyped-def]
    """Return what a rank of this speed may carry at ``tau``; no rank can carry 2^31 tokens."""
    return min(min(tau, _MAX_TAU) * speed >> 16, _MAX_LOAD)


@njit(cache=True)
def allocate(ranks, experts, slots):  # type: ignore[no-untyped-def]
    """Allocate all that solving one record needs, in few arrays: each costs a call its share."""
    width = max(ranks, experts, ranks * slots)
    held = np.empty((ranks, max(slots, 1)), np.int64)
    return np.zeros((13, width), np.int64), np.zeros((6, width), np.int32), held


@njit(cache=True)
def views(problem, memory):  # type: ignore[no-untyped-def]
    """Name the parts of the memory."""
    wide, narrow, held = memory
    experts, ranks = problem[0].shape[0], problem[2].shape[0]
    # rank loads, capacities, excesses, free slots, sinks, sources, shifted or held loads, slack,
    # stamps of the greedy oracle
    rows = wide[:9, :ranks]
    per_rank = (rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7], rows[8])
    orders = (narrow[0, :ranks], narrow[1, :experts])
    out = (narrow[2], narrow[3], wide[10])
    trial = (narrow[4], narrow[5], wide[11])
    return per_rank, wide[9], orders, out, trial, wide[12, :experts], held


@njit(cache=True)
def probe(loads, tau, starts, problem, numbers, work):  # type: ignore[no-untyped-def]
    """Bring every rank to its capacity at ``tau``; return the number of transfers, or -1.

    With ``starts`` below zero the first success will do: the plan is not kept.
    """
    speeds, domain = problem[2], problem[3]
    rank_load, cap = work[0][0], work[0][1]
    ranks = rank_load.shape[0]
    for r in range(ranks):
        cap[r] = capacity(tau, speeds[r])
    if numbers[2] and domain < ranks:
        count = _cross(loads, problem, work)
        if count >= 0:
            return count  # else one domain by one may still do, by a chain or the greedy
    count = 0
    for begin in range(0, ranks, domain):
        end = min(begin + domain, ranks)
        covered = _best_of(loads, begin, end, starts, numbers[1], problem, work, count)
        if covered < 0:
            covered = _chained(loads, begin, end, abs(starts), problem, work, count)
        if covered < 0:
            return _greedy(loads, tau, problem, work)
        count = covered
    return count


@njit(cache=True)
def _best_of(loads, begin, end, starts, tile, problem, work, count):  # type: ignore[no-untyped-def]
    """Cover one domain in several orders, plain and in whole tiles; append the best to ``out``."""
    out, trial = work[3], work[4]
    best = -1
    most_sent = 0
    widest = 0
    in_tiles = False
    state = 1
    for k in range(abs(starts) + 1):
        for step in (1, tile):
            n, state = _pass(loads, begin, end, k > 0, state, step, problem, work)
            if n < 0:
                continue
            sent, fanout = _spread(trial, n, problem[5])
            better = best < 0 or n < best or (n == best and step > 1 and not in_tiles)
            if best >= 0 and (sent > most_sent or fanout > widest):
                better = False
            if better:
                if best < 0:
                    most_sent, widest = sent, fanout
                best = n
                in_tiles = step > 1
                for i in range(n):
                    out[0][count + i] = trial[0][i]
                    out[1][count + i] = trial[1][i]
                    out[2][count + i] = trial[2][i]
            if tile == 1:
                break  # there is only one kind of pass
        if best >= 0 and starts < 0:
            break
    return count + best if best >= 0 else -1


@njit(cache=True)
def _pass(loads, begin, end, shuffled, state, tile, problem, work):  # type: ignore[no-untyped-def]
    """Make one pass over a domain into the trial buffer; return its transfers or -1, and state."""
    start, slots = problem[1], problem[4]
    rank_load, cap, excess, free, sinks, sources = work[0][:6]
    n, m = collect(rank_load, cap, begin, end, slots, tile, sinks, sources)
    if shuffled:
        state = shuffle(sources, m, rank_load, cap, state)
    for r in range(begin, end):
        excess[r] = max(rank_load[r] - cap[r], 0)
        free[r] = slots
    _, count, left = fit(
        loads, start, work[2][1], tile, sources, m, excess, sinks, n, free, work[4], 0
    )
    return (count if left == 0 else -1), state


@njit(cache=True)
def _spread(trial, count, home):  # type: ignore[no-untyped-def]
    """Return the most transfers of one home rank and of one expert; both come in runs."""
    most_sent = 0
    widest = 0
    sent = 0
    fanout = 0
    for i in range(count):
        expert = trial[0][i]
        same_expert = i > 0 and trial[0][i - 1] == expert
        same_home = i > 0 and home[trial[0][i - 1]] == home[expert]
        fanout = fanout + 1 if same_expert else 1
        sent = sent + 1 if same_home else 1
        most_sent = max(most_sent, sent)
        widest = max(widest, fanout)
    return most_sent, widest


@njit(cache=True)
def _chained(loads, begin, end, starts, problem, work, count):  # type: ignore[no-untyped-def]
    """Cover one domain by `chain`, with a few seeds; append to ``out``."""
    by_home, start, slots = problem[0], problem[1], problem[4]
    rank_load, cap, _, free, _, _, load, _, _ = work[0]
    for seed in range(starts + 1):
        n = chain(
            loads, start, by_home, begin, end, slots, rank_load, cap, seed * 7919,
            work[6], work[5], free, load, work[3], count,
        )  # fmt: skip
        if n >= 0:
            return n
    return -1


@njit(cache=True)
def _greedy(loads, tau, problem, work):  # type: ignore[no-untyped-def]
    """Ask the published oracle, with loads shifted so that every capacity is ``tau``."""
    by_home, start, _, domain, slots, _ = problem
    rank_load, cap, _, free, _, _, shifted, slack, stamp = work[0]
    for r in range(shifted.shape[0]):
        shifted[r] = rank_load[r] - cap[r] + tau
    stamp[:] = 0
    rank_order, expert_order = work[2]
    hot = order_by_load(loads, by_home, start, shifted, tau, work[1], rank_order, expert_order)
    state = (shifted, slack, free, stamp, rank_order, expert_order)
    for mode in (DYNAMIC_FLOOR, NO_FLOOR):
        n = greedy_oracle(tau, mode, 0, (loads, start, domain, slots, hot), state, work[3])
        if n >= 0:
            return n
    return -1


@njit(cache=True)
def _cross(loads, problem, work):  # type: ignore[no-untyped-def]
    """Cover every domain as far as it goes, then what is left from the sinks of all others."""
    _, start, _, domain, slots, _ = problem
    rank_load, cap, excess, free, sinks, sources, held, _, _ = work[0]
    out, left_on_main = work[3], work[5]
    ranks = rank_load.shape[0]
    for r in range(ranks):
        excess[r] = max(rank_load[r] - cap[r], 0)
        free[r] = slots
        held[r] = rank_load[r]
    left_on_main[:] = loads
    count = 0
    for crossing in (False, True):
        left = 0
        for begin in range(0, ranks, domain):
            end = min(begin + domain, ranks)
            n, m = _members(begin, end, crossing, held, cap, excess, free, sinks, sources)
            before = count
            _, count, missing = fit(
                left_on_main, start, work[2][1], 1, sources, m, excess, sinks, n, free, out, count
            )
            left += missing
            for i in range(before, count):
                held[out[1][i]] += out[2][i]
                left_on_main[out[0][i]] -= out[2][i]
        if left == 0:
            return count
    return -1


@njit(cache=True)
def _members(begin, end, crossing, held, cap, excess, free, sinks, sources):  # type: ignore[no-untyped-def]
    """List what a domain still has to shed, and the sinks inside it, or all those outside."""
    n = 0
    m = 0
    for r in range(held.shape[0]):
        inside = begin <= r < end
        if inside and excess[r] > 0:
            sources[m] = (-excess[r] << 16) | r
            m += 1
        elif inside != crossing and held[r] < cap[r] and free[r] > 0:
            sinks[n] = ((cap[r] - held[r]) << 16) | r
            n += 1
    sinks[:n].sort()
    sources[:m].sort()
    return n, m
