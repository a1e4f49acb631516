"""No balancing: every expert at home, every token where its expert is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..planning import Plan
from ..planning.assemble import plan_from_replicas
from ..planning.replicas import Replicas, none_of
from .base import DecisionPrice, Policy, PolicyState, nothing

_NO_INT = np.empty(0, np.int32)
_NO_QUOTA = np.empty(0, np.int64)


class NoBalancing(Policy):
    """Mains only."""

    name = "none"
    summary = "no balancing"
    sees = "nothing"
    acts = "never"
    costs = "nothing"
    never_worse = True

    def plan(self, loads: NDArray[np.int64], state: PolicyState) -> Plan:
        """Leave every load at its expert's home."""
        return plan_from_replicas(self.layout, loads, _NO_INT, _NO_INT, _NO_QUOTA, policy=self.name)

    def plan_block(self, totals: NDArray[np.int64]) -> Replicas:
        """Open no replica."""
        return none_of(len(totals))

    def price(self) -> DecisionPrice:
        """Return zero everywhere."""
        zero = nothing("no balancing takes no decision")
        return DecisionPrice(zero, zero, zero, zero, "none")
