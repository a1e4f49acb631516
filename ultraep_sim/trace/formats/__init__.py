"""Foreign formats of routing dumps, one file each, recognised by content and read without trust.

Nothing in a file is ever run: arrays of objects and pickles that ask for more than tensors are
refused. What a header claims is compared with the bytes that are there before anything is allocated
in its name.
"""

from __future__ import annotations

from .dump import Dump, DumpMeta, Observed, RawRecord, ReadOptions
from .registry import FORMATS, WRITABLE, Format, get_format, recognise
from .sample import Sample
from .series import join, open_dump

__all__ = [
    "FORMATS",
    "WRITABLE",
    "Dump",
    "DumpMeta",
    "Format",
    "Observed",
    "RawRecord",
    "ReadOptions",
    "Sample",
    "get_format",
    "join",
    "open_dump",
    "recognise",
]
