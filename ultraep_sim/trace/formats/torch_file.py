"""``.pt`` files as ``torch.save`` writes them, read without torch."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, safe_members
from .limits import MAX_TEXT_BYTES, check_size, damaged, read_exact, refuse
from .pickled import TensorPlace, read_pickle

_MAX_DEPTH = 6


def read_torch(path: Path) -> Any:
    """Read the object of a ``.pt`` file.

    Parameters
    ----------
    path : Path
        A zip archive with members ``<name>/data.pkl`` and ``<name>/data/<key>``: the format of
        ``torch.save`` since torch 1.6, little-endian.

    Returns
    -------
    object
        Dictionaries, lists, tuples, texts and numbers, with an `Array` for every tensor.

    Raises
    ------
    TraceError
        If it is damaged, or its pickle asks for anything but these (nothing is ever run).
    """
    with damaged(path):
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in safe_members(archive, path)}
            pickles = [name for name in members if name.count("/") == 1 and name[-8:] == "data.pkl"]
            if len(pickles) != 1:
                refuse("has not exactly one data.pkl", path, "archive", len(pickles))
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}byteorder" in members:
                order = _member(archive, members[f"{root}byteorder"], path)
                if order.strip() != b"little":
                    refuse("is not little-endian", path, "byteorder", order[:16])
            value = read_pickle(_member(archive, members[pickles[0]], path), path)
        sizes = {name: info.file_size for name, info in members.items()}
        return _with_arrays(value, path, root, sizes, {}, _MAX_DEPTH)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    check_size(info.file_size, path, f"member {info.filename}", MAX_TEXT_BYTES)
    with archive.open(info) as stream:
        found = read_exact(stream, info.file_size, path, info.filename)  # type: ignore[arg-type]  # IO[bytes] is what BinaryIO is here
        stream.read(1)
    return bytes(found)


def _with_arrays(
    value: Any, path: Path, root: str, sizes: dict[str, int], done: dict[int, Any], depth: int
) -> Any:
    """Replace tensor descriptions; values that a pickle shares are visited once."""
    if isinstance(value, TensorPlace):
        return _array(value, path, root, sizes)
    if not isinstance(value, (dict, list, tuple)):
        return value
    if depth == 0:
        refuse("is nested too deeply", path, "pickle", remedy="save plain tensors")
    key = id(value)
    if key not in done:
        done[key] = None  # a container inside itself has no content there
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        made = {at: _with_arrays(x, path, root, sizes, done, depth - 1) for at, x in inner}
        done[key] = made if isinstance(value, dict) else type(value)(made.values())
    return done[key]


def _array(place: TensorPlace, path: Path, root: str, sizes: dict[str, int]) -> Array:
    storage = place.storage
    narrow = storage.dtype == "bfloat16"
    stored = np.dtype("<u2" if narrow else storage.dtype)
    name = f"{root}data/{storage.key}"
    if sizes.get(name) != storage.elements * stored.itemsize:
        refuse("a storage has not the bytes it claims", path, name, storage.elements)

    def load() -> NDArray[Any]:
        check_size(sizes[name], path, name)
        with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            held = read_exact(stream, sizes[name], path, name)  # type: ignore[arg-type]  # IO[bytes] is what BinaryIO is here
            stream.read(1)
        flat = np.frombuffer(held, stored)[place.offset :]
        strides = [step * stored.itemsize for step in place.stride]
        # The bounds were checked when the pickle was read.
        view = np.lib.stride_tricks.as_strided(flat, place.shape, strides, writeable=False)
        return widen_bfloat16(view) if narrow else view.copy()

    dtype = np.dtype(np.float32) if narrow else stored
    return Array(path, name, place.shape, dtype, load)


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return float32 of bfloat16 bits: the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
