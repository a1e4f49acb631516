"""Kernels that draw the loads of one step: token by token, or from their expectation.

Randomness is counter based (SplitMix64, Steele et al., OOPSLA 2014): a stream starts at a hash of
what it is for, so that no draw depends on which others were made, and opening one costs nothing.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A, _MIX_B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_S11, _S32 = np.uint64(11), np.uint64(32)
_UNIT = 1.0 / (1 << 53)

#: Above it a token always takes the expert: float32 rounding must not let one be hit twice.
_ALWAYS = 1.0 - 1e-6

#: Below so many tokens an expert's total is drawn from a Poisson law, above from a normal one.
_FEW = 16.0


@njit(cache=True, inline="always")
def _mix(z):  # type: ignore[no-untyped-def]
    z = (z ^ (z >> _S30)) * _MIX_A
    z = (z ^ (z >> _S27)) * _MIX_B
    return z ^ (z >> _S31)


@njit(cache=True, inline="always")
def _keyed(key, a, b):  # type: ignore[no-untyped-def]
    """Hash of a key and two counters: where the stream of that place starts."""
    return _mix(_mix(key ^ (_GOLDEN * np.uint64(a + 1))) ^ (_GOLDEN * np.uint64(b + 1)))


@njit(cache=True, inline="always")
def _uniform(state):  # type: ignore[no-untyped-def]
    """Advance ``state`` [1]; return a float in [0, 1)."""
    state[0] += _GOLDEN
    return np.float64(_mix(state[0]) >> _S11) * _UNIT


@njit(cache=True, inline="always")
def _below(state, n):  # type: ignore[no-untyped-def]
    """Advance ``state`` [1]; return an integer in 0..n-1 (n < 2^32)."""
    state[0] += _GOLDEN
    return np.int64(((_mix(state[0]) >> _S32) * np.uint64(n)) >> _S32)


@njit(cache=True, inline="always")
def _archetype(key, request, layer, archetypes):  # type: ignore[no-untyped-def]
    hashed = _keyed(key, request, layer)
    return np.int64(((hashed >> _S32) * np.uint64(archetypes)) >> _S32)


@njit(cache=True)
def choose_archetypes(key, request, layers, archetypes):  # type: ignore[no-untyped-def]
    """Return which of ``archetypes`` a request strays to in every layer, [layers, requests]."""
    out = np.empty((layers.shape[0], request.shape[0]), np.int64)
    for i in range(layers.shape[0]):
        for s in range(request.shape[0]):
            out[i, s] = _archetype(key, request[s], layers[i], archetypes)
    return out


@njit(cache=True)
def draw_tokens(bank, layers, row, rank, count, key, step, top_k, out):  # type: ignore[no-untyped-def]
    """Let every token choose for itself; fill ``out`` [layers, ranks, experts], zeros before.

    Systematic sampling as in `ultraep_sim.trace.synth_draw`: experts lie end to end on a line in
    an order shuffled for every segment, each as long as its probability; a token draws one u in
    [0, 1) and takes the experts that u, u+1, u+2, ... hit. The tokens of a segment are sorted
    into the intervals between the ends modulo 1, and the counts follow by subtraction.

    ``bank`` float32 [layers, rows, experts] holds inclusion probabilities, ``row`` int64
    [layers, segments] the row of every segment; ``rank`` and ``count`` are int64 [segments].
    """
    experts = bank.shape[2]
    state = np.empty(1, np.uint64)
    line = np.empty(experts, np.int64)
    whole = np.empty(experts, np.int64)
    cut = np.empty(experts)
    guide = np.empty(4 * experts, np.int64)
    for i in range(bank.shape[0]):
        state[0] = _keyed(key, step, layers[i])
        for s in range(rank.shape[0]):
            if count[s] > 0:
                _draw_segment(
                    bank[i, row[i, s]], count[s], top_k, state, line, whole, cut, guide,
                    out[i, rank[s]],
                )  # fmt: skip


@njit(cache=True)
def _draw_segment(chance, tokens, top_k, state, line, whole, cut, guide, counts):  # type: ignore[no-untyped-def]
    """Add the choices of ``tokens`` tokens to ``counts`` [experts]."""
    size = 0
    wanted = top_k
    for e in range(chance.shape[0]):
        if chance[e] > _ALWAYS:
            counts[e] += tokens
            wanted -= 1
        else:
            line[size] = e
            size += 1
    if wanted == 0:
        return
    for j in range(size - 1, 0, -1):
        other = _below(state, j + 1)
        line[j], line[other] = line[other], line[j]
    total = 0.0
    for j in range(size):
        total += chance[line[j]]
    scale = wanted / total
    end = 0.0
    for j in range(size - 1):
        end += chance[line[j]] * scale
        # Rounding may carry an end past the last one, where no u + i can be.
        unit = min(math.floor(end), wanted - 1.0)
        whole[j] = np.int64(unit)
        cut[j] = end - unit
    whole[size - 1] = wanted
    cut[size - 1] = 0.0
    order = np.argsort(cut[:size])
    hits = _hits(cut, order, size, tokens, state, guide)
    # Pairs left of an end: one a token for every whole unit, and the tokens whose u lies left of
    # its fraction.
    left = np.empty(size, np.int64)
    below = 0
    for j in range(size):
        below += hits[j]
        left[order[j]] = whole[order[j]] * tokens + below
    before = 0
    for j in range(size):
        counts[line[j]] += left[j] - before
        before = left[j]


@njit(cache=True)
def _hits(cut, order, size, tokens, state, guide):  # type: ignore[no-untyped-def]
    """Draw the tokens' u; return how many have exactly j cuts at or below them, [size + 1].

    A guide table (Chen and Asau, 1974) finds the interval in constant time.
    """
    hits = np.zeros(size + 1, np.int64)
    cells = guide.shape[0]
    j = 0
    for g in range(cells):
        while j < size and cut[order[j]] * cells <= g:
            j += 1
        guide[g] = j
    sorted_cut = np.empty(size + 1)
    for j in range(size):
        sorted_cut[j] = cut[order[j]]
    sorted_cut[size] = 2.0
    for _ in range(tokens):
        u = _uniform(state)
        j = guide[np.int64(u * cells)]
        while sorted_cut[j] <= u:
            j += 1
        hits[j] += 1
    return hits


@njit(cache=True)
def draw_expected(bank, layers, row, rank, count, key, step, top_k, out):  # type: ignore[no-untyped-def]
    """Draw expert totals around their expectation and split them over sources; fill ``out``.

    Arguments as in `draw_tokens`. Both sums are exact: a rank's row sums to its tokens x top-k and
    an expert's column to the total that was drawn for it; no cell exceeds its rank's tokens.
    """
    experts, ranks = bank.shape[2], out.shape[1]
    state = np.empty(1, np.uint64)
    mean, spread = np.empty((ranks, experts)), np.empty((ranks, experts))
    all_mean, all_spread = np.empty(experts), np.empty(experts)
    total = np.empty(experts, np.int64)
    tokens = np.zeros(ranks, np.int64)
    for s in range(rank.shape[0]):
        tokens[rank[s]] += count[s]
    for i in range(bank.shape[0]):
        state[0] = _keyed(key, step, layers[i])
        mean[:] = 0.0
        spread[:] = 0.0
        for s in range(rank.shape[0]):
            r = rank[s]
            _expect(bank[i, row[i, s]], np.float64(count[s]), mean[r], spread[r])
        all_mean[:] = 0.0
        all_spread[:] = 0.0
        for r in range(ranks):
            for e in range(experts):
                all_mean[e] += mean[r, e]
                all_spread[e] += spread[r, e]
        _totals(all_mean, all_spread, tokens.sum(), top_k, state, total)
        for e in range(experts):
            all_mean[e] = total[e] - all_mean[e]
        _split(mean, spread, all_mean, all_spread, tokens, top_k, state, total, out[i])


@njit(cache=True)
def _expect(chance, tokens, mean, spread):  # type: ignore[no-untyped-def]
    for e in range(chance.shape[0]):
        part = tokens * chance[e]
        mean[e] += part
        spread[e] += part * (1.0 - chance[e])


@njit(cache=True)
def _totals(mean, spread, tokens, top_k, state, total):  # type: ignore[no-untyped-def]
    """Draw ``total`` [experts]: noise of variance ``spread`` around ``mean``, the sum given.

    Given its sum, a normal vector of variances w has variances w (1 - w / sum w): w is chosen so
    that these are ``spread``, to first order in the share that one expert has of all variance.
    """
    experts = mean.shape[0]
    noise = _unit_noise(mean, tokens, state)
    wide = np.empty(experts)
    all_spread = max(spread.sum(), 1e-300)
    for e in range(experts):
        wide[e] = spread[e] / (1.0 - min(spread[e] / all_spread, 0.5))
        noise[e] *= math.sqrt(wide[e])
    shift = noise.sum() / max(wide.sum(), 1e-300)
    low = np.zeros(experts, np.int64)
    high = np.full(experts, tokens, np.int64)
    for e in range(experts):
        noise[e] = min(max(mean[e] + noise[e] - shift * wide[e], 0.0), np.float64(tokens))
    _round(noise, low, high, tokens * top_k, state, total)


@njit(cache=True)
def _unit_noise(mean, tokens, state):  # type: ignore[no-untyped-def]
    """Draw noise of mean 0 and variance 1 for every expert.

    Normal (Box and Muller), but Poisson for experts that few tokens take, or few do not: cut at
    no token or all of them, normal noise would be biased.
    """
    experts = mean.shape[0]
    noise = np.empty(experts)
    for e in range(0, experts, 2):
        radius = math.sqrt(-2.0 * math.log(1.0 - _uniform(state)))
        angle = 2.0 * math.pi * _uniform(state)
        noise[e] = radius * math.cos(angle)
        if e + 1 < experts:
            noise[e + 1] = radius * math.sin(angle)
    for e in range(experts):
        gap = tokens - mean[e]
        if mean[e] < _FEW:
            noise[e] = _poisson(mean[e], state)
        elif gap < _FEW:
            noise[e] = -_poisson(gap, state)
    return noise


@njit(cache=True)
def _poisson(mean, state):  # type: ignore[no-untyped-def]
    """Draw a Poisson number by Knuth's product of uniforms; return it less mean, over sigma."""
    if mean <= 0.0:
        return 0.0
    least = math.exp(-mean)
    found = 0.0
    product = _uniform(state)
    while product > least:
        found += 1.0
        product *= _uniform(state)
    return (found - mean) / math.sqrt(mean)


