"""Arrays of ``.npy`` and ``.npz`` files, bounded, streamed, and never unpickled."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from .limits import (
    BOMB_BYTES,
    BOMB_RATIO,
    MAX_ARRAY_BYTES,
    MAX_COUNT,
    MAX_FILES,
    check_size,
    damaged,
    read_exact,
    refuse,
)

_MAX_NPY_HEADER = 1 << 16
_BLOCK_BYTES = 8 << 20
_KINDS = "biufUS"  # no objects: reading them would run a pickle


@dataclass(frozen=True, eq=False)
class Array:
    """An array of a file, known by its header; its bytes are read when asked for.

    Attributes
    ----------
    path : Path
    name : str
        Of the member; ``"array"`` where the file is the array.
    shape : tuple of int
    dtype : dtype
        As `load` gives it. bfloat16 is widened to float32, which is exact.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _load: Callable[[], NDArray[Any]]
    _stream: Callable[[], AbstractContextManager[BinaryIO]] | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def load(self) -> NDArray[Any]:
        """Return the whole array.

        Raises
        ------
        TraceError
            If it is too large to be held, or damaged.
        """
        check_size(self.nbytes, self.path, self.name)
        with damaged(self.path):
            return self._load()

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield the array along its first axis in blocks of some megabytes.

        Raises
        ------
        TraceError
            If it is damaged.
        """
        row = self.nbytes // max(self.shape[0], 1)
        check_size(row, self.path, f"{self.name}, one row")
        rows = max(1, _BLOCK_BYTES // max(row, 1))
        if self._stream is None:
            whole = self.load()
            yield from (whole[at : at + rows] for at in range(0, len(whole), rows))
            return
        with damaged(self.path):
            opened = self._stream()
        with opened as stream:
            for first in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - first)
                with damaged(self.path):
                    held = read_exact(stream, count * row, self.path, self.name)
                    block = np.frombuffer(held, self.dtype).reshape(count, *self.shape[1:])
                yield block
            with damaged(self.path):
                stream.read(1)  # an archive checks its checksum at the end


def text_of(array: Array) -> str:
    """Return the text of a 0-d or one-element member (metadata as JSON).

    Raises
    ------
    TraceError
        If it holds something else.
    """
    if array.dtype.kind not in "US" or math.prod(array.shape) != 1:
        refuse("is not one text", array.path, array.name, f"{array.dtype} {array.shape}")
    value = array.load().reshape(()).item()
    with damaged(array.path):
        return value.decode() if isinstance(value, bytes) else str(value)


def read_npy(path: Path) -> Array:
    """Describe the array of a ``.npy`` file.

    Raises
    ------
    TraceError
        If it is damaged, holds objects, or does not have the size it claims.
    """

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with path.open("rb") as stream:
            yield stream

    with damaged(path):
        return _describe(path, "array", opened, path.stat().st_size)


def read_npz(path: Path) -> dict[str, Array]:
    """Describe the arrays of a ``.npz`` file; other members are refused.

    Raises
    ------
    TraceError
        As `read_npy`; also for archives that unpack to absurd sizes.
    """
    found = {}
    with damaged(path), zipfile.ZipFile(path) as archive:
        for info in safe_members(archive, path):
            name = info.filename
            if not name.endswith(".npy"):
                refuse("is no array", path, f"member {name}", remedy="give a plain .npz file")

            @contextmanager
            def opened(name: str = name) -> Iterator[BinaryIO]:
                with zipfile.ZipFile(path) as again, again.open(name) as stream:
                    yield stream  # type: ignore[misc]  # IO[bytes] is what BinaryIO is here

            key = name.removesuffix(".npy")
            found[key] = _describe(path, key, opened, info.file_size)
    return found


def safe_members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """List the members after checking that each can be what it claims.

    Raises
    ------
    TraceError
        If there are too many, one is there twice, or one unpacks to more than its bytes allow.
    """
    members = archive.infolist()
    if len(members) > MAX_FILES:
        refuse("has too many members", path, "archive", len(members))
    if len({info.filename for info in members}) != len(members):
        refuse("has two members of one name", path, "archive")
    size = path.stat().st_size
    for info in members:
        place = f"member {info.filename}"
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            refuse("is compressed in an unusual way", path, place, info.compress_type)
        stored = info.compress_type == zipfile.ZIP_STORED
        if info.compress_size > size or (stored and info.file_size != info.compress_size):
            refuse("claims more bytes than the file has", path, place, info.file_size)
        if info.file_size > max(BOMB_BYTES, BOMB_RATIO * info.compress_size):
            refuse(
                f"unpacks to more than {BOMB_RATIO} times its size",
                path,
                place,
                info.file_size,
                "this looks like a zip bomb; save it without compression if it is not",
            )
    return members


def _describe(
    path: Path, name: str, opened: Callable[[], AbstractContextManager[BinaryIO]], size: int
) -> Array:
    with opened() as stream:
        shape, fortran, dtype, start = _header(stream, path, name)
    if dtype.hasobject or dtype.kind not in _KINDS:
        refuse(
            "holds Python objects or an unusual type",
            path,
            name,
            str(dtype),
            "save plain integers, numbers or text; objects are never unpickled",
        )
    if any(not isinstance(n, int) or n < 0 for n in shape):
        refuse("has an impossible shape", path, name, shape)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != size - start:
        refuse(
            f"claims {claimed} bytes of data", path, f"{name}, shape {shape}", max(size - start, 0)
        )

    @contextmanager
    def data() -> Iterator[BinaryIO]:
        with opened() as stream:
            read_exact(stream, start, path, name)
            yield stream

    def load() -> NDArray[Any]:
        with data() as stream:
            held = read_exact(stream, claimed, path, name)
            stream.read(1)
        return np.frombuffer(held, dtype).reshape(shape, order="F" if fortran else "C")

    return Array(path, name, shape, dtype, load, None if fortran else data)


def _header(
    stream: BinaryIO, path: Path, name: str
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read shape, order, type and the length of the header."""
    version = npy.read_magic(stream)
    lead = 2 if version == (1, 0) else 4
    length = bytes(read_exact(stream, lead, path, name))
    size = int.from_bytes(length, "little")
    check_size(size, path, f"{name}, header", _MAX_NPY_HEADER)
    text = bytes(read_exact(stream, size, path, name))
    try:
        whole = io.BytesIO(length + text)
        # Version 3 differs from 2 by UTF-8 field names only, and fields are refused.
        read = npy.read_array_header_1_0 if lead == 2 else npy.read_array_header_2_0
        shape, fortran, dtype = read(whole)
    except Exception as error:  # numpy evaluates a literal: junk fails in many ways
        refuse("the array header is damaged", path, name, str(error))
    return shape, fortran, dtype, 6 + 2 + lead + size


