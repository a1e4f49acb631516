"""Repairs of dumps: one change each, asked for by name, written into the metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from ...errors import TraceError
from ..formats.dump import Dump, RawRecord
from .findings import Finding

MAX_HELD_BYTES = 4 << 30
"""Most that a repair may hold which needs all records at once (sorting)."""

Change = Callable[[Iterator[RawRecord]], Iterator[RawRecord]]


class Repair(NamedTuple):
    """A repair: what it does, and how to make it of the data of a finding."""

    about: str
    make: Callable[[Dump, dict[str, Any]], Dump]


def repair(dump: Dump, name: str, findings: Sequence[Finding]) -> Dump:
    """Apply one repair to a dump.

    Parameters
    ----------
    dump : Dump
    name : str
        One of `REPAIRS`.
    findings : sequence of Finding
        What `diagnose` found in this dump; the repair mends one of them.

    Returns
    -------
    Dump
        Whose ``meta.notes["repairs"]`` says what was done.

    Raises
    ------
    TraceError
        If there is no such repair or nothing that it would mend.
    """
    if name not in REPAIRS:
        known = ", ".join(REPAIRS)
        raise TraceError(
            "no such repair", place="--repair", value=name, remedy=f"use one of {known}"
        )
    for finding in findings:
        if name in finding.repairs:
            mended = REPAIRS[name].make(dump, finding.data)
            done = {"repair": name, "of": finding.name, "seen": finding.seen}
            notes = {**mended.meta.notes, "repairs": [*dump.meta.notes.get("repairs", []), done]}
            return mended.changed(iter, notes=notes)
    raise TraceError(
        "nothing here needs this repair",
        file=dump.files[0],
        place="--repair",
        value=name,
        remedy=_wanted(findings),
    )


def _wanted(findings: Sequence[Finding]) -> str:
    names = [name for finding in findings for name in finding.repairs]
    return f"what was found asks for {', '.join(names)}" if names else "leave it out"


def _each(dump: Dump, change: Callable[[RawRecord], RawRecord | None], **meta: Any) -> Dump:
    """Change or drop records one by one."""

    def run(records: Iterator[RawRecord]) -> Iterator[RawRecord]:
        for record in records:
            changed = change(record)
            if changed is not None:
                yield changed

    return dump.changed(run, **meta)


def _drop_batches(dump: Dump, data: dict[str, Any]) -> Dump:
    return _each(dump, lambda r: None if r[:2] in data["batches"] else r)


def _drop_zero(dump: Dump, _: dict[str, Any]) -> Dump:
    """Leave out micro-batches in which no layer has a token; a lone empty layer stays visible."""

    def run(records: Iterator[RawRecord]) -> Iterator[RawRecord]:
        for _, batch in groupby(records, key=lambda record: record[:2]):
            held = list(batch)
            if any(record.loads.any() for record in held):
                yield from held

    return dump.changed(run)


def _drop_dead(dump: Dump, data: dict[str, Any]) -> Dump:
    dead, alive = set(data["dead"]), data["alive"]
    return _each(
        dump,
        lambda r: None if r.layer in dead else r,
        sampling={**dump.meta.sampling, "layers": alive},
    )


def _divide(dump: Dump, data: dict[str, Any]) -> Dump:
    return _each(dump, lambda r: r._replace(loads=r.loads // data["factor"]))


def _drop_ranks(dump: Dump, data: dict[str, Any]) -> Dump:
    kept = np.setdiff1d(np.arange(dump.meta.source_ranks), data["drop"])
    notes = {**dump.meta.notes, "ranks_kept": kept.tolist()}
    return _each(
        dump, lambda r: r._replace(loads=r.loads[kept]), source_ranks=len(kept), notes=notes
    )


def _drop_dummies(dump: Dump, data: dict[str, Any]) -> Dump:
    rows: dict[tuple[int, int], list[int]] = {}
    for step, micro_batch, source in data["rows"]:
        rows.setdefault((step, micro_batch), []).append(source)

    def without(record: RawRecord) -> RawRecord | None:
        if record[:2] not in rows:
            return record
        loads = record.loads.copy()
        loads[rows[record[:2]]] = 0
        return record._replace(loads=loads) if loads.any() else None

    return _each(dump, without)


def _subtract(dump: Dump, data: dict[str, Any]) -> Dump:
    """Take the padding tokens off the experts that got them, source rows in order.

    A row gives what it has in every layer of the micro-batch, so that layers stay equal.
    """
    experts = {layer: np.array(chosen) for layer, chosen in data["experts"].items()}

    def run(records: Iterator[RawRecord]) -> Iterator[RawRecord]:
        for _, batch in groupby(records, key=lambda record: record[:2]):
            held = list(batch)
            if any(record.layer not in experts for record in held):
                raise TraceError(
                    "padding is not known for every layer, so sums would differ",
                    place=f"step {held[0].step}",
                    remedy="cut the trace to the layers where it was found",
                )
            has = [record.loads[:, experts[record.layer]].min(axis=1) for record in held]
            room = np.cumsum(np.minimum.reduce(has))
            taken = np.diff(np.minimum(room, data["tokens"]), prepend=0)
            for record in held:
                loads = record.loads.copy()
                loads[:, experts[record.layer]] -= taken[:, None]
                yield record._replace(loads=loads)

    return dump.changed(run)


def _by_size(large: bool) -> Callable[[Dump, dict[str, Any]], Dump]:
    def make(dump: Dump, data: dict[str, Any]) -> Dump:
        return _each(dump, lambda r: r if (r.loads.sum() >= data["limit"]) == large else None)

    return make


def _declare(dump: Dump, data: dict[str, Any]) -> Dump:
    return dump.changed(iter, sampling={**dump.meta.sampling, "steps": data["windows"]})


def _hold(records: Iterator[RawRecord]) -> list[RawRecord]:
    held, size = [], 0
    for record in records:
        size += record.loads.nbytes + 200
        if size > MAX_HELD_BYTES:
            raise TraceError(
                f"sorting needs more than {MAX_HELD_BYTES} bytes",
                place="--repair",
                remedy="convert the dump in parts, then trace merge them",
            )
        held.append(record)
    return held


def _sort(dump: Dump, _: dict[str, Any]) -> Dump:
    return dump.changed(lambda records: iter(sorted(_hold(records), key=lambda r: r[:3])))


def _last_of_each(dump: Dump, _: dict[str, Any]) -> Dump:
    """Of records with one key keep the one that came last: a ring's newest."""
    return dump.changed(lambda records: iter({r[:3]: r for r in _hold(records)}.values()))


