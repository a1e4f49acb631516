"""The directory of a sweep: one Parquet part a point, named by the point's key.

A part is written beside its name and renamed, so a killed run leaves whole parts and at most some
``.tmp`` files, and since a point has one name, none stands there twice. Parts of points that the
sweep no longer has (other code, other traces, other axes) stay, and count for nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError
from .points import Row

FORMAT = 1
_META = b"ultraep_sim.sweep"
_FAILED = ".failed.json"
_MANIFEST = "sweep.json"


@dataclass(frozen=True)
class Part:
    """What is stored of a point.

    Attributes
    ----------
    key : str
    rows : list of dict
        Empty where it failed.
    error : str or None
    read : dict of str to float
        In a draw: the numbers that were drawn and read, by what they are.
    """

    key: str
    rows: list[Row]
    error: str | None = None
    read: dict[str, float] | None = None


class Store:
    """Parts of a sweep in a directory.

    Parameters
    ----------
    directory : str or Path
        Made, with its parents, when something is written.

    Raises
    ------
    InputError
        Another version of this package, whose parts mean something else, has written there.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.parts = self.directory / "parts"
        self.traces = self.directory / "traces"
        manifest = self._manifest()
        if manifest is not None and manifest.get("format") != FORMAT:
            raise InputError(
                "the results of another version of ultraep-sim",
                file=self.directory / _MANIFEST,
                place="format",
                value=manifest.get("format"),
                remedy=f"this one reads format {FORMAT}: export them with the version that made "
                "them, or name another directory with --out",
            )

    @property
    def manifest(self) -> dict[str, Any]:
        """What `open` wrote down.

        Raises
        ------
        InputError
            There is no sweep in the directory.
        """
        found = self._manifest()
        if found is None:
            raise InputError(
                "there is no sweep here", file=self.directory, value=str(self.directory),
                remedy=f"name a directory with a {_MANIFEST}, such as runs/<name of a sweep file>",
            )  # fmt: skip
        return found

    def _manifest(self) -> dict[str, Any] | None:
        file = self.directory / _MANIFEST
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot be read: {error}", file=file, remedy="remove it; the parts are whole"
            ) from error
        return found if isinstance(found, dict) else {}

    @contextmanager
    def open(self, manifest: dict[str, Any]) -> Iterator[None]:
        """Hold the directory for writing; one process at a time.

        Raises
        ------
        InputError
            It cannot be written, or another process holds it.
        """
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            with (self.directory / ".lock").open("a") as lock:
                self._hold(lock)
                for left in self.parts.glob("*.tmp"):
                    left.unlink(missing_ok=True)
                for half in self.traces.glob("*.tmp"):
                    shutil.rmtree(half, ignore_errors=True)
                text = json.dumps({"format": FORMAT} | manifest, indent=2, default=str)
                _replace(self.directory / _MANIFEST, (text + "\n").encode())
                yield
        except OSError as error:
            raise self._unwritable(error) from error

    def _hold(self, lock: Any) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                "another run of a sweep is writing here",
                file=self.directory,
                remedy="wait until it ends, or give another directory with --out",
            ) from error

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"cannot be written: {error.strerror or error}",
            file=error.filename or self.directory,
            remedy="give a directory with room that you may write to (--out); "
            "all points that are stored stay, and the same command goes on from there",
        )

    def add(self, part: Part) -> Part:
        """Store a point's rows, or why it has none; return it as it will be read back."""
        said: dict[str, Any] = {"key": part.key}
        if part.read:
            said["read"] = part.read
        failed = self.parts / f"{part.key}{_FAILED}"
        if part.error is not None:
            _replace(failed, json.dumps(said | {"error": part.error}).encode())
            return part
        table = pa.Table.from_pylist(part.rows)
        table = table.replace_schema_metadata({_META: json.dumps(said).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        _replace(self.parts / f"{part.key}.parquet", sink.getvalue())
        failed.unlink(missing_ok=True)
        return Part(part.key, table.to_pylist(), read=part.read)

    def done(self) -> set[str]:
        """Return the keys of the parts that hold rows."""
        return {file.stem for file in self.parts.glob("*.parquet")}

    def failed(self) -> dict[str, str]:
        """Return why points failed, by key."""
        found = {}
        for file in self.parts.glob(f"*{_FAILED}"):
            try:
                found[file.name.removesuffix(_FAILED)] = json.loads(file.read_text("utf-8"))[
                    "error"
                ]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # unreadable: the point is simply run again
        return found

    def read(self, key: str) -> Part | None:
        """Return a stored point; None where there is none or its part is damaged."""
        try:
            table = pq.read_table(self.parts / f"{key}.parquet")
            said = json.loads((table.schema.metadata or {})[_META])
        except (OSError, ValueError, KeyError, pa.ArrowException):
            return None
        return Part(key, table.to_pylist(), read=said.get("read")) if said["key"] == key else None

    def read_all(self, keys: Iterable[str]) -> dict[str, Part]:
        """Return the stored points among some keys."""
        found = {key: self.read(key) for key in keys}
        return {key: part for key, part in found.items() if part is not None}


def _replace(file: Path, content: Any) -> None:
    """Write a file so that its name stands for all of it or for what it was before."""
    part = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    part.write_bytes(content)
    part.replace(file)


def tidy(values: Sequence[Any]) -> list[Any]:
    """Return a column of one type: text where values mix text and numbers."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or len(kinds) <= 1:
        return list(values)
    return [None if value is None else str(value) for value in values]