@njit(cache=True)
def _split(mean, spread, off, spread_left, tokens, top_k, state, total, out):  # type: ignore[no-untyped-def]
    """Split ``total`` [experts] over sources, row by row.

    A source takes its expectation and, of what an expert's remaining total is ``off`` the
    expectation of the remaining sources, its share of their variance ``spread_left``; what its row
    is then off its own tokens is spread over experts by variance too. Bounds keep the rest
    possible: at most what is left and one pair a token; at least what the tokens of later sources
    could not take. They always admit the row: the share t / (t + later tokens) of what is left of
    every expert lies within them and sums to t x top-k. All vectors are used up.
    """
    experts = total.shape[0]
    want = np.empty(experts)
    low = np.empty(experts, np.int64)
    high = np.empty(experts, np.int64)
    later = tokens.sum()
    for r in range(tokens.shape[0]):
        mine = tokens[r]
        if mine == 0:
            continue
        later -= mine
        expected, wide, got = mean[r], spread[r], out[r]
        for e in range(experts):
            # What is left is found by subtraction: rounding may leave less than there is.
            share = min(wide[e] / max(spread_left[e], 1e-300), 1.0)
            want[e] = expected[e] + off[e] * share
        shift = (mine * top_k - _sum(want)) / max(_sum(wide), 1e-300)
        for e in range(experts):
            low[e] = max(total[e] - later, 0)
            high[e] = min(total[e], mine)
            wanted = want[e] + shift * wide[e]
            want[e] = min(max(wanted, np.float64(low[e])), np.float64(high[e]))
        _round(want, low, high, mine * top_k, state, got)
        for e in range(experts):
            total[e] -= got[e]
            off[e] -= got[e] - expected[e]
            spread_left[e] -= wide[e]


