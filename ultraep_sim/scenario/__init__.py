"""Scenario files: strict models, a loader with line numbers, overrides, a resolved dump."""

from __future__ import annotations

from ultraep_sim.scenario.load import load_scenario, scenario_from_dict
from ultraep_sim.scenario.schema import (
    EngineSpec,
    EPSpec,
    PolicySpec,
    Scenario,
    SyntheticSpec,
    WorkloadSpec,
)

__all__ = [
    "EPSpec",
    "EngineSpec",
    "PolicySpec",
    "Scenario",
    "SyntheticSpec",
    "WorkloadSpec",
    "load_scenario",
    "scenario_from_dict",
]
