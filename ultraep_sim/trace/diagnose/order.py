"""Checks of time: order, rings, zero rows, gaps, missing records, mixed phases."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from .findings import STOPS, WARNS, Finding, some
from .survey import Survey

_MIXED_RATIO = 8.0  # a prefill batch holds far more tokens than a decode batch
_MIXED_GAP = 2.0
_MIXED_SHARE = 0.05
_REGULAR = 0.5


def check_order(seen: Survey) -> list[Finding]:
    """Look at the order of records and at rows without tokens."""
    keys = seen.keys
    if not len(keys):
        return [Finding("empty", "no record at all", "sure", "dump while the model runs", STOPS)]
    found = _zero_rows(seen)
    order = np.lexsort(keys.T[::-1])
    ranked = keys[order]
    twice = int((np.diff(ranked, axis=0) == 0).all(axis=1).sum())
    if twice:
        found.append(
            Finding(
                "duplicate-records",
                f"{twice} records are there twice (same step, micro-batch and layer)",
                "sure",
                "a chunk was read twice, or a ring was dumped over itself",
                STOPS,
                ("drop-duplicates",),
            )
        )
    back = np.flatnonzero(_descends(keys))
    if len(back):
        found.append(_disorder(keys, back))
    return found


def _descends(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a record lies before the one it follows."""
    diff = np.diff(keys, axis=0)
    first = (diff != 0).argmax(axis=1)
    return np.asarray(diff[np.arange(len(diff)), first] < 0)


def _disorder(keys: NDArray[np.int64], back: NDArray[np.int64]) -> Finding:
    at = int(back[0])
    if len(back) == 1 and tuple(keys[-1]) < tuple(keys[0]):
        return Finding(
            "ring-wrap",
            f"steps run {keys[0, 0]}..{keys[at, 0]}, then {keys[at + 1, 0]}..{keys[-1, 0]}",
            "sure",
            "a ring buffer was dumped from its start instead of from its oldest row",
            STOPS,
            ("unroll-ring",),
            {"start": at + 1},
        )
    return Finding(
        "out-of-order",
        f"{len(back)} records lie before the one they follow, the first at step "
        f"{keys[at + 1, 0]} after step {keys[at, 0]}",
        "sure",
        "threads or ranks wrote into one file",
        STOPS,
        ("sort",),
    )


def _zero_rows(seen: Survey) -> list[Finding]:
    """Micro-batches without any token, as a ring buffer has where it was never written."""
    batches, which = np.unique(seen.keys[:, :2], axis=0, return_inverse=True)
    held = np.zeros(len(batches), np.int64)
    np.add.at(held, which.reshape(-1), seen.totals)
    empty = np.flatnonzero(held == 0)
    if not len(empty) or len(empty) == len(batches):
        if len(empty):
            return [Finding("empty", "no record holds a token", "sure", "dump again", STOPS)]
        return []
    numbers = batches[empty, 0]
    one_run = len(empty) == empty[-1] - empty[0] + 1
    inside = empty[0] > 0 and empty[-1] < len(batches) - 1
    if seen.meta.positions and one_run and inside:
        return [
            Finding(
                "ring-wrap",
                f"{len(empty)} rows without tokens at steps {numbers[0]}..{numbers[-1]}, rows with "
                "tokens on both sides",
                "likely",
                "a ring buffer: the rows after the hole are older than those before it",
                STOPS,
                ("unroll-ring", "drop-zero-rows"),
                {"from_step": int(numbers[-1]) + 1},
            )
        ]
    return [
        Finding(
            "zero-rows",
            f"{len(empty)} of {len(batches)} micro-batches hold no token, steps "
            f"{some(numbers.tolist())}",
            "sure",
            "rows of a buffer that were never written, or idle passes",
            STOPS,
            ("drop-zero-rows",),
        )
    ]


def check_gaps(seen: Survey) -> list[Finding]:
    """Look for steps, micro-batches and layers that are not there."""
    return [*_missing_steps(seen), *_incomplete(seen)]


