"""What is wrong with a log before any law is fitted: cells, keys, and rows that are not there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.calibrate.runlog.findings import Finding
from ultraep_sim.calibrate.runlog.log import Floats, Log

Mask = NDArray[np.bool_]


def structural_findings(log: Log) -> list[Finding]:
    """Find rows whose cells or keys are wrong, each row under one name at most."""
    out: list[Finding] = []
    free = np.ones(len(log), np.bool_)
    for disease, what, mask, done in _masks(log):
        rows = mask & free
        if rows.any():
            out.append(Finding(disease, what, tuple(log.row[rows].tolist()), done))
            free &= ~rows
    return out + list(_absent(log))


def _masks(log: Log) -> Iterator[tuple[str, str, Mask, str]]:
    ms, load = log.ms, log.load
    yield "clock_jump", "a negative time", ms < 0, "excluded"
    bad = ~np.isfinite(ms) | (ms == 0)
    yield "missing_time", "an empty, infinite or zero time", bad, "excluded"
    if log.start_ms is not None:
        yield (
            "clock_jump",
            "starts before the row before it of its rank",
            _backwards(log, log.start_ms),
            "excluded",
        )
    bad = ~np.isfinite(load) | (load < 0)
    yield "missing_load", "an empty, infinite or negative load", bad, "excluded"
    if (bad & log.grouped).any():  # whoever lacks a load may have been the slowest
        _, of = np.unique(log.keys(with_unit=False), axis=0, return_inverse=True)
        beside = np.isin(of.ravel(), of.ravel()[bad]) & log.grouped
        yield "missing_load", "another rank of the step has no load", beside, "excluded"
    if not log.grouped.all():
        yield "idle_rank", "a load of zero", ~log.grouped & (load == 0), "excluded"
    _, first, inverse = np.unique(log.keys(), axis=0, return_index=True, return_inverse=True)
    again = first[inverse.ravel()] != np.arange(len(log))
    same = again & (ms == ms[first[inverse.ravel()]])
    yield "duplicate_row", "the same row again", same, "excluded"
    yield "duplicate_row", "the same key again with another time", again, "excluded"


def _backwards(log: Log, start: Floats) -> Mask:
    """Rows that start earlier than an earlier step of the same rank and kind."""
    out = np.zeros(len(log), np.bool_)
    keys = log.keys()
    for unit in np.unique(log.unit):
        for kind in np.unique(log.kind):
            at = np.flatnonzero((log.unit == unit) & (log.kind == kind) & np.isfinite(start))
            at = at[np.lexsort(keys[at].T[[2, 3, 1]])]
            out[at[1:]] = np.diff(start[at]) < 0
    return out


def _absent(log: Log) -> Iterator[Finding]:
    """Ranks that lack steps of others, or appear nowhere; rows of a group that lacks one."""
    for kind in np.unique(log.kind):
        mine = log.kind == kind
        units = np.unique(log.unit[mine])
        if log.unit_name == "rank" and not (log.grouped[mine].all() and len(units) == 1):
            gone = sorted(set(range(int(units.max()) + 1)) - set(units.tolist()))
            if gone:
                yield Finding("missing_rank", f"{kind}: no row of rank {gone}", (), "kept")
        keys, of = np.unique(log.keys(with_unit=False)[mine], axis=0, return_inverse=True)
        of = of.ravel()
        lacking = np.ones((len(keys), len(units)), np.bool_)
        lacking[of, np.searchsorted(units, log.unit[mine])] = False
        for at in np.flatnonzero(lacking.any(axis=0)):
            holes = np.flatnonzero(lacking[:, at])
            tail = len(holes) > 1 and holes[-1] == len(keys) - 1
            tail = tail and bool((np.diff(holes) == 1).all())
            what = f"{kind}: {log.unit_name} {units[at]} lacks {len(holes)} of {len(keys)}"
            what += f", first at step {keys[holes[0], 1]}"
            rows: tuple[int, ...] = ()
            if log.grouped[mine].any():  # whoever is missing may have been the slowest
                rows = tuple(log.row[mine][np.isin(of, holes)].tolist())
            name = "uneven_steps" if tail else "missing_rank"
            yield Finding(name, what, rows, "excluded" if rows else "kept")
