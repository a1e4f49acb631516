"""Recorded arrivals, one file a format, recognised by content and never by name."""

from .container import Arrivals, Blocks
from .read import read_arrivals

__all__ = ["Arrivals", "Blocks", "read_arrivals"]