def _missing_steps(seen: Survey) -> list[Finding]:
    steps = np.unique(seen.keys[:, 0])
    seen_parts: list[str] = []
    if missing := seen.meta.notes.get("missing_chunks"):
        seen_parts.append(f"the manifest names {len(missing)} files that are not there")
    claimed = seen.meta.notes.get("manifest_records")
    if isinstance(claimed, int) and claimed != len(seen.keys):
        seen_parts.append(f"the manifest tells of {claimed} records, there are {len(seen.keys)}")
    gaps = np.diff(steps)
    windows = [[int(steps[0]), int(steps[-1]) + 1]]
    if len(gaps):
        values, counts = np.unique(gaps, return_counts=True)
        usual = int(seen.meta.sampling.get("step_every", values[counts.argmax()]))
        regular = counts.max() > _REGULAR * len(gaps)
        ends = {past for _, past in seen.meta.sampling.get("steps", [])}
        wide = [at for at in np.flatnonzero(gaps > usual).tolist() if not _at_end(steps[at], ends)]
        if wide and regular:
            lost = int(sum(gaps[at] // usual - 1 for at in wide))
            holes = [f"{steps[at]}..{steps[at + 1]}" for at in wide]
            seen_parts.append(f"{lost} steps are missing in {len(wide)} gaps: {some(holes)}")
            cuts = np.split(steps, [at + 1 for at in wide])
            windows = [[int(part[0]), int(part[-1]) + 1] for part in cuts]
    if not seen_parts:
        return []
    return [
        Finding(
            "missing-chunks",
            "; ".join(seen_parts),
            "likely",
            "find the chunks, or say in the trace that it has gaps, which history policies respect",
            WARNS,
            ("declare-gaps",),
            {"windows": windows},
        )
    ]


def _at_end(step: int, ends: set[int]) -> bool:
    """Whether a recorded window ends after this step (its gap is on purpose)."""
    return any(step < end <= step + 1 for end in ends)


def _incomplete(seen: Survey) -> list[Finding]:
    """Micro-batches that lack layers, and steps that lack micro-batches in the middle."""
    alive = {at for at, layer in seen.layers.items() if layer.records}
    keys = seen.keys[(seen.totals > 0) & np.isin(seen.keys[:, 2], sorted(alive))]
    keys = np.unique(keys, axis=0)
    batches, layers = np.unique(keys[:, :2], axis=0, return_counts=True)
    short = batches[layers < len(alive)]
    holes = 0
    if len(batches):
        _, per_step = np.unique(batches[:, 0], return_counts=True)
        usual, often = Counter(per_step.tolist()).most_common(1)[0]
        if often >= 0.9 * len(per_step):
            holes = int(np.maximum(usual - per_step, 0).sum())
    if not len(short) and not holes:
        return []
    told = []
    if len(short):
        places = [f"step {s}.{m}" for s, m in short.tolist()]
        told.append(f"{len(short)} micro-batches lack layers: {some(places)}")
    if holes:
        told.append(f"{holes} micro-batches are missing from their steps")
    return [
        Finding(
            "dropped-records",
            "; ".join(told),
            "sure" if len(short) else "likely",
            "the recorder lost records; leave their micro-batches out",
            WARNS,
            ("drop-incomplete",) if len(short) else (),
            {"batches": {tuple(batch) for batch in short.tolist()}},
        )
    ]


def check_phases(seen: Survey) -> list[Finding]:
    """Look for two kinds of micro-batches: many tokens (prefill) and few (decode)."""
    held = seen.totals > 0
    batches, which = np.unique(seen.keys[held][:, :2], axis=0, return_inverse=True)
    if len(batches) < 8:
        return []
    size = np.zeros(len(batches), np.int64)
    np.maximum.at(size, which.reshape(-1), seen.totals[held])
    ranked = np.sort(size)
    jumps = ranked[1:] / ranked[:-1]
    cut = int(jumps.argmax()) + 1
    few, many = ranked[:cut], ranked[cut:]
    least = max(2, _MIXED_SHARE * len(ranked))
    apart = np.median(many) / np.median(few)
    if min(len(few), len(many)) < least or apart < _MIXED_RATIO or jumps.max() < _MIXED_GAP:
        return []
    return [
        Finding(
            "mixed-phases",
            f"{len(many)} micro-batches of about {np.median(many):.0f} pairs and {len(few)} of "
            f"about {np.median(few):.0f}, none between {few[-1]} and {many[0]}",
            "likely",
            "prefill and decode, or warm-up passes: keep one kind",
            WARNS,
            ("keep-large", "keep-small"),
            {"limit": int(many[0])},
        )
    ]
