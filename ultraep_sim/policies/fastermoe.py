"""FasterMoE's shadowing: broadcast the hottest experts while the modelled time falls.

Source: FasterMoE (PPoPP 2022), dynamic shadowing, written from its description.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from numpy.typing import NDArray

from ..errors import PolicyError
from ..model.provenance import Quantity
from ..planning import EPLayout, Plan, expert_loads, spread_evenly
from ..planning.assemble import plan_from_replicas
from .base import EXCHANGE, REROUTE, TASKS, CostModel, DecisionPrice, Policy, PolicyState

SOLVE = Quantity(
    20.0, "us", "assumed", "a sort and a few evaluations of a closed form on the host", 5.0, 100.0
)

DEFAULT_COST = CostModel(
    pair_s=28.8e-9, wire_s=25.6e-9, copy_s=51.5e-6, copy_base_s=8e-6, relay_s=15e-6
)
"""Forward of Qwen3-235B on a rack of 64, used where nobody gives a cost model (assumed to stand
for all): 65,536 pairs a rank in 1.89 ms of expert compute and 1.68 ms of all-to-all, 51.5 us a copy
of 36 MiB and 8 us before the first (published), 15 us for a relay (not used here). No gradients:
a forward has none."""


class FasterMoE(Policy):
    """Shadow the hottest experts on every rank of their domain.

    A shadowed expert has an instance on every rank of its home's scale-up domain, and tokens stay
    where they are: a replica serves its own rank's tokens, the main its own and those of other
    domains. Experts are tried by load, largest first, until one does not make the modelled time
    (compute of the busiest rank, all-to-all of the busiest port, broadcast, and what attention
    backward does not hide of the gradients' reduction) shorter. Weights travel as a broadcast:
    each port carries one copy of a shadowed expert, see `ultraep_sim.fabric.streaming.broadcast`.

    Parameters
    ----------
    layout : EPLayout
    max_shadows : int, optional
        Experts that may be shadowed in a domain; each needs a slot on every rank, which it takes.
        Default: the slots there are.
    cost : CostModel, optional
        What the engine knows of times; default `DEFAULT_COST`.
    """

    name = "fastermoe"
    summary = "FasterMoE: the hottest experts on every rank while the modelled time falls"
    sees = "the exact loads of the micro-batch and a cost model"
    acts = "every layer, every micro-batch"
    costs = "count exchange, decision, weights of shadowed experts to all ranks; a slot for each"

    def __init__(
        self,
        layout: EPLayout,
        *,
        max_shadows: int | None = None,
        cost: CostModel | None = None,
    ) -> None:
        if max_shadows is not None:
            if (
                isinstance(max_shadows, bool)
                or not isinstance(max_shadows, int)
                or not 0 <= max_shadows <= layout.num_experts
            ):
                raise PolicyError(
                    "not a number of experts", place="max_shadows", value=max_shadows,
                    remedy=f"give 0 to {layout.num_experts}",
                )  # fmt: skip
            slots = max(layout.slots_per_rank, max_shadows)
            layout = dataclasses.replace(layout, slots_per_rank=slots)
        super().__init__(layout)
        self._most = layout.slots_per_rank if max_shadows is None else max_shadows
        self._cost = cost or DEFAULT_COST

    def plan(self, loads: NDArray[np.int64], state: PolicyState) -> Plan:
        """Shadow experts one by one, then leave every token where it is."""
        layout = self.layout
        # Sources unknown: every rank holds its even share, as everywhere in this package.
        known = loads.shape[0] == layout.num_ranks
        by_source = loads if known else spread_evenly(loads.sum(axis=0), layout.num_ranks)
        begin = time.perf_counter_ns()
        shadows = self._choose(by_source)
        elapsed_us = (time.perf_counter_ns() - begin) / 1e3
        expert = [np.full(len(ranks), e, np.int32) for e, ranks in shadows]
        rank = [ranks.astype(np.int32) for _, ranks in shadows]
        quota = [by_source[ranks, e] for e, ranks in shadows]
        return plan_from_replicas(
            layout, loads,
            np.concatenate([np.empty(0, np.int32), *expert]),
            np.concatenate([np.empty(0, np.int32), *rank]),
            np.concatenate([np.empty(0, np.int64), *quota]),
            policy=self.name, locality=True, solve_us=elapsed_us,
        )  # fmt: skip

    def _choose(self, loads: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
        """Return the experts to shadow, each with the ranks its replicas go to."""
        layout, total = self.layout, expert_loads(loads)
        model = _Model(layout, loads, self._cost)
        best = model.time([])
        shadows: list[tuple[int, NDArray[np.int64]]] = []
        used = np.zeros(layout.num_domains, np.int64)
        for e in np.argsort(-total, kind="stable"):
            home = int(layout.home[e])
            domain = layout.domain_of[home]
            ranks = np.flatnonzero(layout.domain_of == domain)
            if used[domain] >= self._most or len(ranks) == 1:
                continue
            if total[e] == 0:
                break
            trial = [*shadows, (int(e), ranks[ranks != home])]
            model.shadow(*trial[-1])
            seconds = model.time(trial)
            if seconds >= best:
                break
            best, shadows = seconds, trial
            used[domain] += 1
        return shadows

    def price(self) -> DecisionPrice:
        """Return an exact decision; weights and gradients travel as collectives."""
        return DecisionPrice(EXCHANGE, SOLVE, TASKS, REROUTE, "broadcast")


class _Model:
    """Modelled time of one layer and micro-batch, kept up to date while experts are shadowed."""

    def __init__(self, layout: EPLayout, loads: NDArray[np.int64], cost: CostModel) -> None:
        self._layout, self._loads, self._cost = layout, loads, cost
        ranks = np.arange(layout.num_ranks)
        own = np.zeros(layout.num_ranks, np.int64)
        np.add.at(own, layout.home, loads[layout.home, np.arange(layout.num_experts)])
        self._pairs = np.zeros(layout.num_ranks, np.int64)
        np.add.at(self._pairs, layout.home, loads.sum(axis=0))
        self._sent = loads[ranks].sum(axis=1) - own
        self._received = self._pairs - own

    def shadow(self, expert: int, ranks: NDArray[np.int64]) -> None:
        """Keep the expert's tokens of ``ranks`` where they are."""
        stay = self._loads[ranks, expert]
        home = self._layout.home[expert]
        self._pairs[ranks] += stay
        self._sent[ranks] -= stay
        self._pairs[home] -= stay.sum()
        self._received[home] -= stay.sum()

    def time(self, shadows: list[tuple[int, NDArray[np.int64]]]) -> float:
        """Compute, all-to-all and broadcast of ``shadows``, seconds."""
        cost = self._cost
        wire = max(int(self._sent.max()), int(self._received.max()))
        seconds = cost.pair_s * int(self._pairs.max()) + cost.wire_s * wire
        return seconds + self._broadcast(shadows) if shadows else seconds

    def _broadcast(self, shadows: list[tuple[int, NDArray[np.int64]]]) -> float:
        """Every port carries one copy of each expert it receives; gradients the other way."""
        cost = self._cost
        copies = int(np.bincount(np.concatenate([ranks for _, ranks in shadows])).max())
        return cost.copy_base_s + cost.copy_s * copies + cost.exposed_gradient(copies)
