"""Decoded traces that many processes share: memory-mapped, one copy in the page cache for all.

A sweep replays one trace thousands of times. Decoding it once to plain arrays, and mapping those,
costs every process no memory of its own and no time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .container import Block, Record
from .meta import TraceMeta
from .selection import Selection

#: Larger traces are streamed by every process instead: 4 GiB of counts.
MAX_BYTES = 4 << 30

_BLOCK_BYTES = 4 << 20

_MAPPED: dict[str, str] = {}


def map_trace(path: str | Path, folder: str | Path) -> Path | None:
    """Decode a trace into ``folder``, unless it lies there, and return where.

    Parameters
    ----------
    path : str or Path
        A Parquet trace.
    folder : str or Path
        Made if it does not exist.

    Returns
    -------
    Path or None
        A directory for `use_mapped`; None where the trace is above 4 GiB, or the disk has no room
        for it.

    Raises
    ------
    TraceError
        The trace is damaged.
    """
    from .parquet import load_trace

    trace = load_trace(path)
    meta, count = trace.meta, trace.num_records
    size = 4 * count * meta.source_ranks * meta.num_experts
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / trace.digest
    if target.is_dir():
        return target
    if size > MAX_BYTES or size > shutil.disk_usage(folder).free // 2:
        return None
    made = folder / f"{trace.digest}.{os.getpid()}.tmp"
    made.mkdir()
    shape = (count, meta.source_ranks, meta.num_experts)
    loads = np.lib.format.open_memmap(made / "loads.npy", "w+", np.int32, shape)
    keys = np.empty((count, 3), np.int32)
    for at, record in enumerate(trace):
        keys[at] = record[:3]
        loads[at] = record.loads
    loads.flush()
    np.save(made / "keys.npy", keys)
    (made / "meta.json").write_text(meta.to_json(), encoding="utf-8")
    made.rename(target)
    return target


def use_mapped(mapped: Mapping[str, str]) -> None:
    """Let `load_trace` answer with decoded traces in this process, by absolute path."""
    _MAPPED.clear()
    _MAPPED.update(mapped)


def mapped_source(path: Path) -> MappedSource | None:
    """Return the decoded form of a trace if this process was told of one."""
    folder = _MAPPED.get(str(path.absolute())) if _MAPPED else None
    return None if folder is None else MappedSource(Path(folder))


class MappedSource:
    """Records of a directory that `map_trace` made; they were checked then."""

    def __init__(self, folder: Path) -> None:
        self.meta = TraceMeta.from_json((folder / "meta.json").read_text(encoding="utf-8"))
        self._keys = np.load(folder / "keys.npy", mmap_mode="r", allow_pickle=False)
        self._loads = np.load(folder / "loads.npy", mmap_mode="r", allow_pickle=False)
        self._digest = folder.name

    def records(self, selection: Selection) -> Iterator[Record]:
        """Yield the selected records, as copies."""
        for at in np.flatnonzero(selection.mask(np.asarray(self._keys))):
            step, micro_batch, layer = self._keys[at].tolist()
            yield Record(step, micro_batch, layer, np.array(self._loads[at]))

    def blocks(self, selection: Selection) -> Iterator[Block]:
        """Yield the selected records in blocks of a few megabytes, as copies."""
        step = max(1, _BLOCK_BYTES // (4 * self.meta.source_ranks * self.meta.num_experts))
        for first in range(0, len(self._keys), step):
            keys = np.array(self._keys[first : first + step])
            kept = selection.mask(keys)
            if kept.any():
                yield Block(keys[kept], np.array(self._loads[first : first + step][kept]))

    def keys(self) -> NDArray[np.int32]:
        """Return step, micro-batch and layer of every record."""
        return np.array(self._keys)

    def count(self) -> int:
        """Return the number of records."""
        return len(self._keys)

    def digest(self) -> str:
        """Return the sha256 of the file it was decoded from."""
        return self._digest
