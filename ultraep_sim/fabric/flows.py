"""Flows between GPUs of a fabric that share its links fairly and live through its changes.

For traffic that really interleaves: an all-to-all on a healthy, otherwise idle fabric is closed
form (`alltoall`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.fairshare import FairShare
from ultraep_sim.fabric.flow_effects import Effect, EffectLog
from ultraep_sim.fabric.fluid import Drained, Epoch, Segment, drain
from ultraep_sim.fabric.health import Part, Rates, degrade
from ultraep_sim.fabric.topology import Topology
from ultraep_sim.fabric.topology_arrays import FabricArrays, Routes, flatten_states

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Flows:
    """What is to be sent.

    Parameters
    ----------
    src, dst : int64 [F]
        Physical GPUs.
    size : float64 [F]
        Bytes.
    start_s : float64 [F]
        When each is ready to go.

    Raises
    ------
    InputError
        Arrays of different lengths, negative sizes or times.
    """

    src: Ints
    dst: Ints
    size: Floats
    start_s: Floats

    def __post_init__(self) -> None:
        shape = np.shape(self.src)
        for name in ("src", "dst", "size", "start_s"):
            dtype = np.int64 if name in ("src", "dst") else np.float64
            values = np.ascontiguousarray(getattr(self, name), dtype)
            if len(shape) != 1 or values.shape != shape:
                raise InputError(
                    "flows are arrays of one length", place=name, value=values.shape, remedy="mend"
                )
            if not (np.isfinite(values) & (values >= 0)).all():
                raise InputError(
                    "sizes, times and GPUs are finite and not negative",
                    place=name,
                    value=values[~(np.isfinite(values) & (values >= 0))][0],
                    remedy="mend that flow",
                )
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.src)


def flows_of_matrix(matrix: Floats, gpus: Ints, start_s: float = 0.0) -> Flows:
    """Return a flow for every positive cell off the diagonal.

    Parameters
    ----------
    matrix : [R, R]
        Bytes from rank to rank.
    gpus : int64 [R]
        Physical GPU of each rank.
    start_s : float
    """
    matrix, gpus = np.asarray(matrix, np.float64), np.asarray(gpus, np.int64)
    if matrix.shape != (len(gpus), len(gpus)):
        raise InputError(
            "bytes are a square of the ranks",
            place="matrix",
            value=matrix.shape,
            remedy=f"give [{len(gpus)}, {len(gpus)}]",
        )
    src, dst = np.nonzero((matrix > 0) & ~np.eye(len(gpus), dtype=bool))
    return Flows(gpus[src], gpus[dst], matrix[src, dst], np.full(len(src), start_s))


@dataclass(frozen=True)
class Change:
    """A part of the fabric that degrades, dies or is repaired while flows are under way.

    Parameters
    ----------
    time_s : float
    what : str or (str, str)
        A node with all its links, or the link between two nodes, as in `health.degrade`.
    factor : float
        What it has of its healthy bandwidth from then on: 0 dead, 1 repaired. A link that two
        changed parts share has the product of their factors.
    """

    time_s: float
    what: Part
    factor: float


@dataclass(frozen=True, eq=False)
class FlowResult:
    """When flows ended, and what links carried.

    Attributes
    ----------
    finish_s : float64 [F]
        When the last byte arrived, latency included.
    link_bytes, peak : float64 [L]
        Bytes each link carried, and its highest utilisation.
    times : float64 [K, 2]
        Begin and end of each segment of the timeline; none where it was not kept. Between
        segments nothing moves.
    links : int64 [U]
        Links that flows use.
    link_rate, utilisation : float64 [K, U]
        Bytes/s of each of them in each segment, and over its capacity then.
    effects : tuple of Effect
        By time.
    solves : int
        Times the fair rates were solved.
    arrays : FabricArrays
        The fabric at the start: ``arrays.name(link)`` says what a link is.
    """

    finish_s: Floats
    link_bytes: Floats
    peak: Floats
    times: Floats
    links: Ints
    link_rate: Floats
    utilisation: Floats
    effects: tuple[Effect, ...]
    solves: int
    arrays: FabricArrays

    @property
    def end_s(self) -> float:
        """When all is through; 0 with no flows."""
        return float(self.finish_s.max(initial=0.0))


def simulate(
    topology: Topology,
    flows: Flows,
    changes: Sequence[Change] = (),
    *,
    rates: Rates = "achieved",
    resolution_s: float = 0.0,
    timeline: bool = True,
) -> FlowResult:
    """Run flows over a fabric.

    Parameters
    ----------
    topology : Topology
        Its ``striping`` says what a flow does about a dead plane: with ``equal`` and ``adaptive``
        it re-stripes over those that live, with ``fixed`` it waits.
    flows : Flows
    changes : sequence of Change
    rates : {"achieved", "nominal"}
        Bandwidth of the links: what transfers reach, or what they are sold as.
    resolution_s : float
        Solve at most once in this time because of departures; 0 is exact.
    timeline : bool
        Whether rates and utilisation over time are kept (segments x links of memory).

    Raises
    ------
    InputError
        A GPU or part that is not there, or flows that would wait forever.
    """
    if resolution_s < 0 or not np.isfinite(resolution_s):
        raise InputError(
            "not a time", place="resolution_s", value=resolution_s, remedy="give 0 or more seconds"
        )
    states, times = _states(topology, changes)
    arrays = flatten_states(states, rates)
    routes = [a.routes(flows.src, flows.dst) for a in arrays]
    epochs = [Epoch(t, a.capacity, r) for t, a, r in zip(times, arrays, routes, strict=True)]
    log = EffectLog(arrays[0])
    used = np.unique(np.concatenate([r.links for r in routes]))
    spans: list[tuple[float, float]] = []
    kept: list[tuple[Floats, Floats]] = []

    def watch(segment: Segment, solver: FairShare) -> None:
        capacity = epochs[segment.epoch].capacity
        log.see(segment, solver, capacity)
        if timeline:
            spans.append((segment.start_s, segment.end_s))
            kept.append((segment.link_rate[used], capacity[used]))

    drained = drain(
        epochs,
        flows.size,
        flows.start_s,
        resolution_s=resolution_s,
        watch=watch,
        name=arrays[0].name,
    )
    _note_restriping(log, epochs, flows, drained, changes)
    latency = np.stack([r.latency_s for r in routes])[drained.epoch, np.arange(len(flows))]
    rate, at = np.array(kept).reshape(len(kept), 2, len(used)).transpose(1, 0, 2)
    return FlowResult(
        finish_s=drained.end_s + latency,
        link_bytes=drained.link_bytes,
        peak=drained.peak,
        times=np.array(spans).reshape(-1, 2),
        links=used,
        link_rate=rate,
        utilisation=rate / np.where(at > 0, at, 1.0),
        effects=log.effects(),
        solves=drained.solves,
        arrays=arrays[0],
    )


def _states(
    topology: Topology, changes: Sequence[Change]
) -> tuple[list[Topology], list[float]]:  # fmt: skip
    """Return the states of health and when each begins."""
    states, times = [topology], [0.0]
    now: dict[Part, float] = {}
    for change in sorted(changes, key=lambda c: c.time_s):
        if not np.isfinite(change.time_s) or change.time_s < 0:
            raise InputError(
                "a change has a time from 0", place="changes", value=change.time_s, remedy="mend it"
            )
        now[change.what] = change.factor
        state = topology
        for what, factor in now.items():
            state = degrade(state, what, factor)
        if change.time_s == times[-1]:
            states[-1] = state
        else:
            states.append(state)
            times.append(change.time_s)
    return states, times


def _note_restriping(
    log: EffectLog,
    epochs: Sequence[Epoch],
    flows: Flows,
    drained: Drained,
    changes: Sequence[Change],
) -> None:
    for before, after in pairwise(epochs):
        under_way = (flows.start_s < after.start_s) & (drained.end_s > after.start_s)
        moved = sum(
            not _same_links(before.routes, after.routes, flow)
            for flow in np.flatnonzero(under_way).tolist()
        )
        if moved:
            parts = [str(c.what) for c in changes if c.time_s == after.start_s]
            log.restriped(after.start_s, moved, ", ".join(parts))


def _same_links(one: Routes, other: Routes, flow: int) -> bool:
    a, b = (slice(r.ptr[flow], r.ptr[flow + 1]) for r in (one, other))
    return np.array_equal(one.links[a], other.links[b]) and np.array_equal(
        one.shares[a], other.shares[b]
    )


def slowed_by_bandwidth(less: FlowResult, more: FlowResult) -> tuple[Effect, ...]:
    """Name the flows that end later although links only got faster.

    Under fair sharing that is possible: a flow that is let through sooner may meet, and take
    bandwidth from, one it would have missed.

    Parameters
    ----------
    less, more : FlowResult
        The same flows, on links of which none is slower in ``more``.
    """
    later = np.flatnonzero(more.finish_s > less.finish_s * (1 + 1e-9))
    return tuple(
        Effect(
            "fair-sharing",
            float(less.finish_s[flow]),
            float(more.finish_s[flow] - less.finish_s[flow]),
            f"flow {flow}",
            1,
        )
        for flow in later
    )
