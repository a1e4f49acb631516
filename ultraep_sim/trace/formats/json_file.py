"""JSON documents and JSON lines, bounded, without constants that JSON does not have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .arrays import whole_numbers
from .limits import MAX_TEXT_BYTES, check_size, damaged, refuse


def parse_json(text: bytes | str, path: Path, place: str) -> Any:
    """Parse one document.

    Raises
    ------
    TraceError
        If it is no JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    # Deep nesting raises RecursionError; undecodable bytes and bad JSON are ValueErrors.
    except (ValueError, RecursionError) as error:
        refuse("is not JSON", path, place, str(error))


def read_json(path: Path) -> Any:
    """Read a file that is one document.

    Raises
    ------
    TraceError
        If it is too large or no JSON.
    """
    with damaged(path):
        check_size(path.stat().st_size, path, "document", MAX_TEXT_BYTES)
        return parse_json(path.read_bytes(), path, "document")


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number (from 1) and object of each line that is not blank, streamed.

    Raises
    ------
    TraceError
        If a line is no JSON object.
    """
    with damaged(path):
        stream = path.open("rb")
    with stream:
        number = 0
        while True:
            with damaged(path):
                line = stream.readline(MAX_TEXT_BYTES + 1)
            if not line:
                return
            number += 1
            check_size(len(line), path, f"line {number}", MAX_TEXT_BYTES)
            if line.strip():
                value = parse_json(line, path, f"line {number}")
                if not isinstance(value, dict):
                    refuse("is not a JSON object", path, f"line {number}", value)
                yield number, value


def json_counts(value: Any, ndim: int, path: Path, place: str) -> NDArray[np.int64]:
    """Return nested lists of whole numbers as int64 with ``ndim`` axes.

    Raises
    ------
    TraceError
        If they are uneven, of other depth, empty, or hold anything else.
    """
    # As objects first: beside one long text, numpy would give every number its width.
    held = np.array(value, dtype=object)
    kinds = set(map(type, held.ravel())) if held.ndim == ndim else set()
    array = _numbers(held) if kinds and kinds <= {int, float} else None
    if array is None:
        refuse(
            f"must be lists of whole numbers, {ndim} deep and even",
            path,
            place,
            value,
            "this is not what this format writes",
        )
    return whole_numbers(array, path, place)


def _numbers(array: NDArray[Any]) -> NDArray[Any] | None:
    try:
        kind = np.float64 if float in set(map(type, array.ravel())) else np.int64
        return array.astype(kind)
    except OverflowError:
        return None


def json_int(members: dict[str, Any], *names: str, path: Path, place: str) -> int | None:
    """Return the first of the named members that is there, a whole number from 0; else None.

    Raises
    ------
    TraceError
        If it is there and something else.
    """
    for name in names:
        value = members.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            refuse(f"{name} must be a whole number from 0", path, place, value)
        return value
    return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
