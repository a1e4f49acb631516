"""Balancing policies: one file each under one contract, found by name or entry point."""

from .api import plan
from .base import CostModel, DecisionPrice, History, Policy, PolicyState
from .registry import available_policies, get_policy

__all__ = [
    "CostModel",
    "DecisionPrice",
    "History",
    "Policy",
    "PolicyState",
    "available_policies",
    "get_policy",
    "plan",
]
