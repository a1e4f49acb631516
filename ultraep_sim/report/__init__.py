"""Tables and plots. Everything here reads results and changes none."""

from __future__ import annotations

from ultraep_sim.report.results import RunDirectory, read_run
from ultraep_sim.report.tables import finding, results_table

__all__ = ["RunDirectory", "finding", "read_run", "results_table"]
