"""Checks of sums: layers that disagree, a top-k that does not divide, counts that cannot be."""

from __future__ import annotations

import numpy as np

from .findings import STOPS, TELLS, WARNS, Finding, some
from .survey import Survey

_STEADY = 1e-3  # relative spread of a ratio that counts as constant


def check_sums(seen: Survey) -> list[Finding]:
    """Look at the sums of layers and rows."""
    found = [*_impossible(seen), *_dead_layers(seen), *_uneven(seen)]
    if not any(f.name in ("top-k-not-constant", "unequal-sums") for f in found):
        found += _not_divisible(seen)
    return found


def _impossible(seen: Survey) -> list[Finding]:
    found = []
    if seen.negative:
        found.append(
            Finding(
                "negative-counts",
                f"{seen.negative} counts below 0",
                "sure",
                "a counter overflowed or the file is damaged; dump it again",
                STOPS,
            )
        )
    elif seen.crowded_rows and not seen.odd_rows:  # sums that k does not divide tell as much
        found.append(
            Finding(
                "impossible-counts",
                f"{seen.crowded_rows} rows in which an expert has more pairs than the row has "
                f"tokens at top-{seen.meta.top_k}",
                "sure",
                "correct --top-k, or give the physical-to-logical map",
                STOPS,
            )
        )
    return found


def _dead_layers(seen: Survey) -> list[Finding]:
    sampled = seen.meta.sampling.get("layers")
    due = range(seen.meta.num_layers) if sampled is None else sorted(sampled)
    alive = {at for at, layer in seen.layers.items() if layer.records}
    dead = [layer for layer in due if layer not in alive]
    if not dead or not alive:
        return []
    return [
        Finding(
            "dead-layers",
            f"{len(dead)} of {len(due)} layers never see a token: {some(dead)}",
            "sure",
            "dense layers are counted too (give --model), or the recorder missed them",
            STOPS,
            ("drop-dead-layers",),
            {"dead": dead, "alive": sorted(alive)},
        )
    ]


def _uneven(seen: Survey) -> list[Finding]:
    """Tell layers with another top-k (a constant ratio) from tokens that went missing."""
    held = seen.totals > 0
    keys, totals = seen.keys[held], seen.totals[held]
    if not len(keys):
        return []
    batches, which = np.unique(keys[:, :2], axis=0, return_inverse=True)
    which = which.reshape(-1)
    most = np.zeros(len(batches), np.int64)
    np.maximum.at(most, which, totals)
    ratio = totals / most[which]
    differ = np.unique(which[ratio < 1])
    bad = {tuple(batch) for batch in batches[differ].tolist()} | seen.rows_differ
    if not bad:
        return []
    low: list[tuple[int, float]] = []
    steady = len(differ) > 1 and len(differ) == len(batches)
    for layer in np.unique(keys[:, 2]).tolist():
        mine = ratio[keys[:, 2] == layer]
        steady &= bool(np.ptp(mine) <= _STEADY)
        if mine.mean() < 1 - _STEADY:
            low.append((layer, float(mine.mean())))
    if steady and low:
        shares = [f"layer {layer} at {share:.3f}" for layer, share in low]
        return [
            Finding(
                "top-k-not-constant",
                f"{len(low)} layers always sum to the same smaller share: {some(shares)}",
                "sure",
                "keep layers of one top-k with trace cut --layers",
                STOPS,
            )
        ]
    worst = float(ratio.min())
    return [
        Finding(
            "unequal-sums",
            f"layers disagree on the tokens of {len(bad)} of {len(batches)} micro-batches, the "
            f"lowest sum is {worst:.4f} of the highest",
            "sure",
            "pairs were dropped (a capacity limit) before counting: record before the drop",
            STOPS,
            ("drop-uneven",),
            {"batches": bad},
        )
    ]


def _not_divisible(seen: Survey) -> list[Finding]:
    if not seen.odd_rows:
        return []
    common = int(np.gcd.reduce(np.array(list(seen.tokens), dtype=np.int64)))
    return [
        Finding(
            "not-divisible",
            f"{seen.odd_rows} rows do not sum to a multiple of top-{seen.meta.top_k}; all sums "
            f"are multiples of {common}",
            "sure",
            "correct --top-k, or the dump mixes passes; pairs may have been dropped",
            STOPS,
        )
    ]


def check_told(seen: Survey) -> list[Finding]:
    """Turn what the reader met into findings."""
    cases = {
        "logical and physical sums differ": (
            "logical-physical",
            "records whose physical counts do not sum to their logical counts",
            "the balancer dropped or doubled tokens; the logical counts are used",
            WARNS,
        ),
        "masked tokens": (
            "masked-tokens",
            "(token, layer) pairs with all experts masked are not counted",
            "padding that the dump marks; nothing is lost",
            TELLS,
        ),
        "partly masked tokens": (
            "partly-masked-tokens",
            "(token, layer) pairs with some experts masked",
            "top-k is not constant; record before experts are masked",
            WARNS,
        ),
        "repeated experts": (
            "repeated-experts",
            "(token, layer) pairs name an expert twice",
            "a token takes an expert once: --top-k or --layers may be wrong",
            WARNS,
        ),
        "source rows missing": (
            "missing-rank-rows",
            "rows that a rank did not record stand as zeros",
            "the rank was idle, or its file lacks records",
            WARNS,
        ),
        "tokens left over": (
            "tokens-left-over",
            "tokens did not fill a step and are left out",
            "choose --tokens-per-step to divide the tokens",
            TELLS,
        ),
    }
    return [
        Finding(name, f"{seen.observed[key]} {what}", "sure", remedy, level)
        for key, (name, what, remedy, level) in cases.items()
        if seen.observed[key]
    ]
