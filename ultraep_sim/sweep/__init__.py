"""Grids of runs: a sweep file, its points, their rows, and a plot."""

from .grid import Point, SweepResult, check_points, expand, run_point, run_sweep
from .spec import PlotSpec, SweepSpec, load_sweep

__all__ = [
    "PlotSpec",
    "Point",
    "SweepResult",
    "SweepSpec",
    "check_points",
    "expand",
    "load_sweep",
    "run_point",
    "run_sweep",
]
