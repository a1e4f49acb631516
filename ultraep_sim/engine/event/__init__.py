"""The event engine: SimPy processes, the unit of work a phase of a rank."""

from .kernels import SpanSink
from .run import run_event

__all__ = ["SpanSink", "run_event"]
