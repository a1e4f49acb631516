"""Record the routing of a running model: hooks, a small model to train, a command.

Importing this needs numpy and torch; pyarrow only when a trace is written, transformers only
for ``python -m hw_runtime record hf``.
"""

from hw_runtime.record.recorder import RouterRecorder
from hw_runtime.record.routers import RecordError, Router, find_routers
from hw_runtime.record.sources import Sources

__all__ = ["RecordError", "Router", "RouterRecorder", "Sources", "find_routers"]
