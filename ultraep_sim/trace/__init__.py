"""Recorded routing: the Trace, its Parquet file, statistics, pictures and synthesis.

Importing this package is light: pyarrow, numba and matplotlib are imported when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .container import Record, Trace
from .meta import FORMAT_VERSION, TraceMeta
from .parquet import TraceWriter, load_trace

if TYPE_CHECKING:
    from .heatmap import save_heatmap
    from .rescale import rescale_rows
    from .sources import resource_rows, spread_row
    from .stats import Check, LayerStats, Spread, TraceStats, trace_stats
    from .synth import synthesize
    from .synth_closeness import closeness
    from .synth_like import synthesize_like

__all__ = [
    "FORMAT_VERSION",
    "Check",
    "LayerStats",
    "Record",
    "Spread",
    "Trace",
    "TraceMeta",
    "TraceStats",
    "TraceWriter",
    "closeness",
    "load_trace",
    "rescale_rows",
    "resource_rows",
    "save_heatmap",
    "spread_row",
    "synthesize",
    "synthesize_like",
    "trace_stats",
]

_LAZY = {
    "Check": "stats",
    "LayerStats": "stats",
    "Spread": "stats",
    "TraceStats": "stats",
    "rescale_rows": "rescale",
    "closeness": "synth_closeness",
    "resource_rows": "sources",
    "save_heatmap": "heatmap",
    "spread_row": "sources",
    "synthesize": "synth",
    "synthesize_like": "synth_like",
    "trace_stats": "stats",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
