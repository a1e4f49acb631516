"""Read one load matrix from a ``.npy`` file that may be anything at all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ultraep_sim.errors import LoadsError

MAX_BYTES = 1 << 30
_SAVE = "save an integer array [experts] or [source ranks, experts] with numpy.save"


def read_loads(path: str | Path) -> NDArray[Any]:
    """Read the array of a ``.npy`` file without running or allocating what its header asks for.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    ndarray
        Integer, of shape [experts] or [source ranks, experts], not empty, not all zero; signs,
        totals and the fit to a layout are for `ultraep_sim.planning.check_loads`.

    Raises
    ------
    LoadsError
        The file is missing, is no ``.npy`` file, is cut short, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        problem = "no such file" if not path.exists() else "not a regular file"
        raise LoadsError(problem, file=path, place="LOADS", value=str(path), remedy=_SAVE)
    with path.open("rb") as stream:
        array = _read(stream, path)
    _check_content(array, path)
    return array


def _read(stream: BinaryIO, path: Path) -> NDArray[Any]:
    size = path.stat().st_size
    start = stream.read(8)
    if not start:
        raise LoadsError("the file is empty", file=path, place="byte 0", value=b"", remedy=_SAVE)
    if start[:4] == b"PK\x03\x04":
        raise LoadsError(
            "this is an .npz archive",
            file=path,
            place="byte 0",
            value=start[:4],
            remedy="give one of its arrays, saved with numpy.save",
        )
    if start[:6] != npy.MAGIC_PREFIX:
        raise LoadsError("not an .npy file", file=path, place="byte 0", value=start, remedy=_SAVE)
    stream.seek(0)
    shape, fortran, dtype = _header(stream, path)
    _check_header(shape, dtype, path)
    promised = math.prod(shape) * dtype.itemsize
    held = size - stream.tell()
    if promised != held:
        problem = "the file is cut short" if promised > held else "data follows the array"
        raise LoadsError(
            f"{problem}: its header promises {promised} bytes",
            file=path,
            place=f"header, shape {shape}",
            value=held,
            remedy="copy or save it again; one array a file",
        )
    data = np.frombuffer(stream.read(promised), dtype=dtype)
    return data.reshape(shape, order="F" if fortran else "C")


def _header(stream: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(stream)
        if version == (1, 0):
            return npy.read_array_header_1_0(stream)
        # Version 3 differs from 2 by UTF-8 field names only, and fields are refused below.
        return npy.read_array_header_2_0(stream)
    except Exception as error:  # numpy tokenizes and evaluates it: junk fails in many ways
        raise LoadsError(
            "the .npy header is damaged",
            file=path,
            place="header",
            value=str(error),
            remedy=_SAVE,
        ) from error


def _check_header(shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> None:
    if dtype.hasobject:
        raise LoadsError(
            "an array of Python objects is not read (it could run code)",
            file=path,
            place="dtype",
            value=str(dtype),
            remedy="save it as int64: numpy.save(file, array.astype('int64'))",
        )
    if dtype.kind not in "iuf":
        raise LoadsError(
            "loads must be integers", file=path, place="dtype", value=str(dtype), remedy=_SAVE
        )
    if len(shape) not in (1, 2) or any(n < 1 for n in shape):
        raise LoadsError(
            "loads need shape [experts] or [source ranks, experts], none of them empty",
            file=path,
            place="shape",
            value=shape,
            remedy=_SAVE,
        )
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise LoadsError(
            "too large for one layer and micro-batch",
            file=path,
            place="shape",
            value=shape,
            remedy="give the load matrix of one layer; a whole run is a trace",
        )


def _check_content(array: NDArray[Any], path: Path) -> None:
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        bad = np.argwhere(~finite) if not finite.all() else np.argwhere(array != np.rint(array))
        index = tuple(int(i) for i in bad[0]) if len(bad) else (0,) * array.ndim
        raise LoadsError(
            f"loads must be integers, this is {array.dtype}",
            file=path,
            place=f"loads[{', '.join(map(str, index))}]",
            value=float(array[index]),
            remedy="count (token, expert) pairs and save them as int64",
        )
    if not array.any():
        raise LoadsError(
            "zero tokens: there is nothing to plan",
            file=path,
            place="loads",
            value=0,
            remedy="give the counts of a micro-batch that routed at least one token",
        )
