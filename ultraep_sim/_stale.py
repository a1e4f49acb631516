"""Drop compiled kernels that an edit or a pull made stale.

Numba caches a compiled function by the file that defines it. A kernel that calls another file's
kernel keeps the old code of that file built in, and would go on computing with it: silently wrong
numbers. So before anything is compiled, cached kernels older than any source they may contain are
deleted, and compile again at their next use.
"""

from __future__ import annotations

from pathlib import Path


def drop_stale_kernels(package: Path) -> int:
    """Delete cached kernels older than the newest source beside any cached kernel.

    Parameters
    ----------
    package : Path
        Folder of the package; its folders and theirs are looked at.

    Returns
    -------
    int
        Files deleted. A folder that cannot be written is left alone: what is installed there is
        replaced as a whole, and numba itself then finds its caches out of date.
    """
    caches = [folder for folder in package.glob("**/__pycache__") if any(folder.glob("*.nbi"))]
    sources = [path for folder in caches for path in folder.parent.glob("*.py")]
    newest = max((path.stat().st_mtime for path in sources), default=0.0)
    dropped = 0
    for index in (path for folder in caches for path in folder.glob("*.nbi")):
        try:
            if index.stat().st_mtime < newest:
                index.unlink()
                dropped += 1
        except OSError:  # gone meanwhile (another process did the same), or read-only
            continue
    return dropped
