"""Our planner: exact loads, fewest replicas, aware of speeds, tiles, domains and cost."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import PolicyError
from ..model.provenance import Quantity
from ..planning import EPLayout, MosaicOptions, MosaicSolver, Plan, Solution, expert_loads
from ..planning.assemble import plan_from_replicas
from .base import EXCHANGE, REROUTE, TASKS, CostModel, DecisionPrice, Policy, PolicyState, one_of
from .worth import cheapest

SOLVE = {
    "fast": Quantity(
        56.0, "us", "assumed", "as published for ultraep, whose CPU time it undercuts", 20, 78
    ),
    "thorough": Quantity(
        120.0, "us", "assumed", "15 passes of the fast kernel, not all in parallel", 56, 250
    ),
}


class Mosaic(Policy):
    """Cover every overloaded rank with as few replicas as possible, see `planning.mosaic`.

    Parameters
    ----------
    layout : EPLayout
    target : float
        Max over mean rank load to aim at.
    effort : {"fast", "thorough"}
        One pass; or many, keeping the fewest replicas.
    speeds : array_like of float, shape [ranks], optional
        Relative speed of each rank: a straggler of speed 0.5 is given half the load.
    tile_rows : int
        Round replica quotas to whole GEMM tiles where that costs neither balance nor a replica.
    cross : {"never", "always", "pays"}
        Whether replicas may leave the scale-up domain of their home: never; for whatever the
        domain cannot hold; or only where the cost model says that it pays.
    objective : {"balance", "time"}
        Reach the target; or choose the threshold, down to doing nothing, by modelled layer time.
    cost : CostModel, optional
        Given by the engine; needed for ``objective="time"`` and ``cross="pays"``.
    """

    name = "mosaic"
    summary = "our planner: pieces that fit, far fewer replicas at the same balance"
    sees = "the exact loads of the micro-batch"
    acts = "every layer, every micro-batch"
    costs = "count exchange, solve, task lists, replica weights streamed (relayed when hot)"
    never_worse = True

    def __init__(
        self,
        layout: EPLayout,
        *,
        target: float = 1.01,
        effort: str = "fast",
        speeds: ArrayLike | None = None,
        tile_rows: int = 1,
        cross: str = "never",
        objective: str = "balance",
        cost: CostModel | None = None,
    ) -> None:
        super().__init__(layout)
        one_of("cross", cross, ("never", "always", "pays"))
        one_of("objective", objective, ("balance", "time"))
        self._inside = MosaicOptions(target, effort, tile_rows)  # type: ignore[arg-type]  # checked
        self._across = MosaicOptions(target, effort, tile_rows, cross=True)  # type: ignore[arg-type]
        self._solver = MosaicSolver(layout, speeds)
        self._crosses, self._objective, self._cost = cross, objective, cost
        self.effort = effort
        self.may_cross = cross != "never"
        # With speeds it balances times, not tokens: a fast rank may get more than the hottest had.
        self.never_worse = self._solver.uniform

    def plan(self, loads: NDArray[np.int64], state: PolicyState) -> Plan:
        """Solve for the exact loads."""
        total = expert_loads(loads)
        begin = time.perf_counter_ns()
        solution, crossed = self._solve(total)
        elapsed_us = (time.perf_counter_ns() - begin) / 1e3
        return plan_from_replicas(
            self.layout, loads, solution.expert, solution.rank, solution.quota,
            policy=self.name, tau=solution.tau if self._solver.uniform else None,
            may_cross=crossed, solve_us=elapsed_us,
        )  # fmt: skip

    def _solve(self, total: NDArray[np.int64]) -> tuple[Solution, bool]:
        """Return the solution, and whether it was allowed to cross domains."""
        if self._objective == "balance" and self._crosses != "pays":
            crossing = self._crosses == "always"
            return self._solver.solve(total, self._across if crossing else self._inside), crossing
        if self._cost is None:
            raise PolicyError(
                "a cost-aware plan needs a cost model",
                place="cost",
                remedy="run it in a scenario, or pass cost=CostModel(...)",
            )
        choices = [(self._inside, False)]
        if self._crosses != "never":
            choices.append((self._across, True))
        return cheapest(self._solver, total, choices, self._cost, self._objective == "time")

    def price(self) -> DecisionPrice:
        """Return the published hot path with our solve time."""
        return DecisionPrice(EXCHANGE, SOLVE[self.effort], TASKS, REROUTE, "stream", relay=True)
