"""``.safetensors`` files: 8 bytes of header length, a JSON header, the tensors' bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .arrays import Array
from .json_file import parse_json
from .limits import MAX_FILES, MAX_TEXT_BYTES, check_size, damaged, read_exact, refuse
from .torch_file import widen_bfloat16

_DTYPES = {
    "BOOL": "|b1",
    "U8": "<u1",
    "I8": "<i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "BF16": "<u2",
    "F32": "<f4",
    "F64": "<f8",
}


def read_safetensors(path: Path) -> dict[str, Array]:
    """Describe the tensors of a file; their bytes are read when asked for.

    Raises
    ------
    TraceError
        If the header is damaged or a tensor does not lie inside the file.
    """
    with damaged(path), path.open("rb") as stream:
        size = path.stat().st_size
        length = int.from_bytes(read_exact(stream, 8, path, "header length"), "little")
        check_size(length, path, "header", min(MAX_TEXT_BYTES, max(size - 8, 0)))
        header = parse_json(bytes(read_exact(stream, length, path, "header")), path, "header")
    if not isinstance(header, dict) or len(header) > MAX_FILES:
        refuse("is not a list of tensors", path, "header")
    header.pop("__metadata__", None)
    start = 8 + length
    return {name: _tensor(path, name, entry, start, size - start) for name, entry in header.items()}


def _tensor(path: Path, name: str, entry: Any, start: int, room: int) -> Array:
    entry = entry if isinstance(entry, dict) else {}
    kind, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(kind, str) or kind not in _DTYPES:
        refuse("has an unknown type", path, f"tensor {name}", kind)
    good = _counts(shape) and _counts(span) and len(span) == 2 and len(shape) <= 8
    stored = np.dtype(_DTYPES[kind])
    if not good or not span[0] <= span[1] <= room:
        refuse("does not lie inside the file", path, f"tensor {name}", span)
    if math.prod(shape) * stored.itemsize != span[1] - span[0]:
        refuse("has not the bytes of its shape", path, f"tensor {name}", shape)

    @contextmanager
    def data() -> Iterator[BinaryIO]:
        with path.open("rb") as stream:
            stream.seek(start + span[0])
            yield stream

    def load() -> NDArray[Any]:
        with data() as stream:
            held = read_exact(stream, span[1] - span[0], path, f"tensor {name}")
        flat = np.frombuffer(held, stored).reshape(shape)
        return widen_bfloat16(flat) if kind == "BF16" else flat

    if kind == "BF16":
        return Array(path, name, tuple(shape), np.dtype(np.float32), load)
    return Array(path, name, tuple(shape), stored, load, data)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(x, int) and not isinstance(x, bool) and 0 <= x < 2**62 for x in value
    )
