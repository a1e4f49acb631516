"""Layouts, plans and the quota planner: integers in, integers out; no file, no clock.

Imports numpy and numba only, so that locked-down GPU machines can run it.
"""

from .batch import PlanBatch, plan_many
from .layout import EPLayout, default_home
from .loads import MAX_TOTAL, check_loads, expert_loads, spread_evenly
from .mosaic_solver import MosaicOptions, MosaicSolver
from .plan import Plan
from .quota import QuotaOptions, QuotaSolver, Solution
from .relay import relay_tree
from .reroute import split_tokens
from .stats import LoadStats, StatsBuilder

__all__ = [
    "MAX_TOTAL",
    "EPLayout",
    "LoadStats",
    "MosaicOptions",
    "MosaicSolver",
    "Plan",
    "PlanBatch",
    "QuotaOptions",
    "QuotaSolver",
    "Solution",
    "StatsBuilder",
    "check_loads",
    "default_home",
    "expert_loads",
    "plan_many",
    "relay_tree",
    "split_tokens",
    "spread_evenly",
]
