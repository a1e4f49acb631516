"""Shares of a replay: parts that know nothing of each other, run by processes, kept for a resume.

Policies that decide on the loads at hand alone are divided by steps: each process reads its own row
groups. Where a policy remembers, it remembers layer by layer, so layers are divided in contiguous
ranges, and every process reads the whole file and plans its own layers. A policy that looks at the
layer below is not divided.

A finished share is a folder of columns under the run directory; its name holds the digest of
scenario, trace, code and division, so that a run that was killed goes on where it was and nothing
else ever picks it up.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..model.draws import under_draw
from .digests import code_digest
from .spill import Spill

if TYPE_CHECKING:
    from ..policies import Policy
    from ..scenario import Scenario
    from .workload import Workload

SHARE_RECORDS = 1 << 17
"""Records of a share of steps, about: what a killed run may have to do again."""

_KEYS = ("step", "micro_batch", "layer")


class Share(NamedTuple):
    """Steps ``[first, past_last)`` or layers of a workload; None for all."""

    steps: tuple[int, int] | None = None
    layers: tuple[int, ...] | None = None


def divide(workload: Workload, policies: Sequence[Policy], jobs: int) -> list[Share]:
    """Divide a workload so that ``jobs`` processes have something to do.

    Parameters
    ----------
    workload : Workload
    policies : sequence of Policy
    jobs : int

    Returns
    -------
    list of Share
        In the order of their records where they are of steps.
    """
    if all(policy.memoryless for policy in policies):
        steps = workload.trace.steps
        wanted = max(jobs, -(-workload.num_records // SHARE_RECORDS))
        parts = np.array_split(steps, min(wanted, len(steps)))
        return [Share(steps=(int(part[0]), int(part[-1]) + 1)) for part in parts]
    if jobs == 1 or any(policy.sees_layer_below for policy in policies):
        return [Share()]
    here = workload.trace.layers.tolist() if workload.layers is None else sorted(workload.layers)
    parts = np.array_split(np.array(here), min(jobs, len(here)))
    return [Share(layers=tuple(int(layer) for layer in part)) for part in parts]


class Checkpoint:
    """Where finished shares of one run lie.

    Parameters
    ----------
    directory : Path
        Of the run.
    scenario : Scenario
    digest : str
        Of the trace.
    shares : list of Share
    """

    def __init__(
        self, directory: Path, scenario: Scenario, digest: str, shares: list[Share]
    ) -> None:
        said = [scenario.to_dict(), digest, code_digest(), shares]
        key = hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:16]
        self.folder = directory / f".shares-{key}"
        # What another scenario, trace or version left here will never be asked for again.
        for old in directory.glob(".shares-*"):
            if old != self.folder:
                shutil.rmtree(old, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Forget the run: its result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def unfinished(folder: Path, shares: int) -> list[int]:
    """Return the shares of a folder that are not finished; half ones are removed."""
    for half in folder.glob("*.part"):
        shutil.rmtree(half)
    return [at for at in range(shares) if not (folder / f"{at:05d}").is_dir()]


def run_shares(
    work: Callable[[Scenario, Share, Path], int],
    scenario: Scenario,
    shares: Sequence[Share],
    places: Sequence[Path],
    jobs: int,
) -> Iterator[int]:
    """Work on shares in this process, or in so many others; yield the records of each one done.

    Parameters
    ----------
    work : callable
        A function of a module: ``work(scenario, share, folder)`` fills the folder and returns how
        many records it replayed. The folder gets its name when it is whole.
    scenario : Scenario
    shares, places : sequence
        What to do, and where each is put.
    jobs : int
    """
    if jobs == 1 or len(shares) < 2:
        for share, place in zip(shares, places, strict=True):
            yield _finish(work, scenario, share, place)
        return
    # Spawned, not forked: threads of the kernels do not survive a fork.
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _divide_threads, (jobs,))
    try:
        tasks = [
            pool.submit(_finish, work, scenario, share, place)
            for share, place in zip(shares, places, strict=True)
        ]
        for task in as_completed(tasks):
            yield task.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _finish(
    work: Callable[[Scenario, Share, Path], int], scenario: Scenario, share: Share, place: Path
) -> int:
    half = place.with_suffix(".part")
    half.mkdir(parents=True)
    count = under_draw(work)(scenario, share, half)  # another process begins without the draw
    half.rename(place)
    return count


def _divide_threads(jobs: int) -> None:
    import numba

    numba.set_num_threads(max(1, numba.get_num_threads() // jobs))


def merge(parts: Sequence[Spill], into: Spill) -> None:
    """Copy the records of all parts, in the order of step, micro-batch and layer."""
    for label in into.labels:
        for batch in _in_order([part.batches(label) for part in parts]):
            into.append_batch(label, batch)
    into.close()


def _in_order(streams: list[Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Interleave sorted streams, holding some batches of each."""
    held: list[pa.Table | None] = [_grown(None, stream) for stream in streams]
    while any(table is not None for table in held):
        # Whatever is before the first of the last keys held can no longer be preceded.
        lasts = [None if t is None else _last(t) for t in held]
        at = min((last, at) for at, last in enumerate(lasts) if last is not None)[1]
        bound = lasts[at]
        ready: list[pa.Table] = []
        for i, table in enumerate(held):
            if table is None:
                continue
            count = _not_after(table, bound)
            ready.append(table.slice(0, count))
            held[i] = table.slice(count) if count < table.num_rows else _grown(None, streams[i])
        found = pa.concat_tables(ready)
        order = np.lexsort([found[name].to_numpy() for name in reversed(_KEYS)])
        yield from found.take(order).combine_chunks().to_batches()


def _grown(table: pa.Table | None, stream: Iterator[pa.RecordBatch]) -> pa.Table | None:
    batch = next(stream, None)
    return table if batch is None else pa.Table.from_batches([batch])


def _last(table: pa.Table) -> tuple[int, ...]:
    return tuple(table[name][-1].as_py() for name in _KEYS)


def _not_after(table: pa.Table, bound: tuple[int, ...] | None) -> int:
    """Count the leading rows whose key is not above the bound."""
    columns: list[NDArray[Any]] = [table[name].to_numpy() for name in _KEYS]
    step, micro_batch, layer = bound or (0, 0, 0)
    less = columns[0] < step
    same = columns[0] == step
    less |= same & (columns[1] < micro_batch)
    same &= columns[1] == micro_batch
    return int((less | (same & (columns[2] <= layer))).sum())