def int_array(array: Array, ndim: int, meaning: str) -> NDArray[np.int64]:
    """Load an array of whole numbers as int64.

    Parameters
    ----------
    array : Array
    ndim : int
        Axes it must have.
    meaning : str
        Names its axes in the error, ``"[layers, experts]"``.

    Raises
    ------
    TraceError
        If it has other axes or does not hold whole numbers below 2^44.
    """
    check_ints(array, ndim, meaning)
    check_size(math.prod(array.shape) * 8, array.path, array.name, MAX_ARRAY_BYTES)
    return whole_numbers(array.load(), array.path, array.name)


def check_ints(array: Array, ndim: int, meaning: str) -> None:
    """Refuse an array that cannot be whole numbers with so many axes.

    Raises
    ------
    TraceError
        If it cannot.
    """
    if array.ndim != ndim or array.dtype.kind not in "iuf" or 0 in array.shape:
        refuse(
            f"must be whole numbers {meaning}",
            array.path,
            array.name,
            f"{array.dtype} {list(array.shape)}",
            "this is not the array that this format writes",
        )


def whole_numbers(values: NDArray[Any], path: Path, name: str) -> NDArray[np.int64]:
    """Return the values as int64; floats must be whole (torch sums counts in float32).

    Raises
    ------
    TraceError
        If a value is not whole or is too large.
    """
    if values.dtype.kind == "f":
        flat = values.astype(np.float64, copy=False)
        bad = ~np.isfinite(flat)
        if not bad.any():
            bad = (flat != np.rint(flat)) | (np.abs(flat) >= MAX_COUNT)
        if bad.any():
            refuse(
                "a count is not a whole number",
                path,
                name,
                float(flat[bad][0]),
                "give counts of (token, expert) pairs, not shares or averages",
            )
    elif values.dtype.kind not in "iu":
        refuse("is not numbers", path, name, str(values.dtype))
    worst = max(int(values.max()), -int(values.min())) if values.size else 0
    if worst >= MAX_COUNT:
        refuse("a number is too large", path, name, worst)
    return values.astype(np.int64)
