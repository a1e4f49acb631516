"""Predictive replication: replicas for the load that was, quotas for the load that is.

What lookahead systems do: the weights of replicas travel while other work runs, so *where*
replicas are is decided before the router has spoken; *how much* each of them takes is decided on
the exact load.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from ..model.provenance import Quantity
from ..planning import EPLayout, Plan, QuotaOptions, QuotaSolver
from ..planning.assemble import plan_from_replicas
from ..planning.splitting import split_min_max
from .base import EXCHANGE, REROUTE, DecisionPrice, Policy, PolicyState, nothing, one_of

SOLVE = Quantity(
    20.0, "us", "assumed", "the split alone; the whole quota planner takes 56 us", 5.0, 60.0
)


class Predictive(Policy):
    """The quota planner on a predicted load, the exact min-max split on the true one.

    Replicas sit where the published planner (`ultraep_sim.planning.quota`) would put them if the
    prediction came true. Quotas minimise the largest rank load over the instances there are,
    exactly; a replica may end up with nothing to do, though its weights have travelled.

    Parameters
    ----------
    layout : EPLayout
    source : {"step", "layer"}
        What stands for the coming load: this layer in the micro-batch before, or the layer below
        in this one. Expert ids of two layers name different experts, so ``layer`` says something
        only of models whose layers were trained to agree; on others it predicts noise. Without
        a prediction (first micro-batch, first layer) there are no replicas.
    target : float
        Max over mean predicted rank load to aim at.
    """

    name = "predictive"
    summary = "lookahead: replicas for the previous load, quotas for the exact one"
    sees = "the load of the micro-batch before (or the layer below) to place; exact loads to split"
    acts = "every layer, every micro-batch"
    costs = "count exchange and split; replica weights every time, sent ahead"
    exact = False
    never_worse = True

    def __init__(self, layout: EPLayout, *, source: str = "step", target: float = 1.01) -> None:
        super().__init__(layout)
        one_of("source", source, ("step", "layer"))
        self._from_layer = self.sees_layer_below = source == "layer"
        self._options = QuotaOptions(target)
        self._solver = QuotaSolver(layout)
        steps = range(0, layout.num_ranks, layout.domain)
        self._bounds = np.array([*steps, layout.num_ranks])

    def plan(self, loads: NDArray[np.int64], state: PolicyState) -> Plan:
        """Place for the prediction, split for the truth."""
        predicted = state.layer_before if self._from_layer else state.previous
        if not self._from_layer:
            state.warm = predicted is not None
        if predicted is None:
            predicted = np.zeros(self.layout.num_experts, np.int64)
        solution = self._solver.solve(predicted, self._options)
        placed = plan_from_replicas(
            self.layout, predicted[None, :], solution.expert, solution.rank, solution.quota
        )
        begin = time.perf_counter_ns()
        split = split_min_max(loads.sum(axis=0), placed.offsets, placed.rank, self._bounds)
        elapsed_us = (time.perf_counter_ns() - begin) / 1e3
        return Plan(
            self.layout, loads, placed.offsets, placed.rank, placed.slot, split.quota,
            policy=self.name, tau=split.tau, solve_us=elapsed_us,
        )  # fmt: skip

    def price(self) -> DecisionPrice:
        """Return exchange and split on the critical path; replicas were planned ahead.

        The weights travel every micro-batch, behind the layer below: the engine exposes only what
        sticks out beyond that layer's work. The count exchange and the split need the exact loads
        and stay exposed.
        """
        return DecisionPrice(
            EXCHANGE, SOLVE, nothing("built while the layer below runs"), REROUTE, "stream",
            relay=True, prefetched=True,
        )  # fmt: skip
