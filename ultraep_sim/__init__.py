"""Which expert-load balancer, on which rack, is worth what, under the router's real load.

The public names below are stable. They are loaded on first use, so that
``ultraep_sim.planning`` imports on a machine that has numpy and numba only.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.run import RunResult
    from .engine.run import run_scenario as run
    from .errors import InputError, UltraEPSimError
    from .planning import EPLayout, Plan, plan_many
    from .policies import Policy, available_policies, plan
    from .scenario import Scenario, load_scenario
    from .trace import Trace, load_trace

from ._stale import drop_stale_kernels

__version__ = "0.1.0"

__all__ = [
    "EPLayout",
    "InputError",
    "Plan",
    "Policy",
    "RunResult",
    "Scenario",
    "Trace",
    "UltraEPSimError",
    "available_policies",
    "load_scenario",
    "load_trace",
    "plan",
    "plan_many",
    "run",
]

_HOMES = {
    "EPLayout": (".planning", "EPLayout"),
    "InputError": (".errors", "InputError"),
    "Plan": (".planning", "Plan"),
    "Policy": (".policies", "Policy"),
    "RunResult": (".engine.run", "RunResult"),
    "Scenario": (".scenario", "Scenario"),
    "Trace": (".trace", "Trace"),
    "UltraEPSimError": (".errors", "UltraEPSimError"),
    "available_policies": (".policies", "available_policies"),
    "load_scenario": (".scenario", "load_scenario"),
    "load_trace": (".trace", "load_trace"),
    "plan": (".policies", "plan"),
    "plan_many": (".planning", "plan_many"),
    "run": (".engine.run", "run_scenario"),
}


drop_stale_kernels(Path(__file__).parent)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ultraep_sim' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(import_module(module, __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