@njit(cache=True)
def _sum(values):  # type: ignore[no-untyped-def]
    """Sum a vector in four lanes: the order is fixed, and no lane waits for another."""
    a = b = c = d = 0.0
    whole = values.shape[0] // 4 * 4
    for e in range(0, whole, 4):
        a += values[e]
        b += values[e + 1]
        c += values[e + 2]
        d += values[e + 3]
    for e in range(whole, values.shape[0]):
        a += values[e]
    return (a + b) + (c + d)


@njit(cache=True)
def _round(want, low, high, target, state, out):  # type: ignore[no-untyped-def]
    """Round ``want`` to integers in low..high that sum to ``target``, without bias.

    One u rounds all running sums, so every entry becomes its floor or its ceiling. Where bounds
    cut the sum of ``want`` off the target, experts from a random one on take what they can.
    Possible whenever sum(low) <= target <= sum(high).
    """
    experts = want.shape[0]
    running = _uniform(state)
    before = np.int64(0)
    left = np.int64(target)
    for e in range(experts):
        running += want[e]
        now = np.int64(running)
        out[e] = min(max(now - before, low[e]), high[e])
        left -= out[e]
        before = now
    e = _below(state, experts)
    for _ in range(experts):
        if left == 0:
            return
        change = min(left, high[e] - out[e]) if left > 0 else max(left, low[e] - out[e])
        out[e] += change
        left -= change
        e = e + 1 if e + 1 < experts else 0
