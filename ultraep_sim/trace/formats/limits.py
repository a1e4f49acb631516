"""How much a foreign file may ask for, and errors for files that ask for more or are damaged.

A reader allocates only what the bytes of the file can hold; these limits also stop files that
really hold absurd amounts (a zip bomb does).
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ...errors import InputError, TraceError

MAX_ARRAY_BYTES = 2 << 30
"""Largest array that is read whole; record arrays stream and may be larger."""

MAX_TEXT_BYTES = 256 << 20
"""Largest JSON document, JSON line, header or pickle."""

MAX_COUNT = 1 << 44
"""Largest number in a dump; sums of 2^18 of them still fit int64."""

MAX_FILES = 65_536
"""Most members of an archive, files of a folder, tensors of a file."""

BOMB_BYTES, BOMB_RATIO = 64 << 20, 200
"""A member that unpacks to more bytes than this *and* more than so many times its size is refused.

Deflate cannot pass a ratio of 1032; counts that are mostly zero reach about 100.
"""

_READ = 16 << 20
_DAMAGED = "the file is damaged or cut short; copy or dump it again"
_ABSURD = "the header claims more than any real dump holds; the file is damaged or hostile"


def refuse(
    problem: str,
    path: Path,
    place: str,
    value: Any = ...,
    remedy: str = _DAMAGED,
) -> NoReturn:
    """Raise the `TraceError` of a foreign file.

    Raises
    ------
    TraceError
        Always.
    """
    raise refusal(problem, path, place, value, remedy)


def refusal(
    problem: str,
    path: Path,
    place: str,
    value: Any = ...,
    remedy: str = _DAMAGED,
) -> TraceError:
    """Return the `TraceError` of a foreign file, to be raised."""
    given = {} if value is ... else {"value": value}
    return TraceError(problem, file=path, place=place, remedy=remedy, **given)


def check_size(size: int, path: Path, place: str, limit: int = MAX_ARRAY_BYTES) -> None:
    """Refuse what claims more bytes than the limit.

    Raises
    ------
    TraceError
        If it does.
    """
    if size > limit:
        refuse(f"claims more than the {limit} bytes allowed", path, place, size, _ABSURD)


def read_exact(stream: BinaryIO, size: int, path: Path, place: str) -> bytearray:
    """Read ``size`` bytes, growing with what is really there instead of with what is claimed.

    Raises
    ------
    TraceError
        If the stream ends before.
    """
    held = bytearray()
    while len(held) < size:
        piece = stream.read(min(_READ, size - len(held)))
        if not piece:
            refuse(f"ends after {len(held)} of {size} bytes", path, place)
        held += piece
    return held


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Turn what damaged archives make the standard library raise into one line.

    Raises
    ------
    TraceError
        Instead of any of these.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise TraceError("no such file or folder", file=path, remedy="check the path") from None
    except PermissionError:
        raise TraceError("cannot be read", file=path, remedy="check its permissions") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        OSError,
        ValueError,  # JSON, UTF-8, numpy and pickletools
        TypeError,
        KeyError,
        IndexError,
        OverflowError,
        NotImplementedError,  # a compression that the standard library lacks
        RuntimeError,  # an encrypted member; RecursionError too
        MemoryError,
        SyntaxError,  # numpy evaluates its header as a literal
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TraceError("cannot be read", file=path, value=reason, remedy=_DAMAGED) from None
