"""Max-min fair rates by progressive filling.

All flows grow together, each at its weight, until a link is full; its flows stop there, the rest
grow on. A rate vector is max-min fair exactly when every flow has a bottleneck: a full link on
which no other flow gets more for its weight.

A flow that stripes over parallel links puts a *share* of its rate on each; it stops when any of
them is full.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ultraep_sim.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class FairShare:
    """Solves for the same flows again and again, with other capacities or other active flows.

    Parameters
    ----------
    num_links : int
        L.
    flow_ptr : int64 [F + 1]
        Flow ``f`` crosses the links ``flow_links[flow_ptr[f]:flow_ptr[f + 1]]``.
    flow_links : int64 [entries]
        A link at most once a flow.
    weights : float64 [F], optional
        Positive; 1 by default.
    shares : float64 [entries], optional
        Part of a flow's rate on each of its links, positive; 1 by default.

    Raises
    ------
    InputError
        Pointers, links, weights or shares that do not fit together.
    """

    def __init__(
        self,
        num_links: int,
        flow_ptr: Ints,
        flow_links: Ints,
        weights: Floats | None = None,
        shares: Floats | None = None,
    ) -> None:
        self.flow_ptr = np.ascontiguousarray(flow_ptr, np.int64)
        self.flow_links = np.ascontiguousarray(flow_links, np.int64)
        flows, entries = len(self.flow_ptr) - 1, len(self.flow_links)
        _check_routes(num_links, self.flow_ptr, self.flow_links)
        self.weights = _positive("weights", weights, flows)
        self.shares = _positive("shares", shares, entries)
        # The same entries by link: flow and share, and where each link's begin.
        self.owner = np.repeat(np.arange(flows), np.diff(self.flow_ptr))
        order = np.argsort(self.flow_links, kind="stable")
        self.link_flows = self.owner[order]
        self.link_ptr = np.zeros(num_links + 1, np.int64)
        np.cumsum(np.bincount(self.flow_links, minlength=num_links), out=self.link_ptr[1:])

    def rates(self, capacity: Floats, active: NDArray[np.bool_] | None = None) -> Floats:
        """Return the fair rate of every flow.

        Parameters
        ----------
        capacity : float64 [L]
            Not negative; a flow over a link of 0 gets 0.
        active : bool [F], optional
            Flows that take part; the others get 0.

        Returns
        -------
        float64 [F]
            Infinite for an active flow that crosses no link.
        """
        if active is None:
            active = np.ones(len(self.weights), bool)
        capacity = np.ascontiguousarray(capacity, np.float64)
        if len(capacity) != len(self.link_ptr) - 1 or not (capacity >= 0).all():
            raise InputError(
                f"capacities are {len(self.link_ptr) - 1} numbers from 0",
                place="capacity",
                value=capacity.shape,
                remedy="give one a link",
            )
        rates: Floats = _fill(
            capacity,
            self.flow_ptr,
            self.flow_links,
            self.weights,
            self.shares,
            self.link_ptr,
            self.link_flows,
            active,
        )
        return rates

    def load(self, rates: Floats) -> Floats:
        """Return what each link carries at these finite rates, float64 [L]."""
        return self.by_link(rates[self.owner] * self.shares)

    def by_link(self, per_entry: NDArray[Any]) -> Floats:
        """Sum a number of each entry over the entries of a link, float64 [L]."""
        out: Floats = np.bincount(
            self.flow_links, weights=per_entry, minlength=len(self.link_ptr) - 1
        ).astype(np.float64)
        return out


def max_min_rates(
    capacity: Floats,
    flow_ptr: Ints,
    flow_links: Ints,
    weights: Floats | None = None,
    shares: Floats | None = None,
) -> Floats:
    """Return max-min fair rates of flows over links.

    Parameters
    ----------
    capacity : float64 [L]
        Bytes/s of each link (each direction is a link of its own).
    flow_ptr : int64 [F + 1]
    flow_links : int64 [entries]
    weights : float64 [F], optional
    shares : float64 [entries], optional
        As in `FairShare`.

    Returns
    -------
    float64 [F]

    Raises
    ------
    InputError
        Arrays that do not fit together, or a negative capacity.

    Examples
    --------
    Two flows share link 0; one of them also crosses the narrow link 1 and leaves the other more.

    >>> max_min_rates(np.array([10.0, 2.0]), np.array([0, 1, 3]), np.array([0, 0, 1]))
    array([8., 2.])
    """
    return FairShare(len(capacity), flow_ptr, flow_links, weights, shares).rates(capacity)


def _check_routes(num_links: int, ptr: Ints, links: Ints) -> None:
    if len(ptr) < 1 or ptr[0] != 0 or ptr[-1] != len(links) or (np.diff(ptr) < 0).any():
        raise InputError(
            "pointers go up from 0 to the number of entries",
            place="flow_ptr",
            value=ptr.tolist()[:8],
            remedy="give int64 [F + 1]",
        )
    if len(links) and not 0 <= int(links.min()) <= int(links.max()) < num_links:
        raise InputError(
            f"links are 0 to {num_links - 1}",
            place="flow_links",
            value=(int(links.min()), int(links.max())),
            remedy="give indices into capacity",
        )


def _positive(place: str, values: Floats | None, length: int) -> Floats:
    if values is None:
        return np.ones(length)
    values = np.ascontiguousarray(values, np.float64)
    if values.shape != (length,) or not ((values > 0) & np.isfinite(values)).all():
        raise InputError(
            f"{place} are {length} positive numbers",
            place=place,
            value=values.shape,
            remedy="give one for each",
        )
    return values


@njit(cache=True)
def _fill(
    capacity: Floats,
    flow_ptr: Ints,
    flow_links: Ints,
    weights: Floats,
    shares: Floats,
    link_ptr: Ints,
    link_flows: Ints,
    active: NDArray[np.bool_],
) -> Floats:
    """Fill link by link in the order in which they fill up.

    The level at which a link fills only rises while others stop flows, so a heap of levels that
    are looked at again when they come up finds the next link in logarithmic time.
    """
    flows, links = len(weights), len(capacity)
    rates = np.zeros(flows)
    left = capacity.copy()  # not taken by flows that have stopped
    growing = np.zeros(links)  # sum of weight x share of the flows that still grow
    count = np.zeros(links, np.int64)
    for f in range(flows):
        if not active[f]:
            continue
        rates[f] = np.inf
        for e in range(flow_ptr[f], flow_ptr[f + 1]):
            growing[flow_links[e]] += weights[f] * shares[e]
            count[flow_links[e]] += 1
    heap = [(left[link] / growing[link], link) for link in range(links) if count[link] > 0]
    heapq.heapify(heap)
    level = 0.0
    while len(heap) > 0:
        found, link = heapq.heappop(heap)
        if count[link] == 0:
            continue
        now = max(left[link], 0.0) / growing[link]
        if now > found and len(heap) > 0 and now > heap[0][0]:
            heapq.heappush(heap, (now, link))
            continue
        level = max(level, now)  # rounding must not let a later flow stop lower
        for i in range(link_ptr[link], link_ptr[link + 1]):
            f = link_flows[i]
            if rates[f] == np.inf:
                rates[f] = level * weights[f]
                for e in range(flow_ptr[f], flow_ptr[f + 1]):
                    other = flow_links[e]
                    left[other] -= rates[f] * shares[e]
                    growing[other] -= weights[f] * shares[e]
                    count[other] -= 1
    return rates
