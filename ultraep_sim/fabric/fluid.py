"""Flows as fluids: between events every flow moves at its max-min fair rate.

Events are arrivals, departures and changes of the links. Flows that end at the same instant leave
together, so the rates are solved once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.fabric.fairshare import FairShare
from ultraep_sim.fabric.topology_arrays import Routes

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Ends closer than this, relative to the time until them, are one event; what a flow has left below
# the second, relative to its size, is rounding.
_TOGETHER = 1e-9
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Epoch:
    """A time in which no link changes.

    Attributes
    ----------
    start_s : float
    capacity : float64 [L]
        Bytes/s.
    routes : Routes
        Of all flows.
    """

    start_s: float
    capacity: Floats
    routes: Routes


@dataclass(frozen=True, eq=False)
class Segment:
    """A time between two events.

    Attributes
    ----------
    start_s, end_s : float
    epoch : int
    rates : float64 [F]
        Bytes/s of each flow; 0 for those that wait or have gone.
    active : bool [F]
    link_rate : float64 [L]
        Bytes/s each link carries.
    """

    start_s: float
    end_s: float
    epoch: int
    rates: Floats
    active: Flags
    link_rate: Floats


@dataclass(eq=False)
class Drained:
    """What came out of the fluid.

    Attributes
    ----------
    end_s : float64 [F]
        When each flow's last byte left its source; its latency is not in it.
    epoch : int64 [F]
        Epoch in which that was.
    link_bytes, peak : float64 [L]
        Bytes carried, and the highest utilisation of any instant.
    solves : int
        Times the rates were solved.
    """

    end_s: Floats
    epoch: NDArray[np.int64]
    link_bytes: Floats
    peak: Floats
    solves: int = 0


Watch = Callable[[Segment, FairShare], None]


def drain(
    epochs: Sequence[Epoch],
    size: Floats,
    start_s: Floats,
    *,
    resolution_s: float = 0.0,
    watch: Watch | None = None,
    name: Callable[[int], str] = str,
) -> Drained:
    """Let flows run until all are through.

    Parameters
    ----------
    epochs : sequence of Epoch
        In order of time, the first from the start on.
    size, start_s : float64 [F]
        Bytes and arrival of each flow.
    resolution_s : float
        Rates are solved at most once in this time because of departures: what a flow leaves behind
        waits that long for others to take it. 0 is exact.
    watch : callable, optional
        Called with every segment and the solver of its epoch.
    name : callable
        What an error calls a link.

    Raises
    ------
    InputError
        Flows that no later event sets free: they would wait forever.
    """
    run = _Run(epochs, size, start_s, resolution_s, watch, name)
    while run.waiting or run.active.any():
        run.open()
        run.step(run.solver().rates(run.epoch.capacity, run.active))
    return run.out


class _Run:
    """The clock, and what every flow has left."""

    def __init__(
        self,
        epochs: Sequence[Epoch],
        size: Floats,
        start_s: Floats,
        resolution_s: float,
        watch: Watch | None,
        name: Callable[[int], str],
    ) -> None:
        flows, links = len(size), len(epochs[0].capacity)
        self.epochs, self.size, self.start_s = epochs, size, start_s
        self.resolution_s, self.watch, self.name = resolution_s, watch, name
        self.now, self.index = 0.0, 0
        self.remaining = np.array(size, np.float64)
        self.active = np.zeros(flows, bool)
        # The next to arrive is last.
        self.waiting: list[int] = np.argsort(start_s, kind="stable")[::-1].tolist()
        self.solvers: dict[int, FairShare] = {}
        self.out = Drained(
            np.full(flows, np.nan), np.zeros(flows, np.int64), np.zeros(links), np.zeros(links)
        )

    @property
    def epoch(self) -> Epoch:
        """The one that holds now."""
        return self.epochs[self.index]

    def open(self) -> None:
        """Admit what is due; with nothing on its way, the clock goes to the next arrival first."""
        if not self.active.any():
            self.now = max(self.now, float(self.start_s[self.waiting[-1]]))
        while self.waiting and self.start_s[self.waiting[-1]] <= self.now:
            self.active[self.waiting.pop()] = True
        while self.index + 1 < len(self.epochs) and self.epochs[self.index + 1].start_s <= self.now:
            self.index += 1

    def solver(self) -> FairShare:
        """Return the solver of this epoch, built once."""
        if self.index not in self.solvers:
            routes = self.epoch.routes
            self.solvers[self.index] = FairShare(
                len(self.epoch.capacity), routes.ptr, routes.links, None, routes.shares
            )
        self.out.solves += 1
        return self.solvers[self.index]

    def step(self, rates: Floats) -> None:
        """Go to the next event: move bytes, note who is through."""
        moving = self.active & (rates > 0)
        until = np.full(len(rates), np.inf)
        until[moving] = self.remaining[moving] / rates[moving]  # 0 where nothing limits the rate
        until[self.active & (self.remaining == 0)] = 0.0
        step, end = self._next_event(float(until.min(initial=np.inf)))
        done = self.active & (until <= step * (1 + _TOGETHER))
        still = moving & ~done
        left = np.where(still, self.remaining - np.where(still, rates, 0.0) * step, 0.0)
        done |= still & (left <= _ROUNDING * self.size)
        moved = np.where(done, self.remaining, np.where(still, self.remaining - left, 0.0))
        self.out.end_s[done] = np.minimum(end, self.now + until[done]) if self.resolution_s else end
        self.out.epoch[done] = self.index
        if step > 0:
            self._note(end, step, np.where(np.isfinite(rates), rates, 0.0), moved)
        self.remaining -= moved
        self.active &= ~done
        self.now = end

    def _next_event(self, first: float) -> tuple[float, float]:
        """Return how long until the next event, and when that is; ``first`` departs by then."""
        arrival = float(self.start_s[self.waiting[-1]]) if self.waiting else np.inf
        last = self.index + 1 == len(self.epochs)
        horizon = min(arrival, np.inf if last else self.epochs[self.index + 1].start_s)
        if not np.isfinite(min(first, horizon)):
            raise self._forever()
        leave = max(first, self.resolution_s)
        if self.now + leave < horizon:
            return leave, self.now + leave
        return horizon - self.now, horizon

    def _note(self, end: float, step: float, rates: Floats, moved: Floats) -> None:
        solver, capacity = self.solvers[self.index], self.epoch.capacity
        carried = solver.load(moved)
        self.out.link_bytes += carried
        # At the beginning of a segment all its flows still move: links carry the most then.
        busiest = solver.load(rates) / np.where(capacity > 0, capacity, 1.0)
        np.maximum(self.out.peak, busiest, out=self.out.peak)
        if self.watch is not None:
            active = self.active.copy()
            segment = Segment(self.now, end, self.index, rates, active, carried / step)
            self.watch(segment, solver)

    def _forever(self) -> InputError:
        stuck = np.flatnonzero(self.active)
        flow, routes = int(stuck[0]), self.epoch.routes
        links = routes.links[routes.ptr[flow] : routes.ptr[flow + 1]].tolist()
        dead = [link for link in links if self.epoch.capacity[link] == 0]
        return InputError(
            f"{len(stuck)} flows wait forever on dead links, the first is flow {flow} on "
            f"{self.name(dead[0]) if dead else links}, from {self.now:g} s on",
            place="changes",
            value=len(stuck),
            remedy="repair the link later, or let transfers re-stripe over the planes that live "
            "(striping: equal)",
        )
