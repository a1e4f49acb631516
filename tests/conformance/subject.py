"""The policy under test, and a walk through micro-batches that hands it what the engine would."""

from dataclasses import dataclass, field
from typing import Any

from ultraep_sim.policies import Policy, get_policy
from ultraep_sim.policies.base import CostModel

COSTS = {
    "typical": CostModel(6e-9, 9e-9, 5e-5, 1e-4, 1.5e-5),
    "free": CostModel(0.0, 0.0, 0.0, 0.0, 0.0),
    "copies never pay": CostModel(1e-12, 0.0, 1.0, 1.0, 1.0),
}


@dataclass(frozen=True)
class Subject:
    """A registered policy with the options it is tested with."""

    name: str
    cls: type[Policy]
    options: dict[str, Any] = field(default_factory=dict)

    def bind(self, layout, **more):
        return get_policy(self.name, layout, **{**self.options, **more})


def walk(policy, batches, layer=0, below=None):
    """Plan one layer over global batches as the engine does; return [(plan, moved), ...]."""
    state = policy.new_state(layer)
    out = []
    for step, loads in enumerate(batches):
        state.step, state.moved = step, None
        state.layer_before = None if below is None else below[step].sum(axis=0)
        plan = policy.plan(loads, state)
        out.append((plan, None if state.moved is None else state.moved.copy()))
        state.previous = loads.sum(axis=0)
        if policy.cadence_steps is not None:
            state.history.add(step, state.previous)
    return out


def plans(policy, batches):
    return [plan for plan, _ in walk(policy, batches)]


def signature(plan):
    """Return everything a plan decides, as plain lists."""
    return [part.tolist() for part in (plan.offsets, plan.rank, plan.slot, plan.quota)]
