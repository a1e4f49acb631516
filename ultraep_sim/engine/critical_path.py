"""The chain of work that an iteration's length is made of, named.

Walks back from the end: optimizer, gradient sync, the backward whose gradients the sync waited
for, and from there whatever each unit had to wait for last: the unit before it on its own stage,
or its input from the neighbouring stage. The segments are contiguous and cover the iteration.

A serial unit is broken down into the phases of its layers, each as long as on the slowest rank.
Two micro-batches that run jointly hide each other's work, so such a unit is one segment with its
two chains and no breakdown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .fast.orders import NONE, Orders, orders
from .fast.sync import last_backwards
from .fast.units import layer_ends, members, units
from .job import IterationTimes, Job
from .path_phases import OTHER, Kernels, Ledger, PhaseOnPath

Seconds = NDArray[np.float64]
Kind = Literal["forward", "backward", "joint", "hop", "sync", "finish", "wait"]


@dataclass(frozen=True)
class Segment:
    """One link of the chain.

    Attributes
    ----------
    kind : {"forward", "backward", "joint", "hop", "sync", "finish", "wait"}
        ``wait`` is a gap that no dependency of the schedule explains.
    replica : int or None
        None where all replicas take part.
    stage, virtual_stage : int
        Where it ran; a hop is named after the stage it goes to.
    micro_batches : tuple of int
        One; two in a joint unit, first chain first; none for sync, finish and wait.
    start_s, end_s : float
    phases : dict of str to float
        Seconds by phase; they sum to the segment.
    """

    kind: Kind
    replica: int | None
    stage: int
    virtual_stage: int
    micro_batches: tuple[int, ...]
    start_s: float
    end_s: float
    phases: dict[str, float]

    @property
    def seconds(self) -> float:
        """Length."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class CriticalPath:
    """The critical path of one iteration.

    Attributes
    ----------
    segments : tuple of Segment
        In order of time.
    phases : tuple of PhaseOnPath
        Longest first.
    """

    segments: tuple[Segment, ...]
    phases: tuple[PhaseOnPath, ...]

    @property
    def seconds(self) -> float:
        """Length of the iteration."""
        return self.segments[-1].end_s if self.segments else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping for JSON."""
        return {
            "seconds": self.seconds,
            "phases": [asdict(phase) for phase in self.phases],
            "segments": [asdict(segment) for segment in self.segments],
        }


def critical_path(job: Job, times: IterationTimes) -> CriticalPath:
    """Name the critical path of an iteration.

    Parameters
    ----------
    job : Job
    times : IterationTimes
        What either engine made of it.

    Returns
    -------
    CriticalPath
        Where two dependencies end together, the one on the own stage is named.
    """
    walk = _Walk(job, times)
    walk.back()
    return CriticalPath(tuple(reversed(walk.segments)), walk.ledger.totals())


class _Walk:
    """The walk back from the end of an iteration; `segments` grows towards its start."""

    def __init__(self, job: Job, times: IterationTimes) -> None:
        self.job, self.times = job, times
        self.plan: Orders = orders(job)
        self.segments: list[Segment] = []
        self.ledger = Ledger(job.replicas * job.stages * job.ranks)
        self._kernels: dict[int, Kernels] = {}
        self._tolerance = 1e-9 * max(times.iteration_s, 1e-9)
        self._item = {
            (direction, int(vs), int(unit)): item
            for direction, table in (("f", self.plan.forward), ("b", self.plan.backward))
            for item, (vs, unit) in enumerate(table)
            if vs != NONE
        }

    def back(self) -> None:
        """Walk."""
        stage = int((self.times.sync_end + self.job.finish_s).argmax())
        at = float(self.times.sync_end[stage])
        self._add("finish", None, stage, stage, (), (at, at + float(self.job.finish_s[stage])))
        replica, item, down_to, began = self._before_sync(stage)
        self._add("sync", None, stage, stage, (), (began, at))
        at = began
        while True:
            self._unit(replica, item, at, down_to)
            down_to = None
            start, _ = self._span(replica, item)
            found = self._cause(replica, item, start)
            if found is None:
                return
            item, at = found

    def _before_sync(self, stage: int) -> tuple[int, int, int | None, float]:
        """Name what the last run of gradient buckets waited for.

        Returns
        -------
        replica, item : int
            The unit it waited for.
        down_to : int or None
            The layer whose gradient it was; None for the end of the unit.
        began : float
            When the sync could go on.
        """
        last = int(self.plan.begin[stage + 1]) - 1
        ends = np.array([self._span(d, last)[1] for d in range(self.job.replicas)])
        whole = int(ends.argmax()), last, None, float(ends.max())
        if self.job.grad_sync == "exposed" or self.times.sync_end[stage] <= ends.max():
            return whole
        buckets = self._buckets(stage)
        free, began, cause = 0.0, 0.0, None
        for vs, layer, ready, seconds in buckets:
            at = float(ready.max())
            if at >= free:
                free = began = at
                cause = (vs, layer, int(ready.argmax()))
            free += seconds
        if cause is None:
            return whole
        vs, layer, replica = cause
        item = self._item["b", vs, last_backwards(self.plan, stage)[vs]]
        start, end = self._span(replica, item)
        limit = min(end, float(self.times.sync_end[stage]))
        return replica, item, layer, min(max(began, start), limit)

    def _buckets(self, stage: int) -> list[tuple[int, int | None, Seconds, float]]:
        """Gradient buckets of a stage in order: virtual stage, layer, ready [D], seconds."""
        found: list[tuple[int, int | None, Seconds, float]] = []
        per_replica = [units(self.job, d, self.plan).backward for d in range(self.job.replicas)]
        for vs, unit in last_backwards(self.plan, stage).items():
            first, stop = self.job.layers[vs]
            item = self._item["b", vs, unit]
            layers, extra = [], []
            for replica, chains in enumerate(per_replica):
                start, end = self._span(replica, item)
                at, whole = layer_ends(self.job, chains[vs], unit, stop - first)
                # A spell stretches the unit; its layers are taken to stretch alike.
                stretch = (end - start) / whole if whole > 0 else 1.0
                if abs(end - start - whole) <= self._tolerance:
                    stretch = 1.0
                layers.append(start + at * stretch)
                extra.append(start + whole * stretch)
            for one in range(stop - first - 1, -1, -1):
                ready = np.array([ends[one] for ends in layers])
                found.append((vs, first + one, ready, float(self.job.bucket_s[first + one])))
            found.append((vs, None, np.array(extra), float(self.job.extra_bucket_s[vs])))
        return found

    def _unit(self, replica: int, item: int, until: float, down_to: int | None) -> None:
        """Add a unit, or its beginning, to the chain."""
        (fs, fu), (bs, bu) = self.plan.forward[item], self.plan.backward[item]
        ahead = [] if fs == NONE else members(self.job, int(fu))
        behind = [] if bs == NONE else members(self.job, int(bu))
        vs = int(fs if bs == NONE else bs)
        batches = (*ahead, *behind)
        kind: Kind = "joint" if len(batches) > 1 else "forward" if ahead else "backward"
        span = (self._span(replica, item)[0], until)
        if kind == "joint":
            self._add(kind, replica, vs % self.job.stages, vs, batches, span)
            return
        if replica not in self._kernels:
            self._kernels[replica] = Kernels(self.job, replica)
        kernels = self._kernels[replica]
        if kind == "forward":
            phases = kernels.forward(vs, batches[0], self.ledger)
        else:
            phases = kernels.backward(vs, batches[0], self.ledger, down_to)
        self._add(kind, replica, vs % self.job.stages, vs, batches, span, phases)

    def _cause(self, replica: int, item: int, start: float) -> tuple[int, float] | None:
        """Return the item that a unit waited for last, and when that ended; None at the start."""
        stage = int(np.searchsorted(self.plan.begin, item, side="right")) - 1
        found: list[tuple[float, float, int, int]] = []  # arrival, end, item, virtual stage
        (fs, fu), (bs, bu) = self.plan.forward[item], self.plan.backward[item]
        if item > self.plan.begin[stage]:
            end = self._span(replica, item - 1)[1]
            found.append((end, end, item - 1, int(bs if fs == NONE else fs)))
        if fs > 0:
            before = self._item["f", int(fs) - 1, int(fu)]
            end = self._span(replica, before)[1]
            found.append((end + float(self.job.hop_s[fs - 1]), end, before, int(fs)))
        if bs != NONE and bs < self.job.virtual_stages - 1:
            before = self._item["b", int(bs) + 1, int(bu)]
            end = self._span(replica, before)[1]
            found.append((end + float(self.job.hop_s[bs]), end, before, int(bs)))
        if not found:
            self._add("wait", replica, stage, stage, (), (0.0, start))
            return None
        latest = max(arrival for arrival, *_ in found)
        near = [one for one in found if one[0] >= latest - self._tolerance]
        arrival, end, before, vs = near[0]  # the own stage comes first
        batches = tuple(members(self.job, int(fu if vs == fs else bu)))
        if start - arrival > self._tolerance:
            self._add("wait", replica, stage, vs, (), (arrival, start))
        else:
            arrival = start
        if arrival > end:
            self._add("hop", replica, stage, vs, batches, (end, arrival))
        return before, end

    def _add(
        self,
        kind: Kind,
        replica: int | None,
        stage: int,
        vs: int,
        batches: tuple[int, ...],
        span: tuple[float, float],
        phases: Mapping[str, float] | None = None,
    ) -> None:
        """Put a segment before the others, if it takes any time."""
        seconds = span[1] - span[0]
        if seconds <= 0:
            return
        parts = {name: s for name, s in (phases or {kind: seconds}).items() if s}
        left = seconds - sum(parts.values())
        if abs(left) > self._tolerance:
            parts[OTHER] = left
        for name, part in parts.items():
            self.ledger.book(name, part)
        self.segments.append(Segment(kind, replica, stage, vs, batches, *span, parts))

    def _span(self, replica: int, item: int) -> tuple[float, float]:
        """When an item starts and ends."""
        vs, unit = self.plan.forward[item]
        times = (self.times.forward_start, self.times.forward_end)
        if vs == NONE:
            vs, unit = self.plan.backward[item]
            times = (self.times.backward_start, self.times.backward_end)
        m = members(self.job, int(unit))[0]
        return float(times[0][replica, vs, m]), float(times[1][replica, vs, m])


def describe(path: CriticalPath) -> list[str]:
    """Write the chain in a line for every stretch on one stage."""
    lines = []
    for (kind, stage), group in groupby(path.segments, key=_stretch):
        run = list(group)
        where = f"{1e3 * run[0].start_s:.3f} to {1e3 * run[-1].end_s:.3f} ms"
        counts = {k: sum(s.kind == k for s in run) for k in ("forward", "backward", "joint")}
        if kind == "hop":
            lines.append(f"{where}: to stage {stage}")
            continue
        what = ", ".join(k if n == 1 else f"{n} {k}s" for k, n in counts.items() if n)
        what = what or _TITLES[kind]
        batches = sorted({m for s in run for m in s.micro_batches})
        if batches:
            what += f" of micro-batch{'es' * (len(batches) > 1)} {_ranges(batches)}"
        lines.append(f"{where}: stage {stage}, {what}")
    return lines


_TITLES = {"sync": "gradient sync", "finish": "optimizer and parameters", "wait": "waiting"}


def _stretch(segment: Segment) -> tuple[str, int]:
    unit = segment.kind in ("forward", "backward", "joint")
    return ("units" if unit else segment.kind), segment.stage


def _ranges(numbers: list[int]) -> str:
    """Write 0, 1, 2, 5 as ``0-2, 5``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
