"""Record the routing of a running model: hooks, a small model to train, a command.

The names below need numpy and torch, and import them when first used; pyarrow is needed only when
a trace is written, transformers only for ``python -m hw_runtime record hf``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hw_runtime.record.errors import RecordError

if TYPE_CHECKING:
    from hw_runtime.record.recorder import RouterRecorder
    from hw_runtime.record.routers import Router, find_routers
    from hw_runtime.record.sources import Sources

__all__ = ["RecordError", "Router", "RouterRecorder", "Sources", "find_routers"]

_LAZY = {
    "Router": "routers",
    "RouterRecorder": "recorder",
    "Sources": "sources",
    "find_routers": "routers",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