def _unroll(dump: Dump, data: dict[str, Any]) -> Dump:
    """Begin a ring at its oldest row; positions are numbered anew."""

    def run(records: Iterator[RawRecord]) -> Iterator[RawRecord]:
        held = _hold(records)
        if "start" in data:
            yield from [*held[data["start"] :], *held[: data["start"]]]
            return
        old = [r for r in held if r.step >= data["from_step"]]
        new = [r for r in held if r.step < data["from_step"]]
        numbers: dict[int, int] = {}
        empty = _empty_steps(held)
        for record in (*old, *new):
            if record.step not in empty:
                yield record._replace(step=numbers.setdefault(record.step, len(numbers)))

    return dump.changed(run)


def _empty_steps(held: list[RawRecord]) -> set[int]:
    return {r.step for r in held} - {r.step for r in held if r.loads.any()}


REPAIRS: dict[str, Repair] = {
    "drop-zero-rows": Repair("leave out micro-batches without tokens", _drop_zero),
    "unroll-ring": Repair("begin a ring buffer at its oldest row", _unroll),
    "sort": Repair("sort by step, micro-batch and layer", _sort),
    "drop-duplicates": Repair("of records that are there twice keep the last", _last_of_each),
    "drop-incomplete": Repair("leave out micro-batches that lack layers", _drop_batches),
    "drop-uneven": Repair("leave out micro-batches whose layers disagree", _drop_batches),
    "declare-gaps": Repair("write the recorded windows into the sampling", _declare),
    "drop-dead-layers": Repair("leave out layers that never see a token", _drop_dead),
    "divide-replicas": Repair("divide every count by the replication", _divide),
    "drop-replica-ranks": Repair("keep one rank of those that counted the same", _drop_ranks),
    "drop-dummy-rows": Repair("zero the rows of ranks that ran dummy batches", _drop_dummies),
    "subtract-padding": Repair("take padding tokens off the experts that got them", _subtract),
    "keep-large": Repair("keep the large micro-batches (prefill)", _by_size(True)),
    "keep-small": Repair("keep the small micro-batches (decode)", _by_size(False)),
}
