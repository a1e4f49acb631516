"""What decides a result besides its scenario: the code, and the bytes of its traces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]

#: Parts of the package that only show or judge results, so that mending them runs nothing again.
_ONLY_SHOW = frozenset(("commands", "report", "validate", "calibrate", "sweep"))
_PACKAGES = ("numpy", "numba", "pyarrow")


@cache
def code_digest() -> str:
    """Return the digest of the code a run rests on: our sources, and the packages that compute.

    Returns
    -------
    str
        16 hex digits; the same wherever the same sources are installed.
    """
    places = (file.relative_to(_ROOT) for file in _ROOT.rglob("*.py"))
    decisive = [p for p in places if p.parts[0] not in _ONLY_SHOW and p.name != "cli.py"]
    packages = " ".join(f"{name}=={version(name)}" for name in _PACKAGES)
    return sources_digest(decisive, packages)


def sources_digest(places: Iterable[Path], also: str = "") -> str:
    """Return the digest of source files and of a text, 16 hex digits.

    Parameters
    ----------
    places : iterable of Path
        Relative to the package, in any order; line ends do not count.
    also : str
        What decides besides.
    """
    found = hashlib.sha256()
    for place in sorted(places):
        found.update(place.as_posix().encode() + b"\0")
        found.update((_ROOT / place).read_bytes().replace(b"\r\n", b"\n") + b"\0")
    found.update(also.encode())
    return found.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file; read again only if its time or size has changed.

    Raises
    ------
    OSError
        It cannot be read.
    """
    stat = path.stat()
    return _digest_of(str(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1024)
def _digest_of(path: str, mtime_ns: int, size: int) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
