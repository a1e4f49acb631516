"""Integers as text in a page: exact, small, and quick to read back in a browser.

An array is turned into differences to the value ``lag`` places before, zigzag-coded so that small
differences of either sign are small numbers, cut into byte planes (all lowest bytes first), and
deflated together with its neighbours. ``viewer/decode.js`` reads it.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Entry = list[int]


class Pack:
    """Integer arrays that travel together.

    Attributes
    ----------
    index : dict of str to list of int
        By name: offset in bytes, number of values, bytes a value, lag. For the manifest.
    """

    def __init__(self) -> None:
        self.index: dict[str, Entry] = {}
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, name: str, values: ArrayLike, lag: int = 0) -> None:
        """Append an array of integers from 0 to 2^31 - 1, flattened.

        Parameters
        ----------
        name : str
        values : array_like of int
        lag : int
            Distance of the value that is most like each: 1 for a sorted list, the row length
            where a row is like the row before; 0 for none.
        """
        raw = _planes(np.asarray(values).ravel(), lag)
        width, count = raw.shape
        self.index[name] = [self._size, count, width, lag]
        self._parts.append(raw.tobytes())
        self._size += raw.size

    def text(self) -> str:
        """Return everything, deflated, in base64."""
        # Raw deflate, as DecompressionStream("deflate-raw") wants it.
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        squeezed = packer.compress(b"".join(self._parts)) + packer.flush()
        return base64.b64encode(squeezed).decode("ascii")


def unpack(text: str, index: dict[str, Entry]) -> dict[str, NDArray[np.int64]]:
    """Read back what a `Pack` wrote, as the page does; for tests and other readers of a page."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(text), -15), np.uint8)
    return {name: _values(raw, entry) for name, entry in index.items()}


def _planes(values: NDArray[Any], lag: int) -> NDArray[np.uint8]:
    change = values.astype(np.int64)
    if lag:
        change[lag:] = change[lag:] - values[:-lag].astype(np.int64)
    coded = (change << 1) ^ (change >> 63)
    top = int(coded.max(initial=0))
    if top >= 2**32:
        raise OverflowError(f"{top} does not fit four bytes")
    width = max(1, (top.bit_length() + 7) // 8)
    columns = coded.astype("<u4").view(np.uint8).reshape(-1, 4)
    return np.ascontiguousarray(columns[:, :width].T)


def _values(raw: NDArray[np.uint8], entry: Entry) -> NDArray[np.int64]:
    offset, count, width, lag = entry
    planes = raw[offset : offset + width * count].reshape(width, count).astype(np.int64)
    coded = (planes << (8 * np.arange(width))[:, None]).sum(axis=0)
    values = (coded >> 1) ^ -(coded & 1)
    for start in range(min(lag, count)):
        values[start::lag] = np.cumsum(values[start::lag])
    return np.asarray(values)
