"""Sweeps: a file of axes, its points, where they run, what is stored of them, and searches."""

from .axes import ValueSpec
from .points import Point, expand, resolve, run_point
from .result import SweepResult
from .run import run_sweep
from .spec import PlotSpec, SweepSpec, load_sweep
from .store import Store

__all__ = [
    "PlotSpec",
    "Point",
    "Store",
    "SweepResult",
    "SweepSpec",
    "ValueSpec",
    "expand",
    "load_sweep",
    "resolve",
    "run_point",
    "run_sweep",
]
