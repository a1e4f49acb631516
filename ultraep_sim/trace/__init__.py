"""Recorded routing: the Trace, its Parquet file, statistics, pictures and synthesis.

Importing this package is light: pyarrow, numba and matplotlib are imported when they are used.
"""

from __future__ import annotations

from .container import Record, Trace
from .meta import FORMAT_VERSION, TraceMeta
from .parquet import TraceWriter, load_trace

__all__ = [
    "FORMAT_VERSION",
    "Record",
    "Trace",
    "TraceMeta",
    "TraceWriter",
    "load_trace",
]
