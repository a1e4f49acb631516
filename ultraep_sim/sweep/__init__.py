"""Grids of runs: a sweep file, its points, their rows, and a plot."""

from .grid import Point, SweepResult, expand, run_point, run_sweep
from .spec import PlotSpec, SweepSpec, load_sweep

__all__ = [
    "PlotSpec",
    "Point",
    "SweepResult",
    "SweepSpec",
    "expand",
    "load_sweep",
    "run_point",
    "run_sweep",
]
