"""Checks of counts that are not the router's: padding, dummy ranks, replicated counting."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from .findings import WARNS, Finding, some
from .survey import Survey

_MIN_ENTRIES = 32  # so many counts share a divisor by chance once in 2^32
_MIN_RECORDS = 8
_MIN_LAYERS_SHARE = 0.8


def check_sharing(seen: Survey) -> list[Finding]:
    """Look for padding, dummy ranks and replicated counting."""
    return [*_multiples(seen), *_same_rows(seen), *_dummy_rows(seen), *_padding(seen)]


def _multiples(seen: Survey) -> list[Finding]:
    if seen.common < 2 or seen.entries < _MIN_ENTRIES:
        return []
    return [
        Finding(
            "replicated-counting",
            f"every count is a multiple of {seen.common}",
            "sure",
            f"{seen.common} ranks counted the same tokens (tensor parallelism)",
            WARNS,
            ("divide-replicas",),
            {"factor": seen.common},
        )
    ]


def _same_rows(seen: Survey) -> list[Finding]:
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for source, crc in enumerate(seen.row_crc):
        if seen.row_total[source]:
            groups[crc, int(seen.row_total[source])].append(source)
    same = [group for group in groups.values() if len(group) > 1]
    if len(seen.row_crc) < 2 or not same:
        return []
    return [
        Finding(
            "replicated-ranks",
            f"source ranks hold the same rows in every record: {some(same, 3)}",
            "sure",
            "ranks of one tensor-parallel group counted the same tokens: keep one of each",
            WARNS,
            ("drop-replica-ranks",),
            {"drop": sorted(source for group in same for source in group[1:])},
        )
    ]


def _dummy_rows(seen: Survey) -> list[Finding]:
    """Rows whose tokens all went to the same experts, in every layer of a micro-batch."""
    batches: dict[tuple[int, int], int] = defaultdict(int)
    for step, micro_batch, _ in np.unique(seen.keys, axis=0).tolist():
        batches[step, micro_batch] += 1
    rows = {key for key, layers in seen.idle.items() if layers >= batches[key[:2]]}
    if not rows or len(seen.layers) < 2:
        return []
    sources = sorted({key[2] for key in rows})
    return [
        Finding(
            "dummy-rows",
            f"{len(rows)} rows send all their tokens to the same {seen.meta.top_k} experts in "
            f"every layer, on ranks {some(sources)}",
            "sure",
            "idle ranks run dummy batches: they are no load of users",
            WARNS,
            ("drop-dummy-rows",),
            {"rows": rows},
        )
    ]


def _padding(seen: Survey) -> list[Finding]:
    """Find top-k experts a layer that never fall below one count, the same in every layer.

    Padding tokens are alike, so all choose the same k experts of a layer. Where real counts come
    down to little now and then, the smallest counts of these k stand out and are nearly equal, and
    the number of padding tokens is the same in all layers. Padding that is small against the real
    counts of every record cannot be told from a popular expert.
    """
    top_k = seen.meta.top_k
    if top_k is None or not seen.layers:
        return []
    excess, chosen = [], {}
    judged = 0
    for at, layer in sorted(seen.layers.items()):
        if layer.records < _MIN_RECORDS or len(layer.floor) <= top_k:
            continue
        judged += 1
        order = np.argsort(-layer.floor, kind="stable")
        top, following = layer.floor[order[:top_k]], int(layer.floor[order[top_k]])
        low, spread = int(top[-1]), int(top[0] - top[-1])
        # Experts that every token takes are a collapsed router, not padding.
        all_tokens = low * top_k * layer.records >= int(layer.total.sum())
        stands_out = low - following >= max(8, 3 * spread, 0.5 * low)
        if stands_out and not all_tokens:
            excess.append(low)
            chosen[at] = sorted(order[:top_k].tolist())
    if not excess or len(excess) < _MIN_LAYERS_SHARE * judged:
        return []
    low, middle = min(excess), float(np.median(excess))
    if max(excess) - low > max(4.0, 0.1 * middle) or (judged == 1 and top_k == 1):
        return []
    first = next(iter(chosen))
    return [
        Finding(
            "padding",
            f"in {len(excess)} of {judged} layers the same {top_k} experts (layer {first}: "
            f"{chosen[first]}) never have less than {low} pairs while the others do",
            "likely" if judged > 1 else "possible",
            f"about {low} padding tokens a micro-batch are counted",
            WARNS,
            ("subtract-padding",),
            {"tokens": low, "experts": chosen},
        )
    ]
