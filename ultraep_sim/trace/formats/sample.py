"""What a file is, told from its bytes: the name plays no part."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .arrays import Array, read_npy, read_npz, text_of
from .json_file import parse_json, read_json, read_lines
from .limits import MAX_TEXT_BYTES, damaged, refusal, refuse
from .safetensors_file import read_safetensors
from .torch_file import read_torch

_FIRST_LINE = 8 << 20


@dataclass(frozen=True)
class Sample:
    """A file and, once asked for, what its container holds.

    Attributes
    ----------
    path : Path
    kind : {"parquet", "npy", "npz", "torch", "safetensors", "json", "jsonl"}
    """

    path: Path
    kind: str

    @classmethod
    def of(cls, path: Path) -> Sample:
        """Tell what kind of container a file is.

        Raises
        ------
        TraceError
            If it is no regular file or of no kind that is read.
        """
        with damaged(path):
            if not path.is_file():
                problem = "is not a regular file" if path.exists() else "no such file or folder"
                refuse(problem, path, "input", remedy="give a dump, a folder of dumps or a trace")
            with path.open("rb") as stream:
                start = stream.read(64)
            return cls(path, _kind(path, start))

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """Named arrays: members of an npz, tensors of safetensors or of a torch dictionary."""
        if self.kind == "npy":
            return {"": read_npy(self.path)}
        if self.kind == "npz":
            return read_npz(self.path)
        if self.kind == "safetensors":
            return read_safetensors(self.path)
        if self.kind == "torch":
            tree = self.tree
            if isinstance(tree, Array):
                return {"": tree}
            if isinstance(tree, dict):
                return {str(k): v for k, v in tree.items() if isinstance(v, Array)}
        return {}

    @cached_property
    def tree(self) -> Any:
        """The object of a ``.pt`` file or the document of a JSON file; else None."""
        if self.kind == "torch":
            return read_torch(self.path)
        return read_json(self.path) if self.kind == "json" else None

    @property
    def members(self) -> dict[str, Any]:
        """The top level of a dictionary: of a document, a ``.pt`` file, or the first line."""
        found = self.first_line if self.kind == "jsonl" else self.tree
        return found if isinstance(found, dict) else {}

    @cached_property
    def first_line(self) -> dict[str, Any]:
        """First object of JSON lines."""
        return next((value for _, value in read_lines(self.path)), {})

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield number and object of every JSON line; a single object is the only line."""
        if self.kind == "json":
            yield 1, self.members
        elif self.kind == "jsonl":
            yield from read_lines(self.path)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """JSON object in a text member ``metadata`` or ``meta`` of an npz; else empty."""
        for name in ("metadata", "meta"):
            array = self.arrays.get(name)
            if array is not None and array.dtype.kind in "US":
                value = parse_json(text_of(array), self.path, name)
                if not isinstance(value, dict):
                    refuse("is not a JSON object", self.path, name, value)
                return value
        return {}


def _kind(path: Path, start: bytes) -> str:
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return "torch" if any(name.endswith("/data.pkl") for name in names) else "npz"
    # The header's length, little-endian and far below 2^56, then the header.
    if start[7:9] == b"\0{":
        return "safetensors"
    text = start.lstrip(b" \t\r\n\xef\xbb\xbf")
    if text.startswith((b"{", b"[")):
        return _json_kind(path)
    if start.startswith(b"\x80"):
        refuse(
            "is a bare pickle, which could run code and is never read",
            path,
            "byte 0",
            start[:4],
            "save it with torch.save of torch 1.6 or newer, numpy.savez or safetensors",
        )
    raise refusal(
        "is of no kind that is read",
        path,
        "byte 0",
        start[:8],
        "give .parquet, .npz, .npy, .pt, .safetensors, .json or .jsonl content",
    )


def _json_kind(path: Path) -> str:
    """JSON lines have a whole object in the first line and more after it."""
    with path.open("rb") as stream:
        line = b""
        while not line.strip():
            line = stream.readline(MAX_TEXT_BYTES)
            if not line:
                return "json"
        if len(line) > _FIRST_LINE and line[-1:] != b"\n":
            return "json"
        if not stream.read(64).strip():
            return "json"  # readers of lines take a single object as their only line
    try:
        whole = isinstance(parse_json(line, path, "line 1"), dict)
    except ValueError:  # TraceError is one
        whole = False
    return "jsonl" if whole else "json"
