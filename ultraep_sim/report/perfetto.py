"""A timeline as Chrome trace JSON, which ui.perfetto.dev and chrome://tracing open.

Every group (a stage of a replica) is a process. Its first threads are the pipeline (forwards and
backwards of micro-batches) and what follows it; then every rank has threads for compute, send,
receive, plan, gradient reduction and data-parallel sync. The file is written as it comes, in
nanoseconds, so that spans which touch in time touch in the file; a name ending in ``.gz`` is
compressed.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from .blocks import blocks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ultraep_sim.engine.critical_path import CriticalPath
    from ultraep_sim.engine.job import IterationTimes
    from ultraep_sim.engine.memory_timeline import GroupMemory

#: Threads of a rank, in their order on the screen.
THREADS = ("compute", "send", "receive", "plan", "reduce", "sync")
_TITLES = {"reduce": "gradient reduction", "sync": "data-parallel sync"}

#: Threads of a process above those of its ranks.
_PIPELINE, _TAIL, _RANKS = 0, 1, 2

#: Says which share of a transfer phase a rank sends and receives, where that is known: called with
#: phase, global rank, micro-batch and layer; ``(send, receive)`` in 0 to 1, or None.
Traffic = Callable[[str, int, int, int], tuple[float, float] | None]


class ChromeTrace:
    """Writes a trace; use it in a ``with`` block. Without an error the file appears whole.

    Parameters
    ----------
    path : str or Path
    stages, ranks : int
        P and R: global rank ``(replica * stages + stage) * ranks + rank``.
    traffic : callable, optional
        See `Traffic`. Where it is not known, a transfer stands whole on both the send and the
        receive thread, and its ``args`` say ``"direction": "not known"``.
    """

    def __init__(
        self, path: str | Path, stages: int, ranks: int, traffic: Traffic | None = None
    ) -> None:
        self.path = Path(path)
        self.events = 0
        self._stages, self._ranks, self._traffic = stages, ranks, traffic
        self._partial = self.path.with_name(self.path.name + ".part")
        self._named: set[tuple[int, int]] = set()
        self._file: IO[str] | None = None
        self._raw: IO[bytes] | None = None

    def __enter__(self) -> ChromeTrace:
        self._raw = self._partial.open("wb")
        binary: IO[bytes] | gzip.GzipFile = self._raw
        if self.path.suffix == ".gz":
            # No time and no name in the header: the same run gives the same bytes.
            binary = gzip.GzipFile("", "wb", fileobj=self._raw, mtime=0)
        self._file = io.TextIOWrapper(binary, encoding="utf-8", newline="\n")
        self._file.write('{"displayTimeUnit":"ms","traceEvents":[')
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None  # noqa: S101  # set on entry
        assert self._raw is not None  # noqa: S101
        if kind is None:
            self._file.write("\n]}\n")
        self._file.close()
        self._raw.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink()

    def span(
        self,
        rank: int,
        lane: str,
        phase: str,
        start_s: float,
        end_s: float,
        micro_batch: int,
        layer: int,
    ) -> None:
        """Write a kernel of one rank: a `ultraep_sim.engine.event.SpanSink`.

        Parameters
        ----------
        rank : int
            Global.
        lane : {"compute", "comm", "plan", "reduce", "sync"}
            ``comm`` becomes the send and the receive thread.
        phase : str
        start_s, end_s : float
        micro_batch, layer : int
            Negative where it belongs to none.
        """
        group, local = divmod(rank, self._ranks)
        # Written by hand: there may be millions of spans.
        known = [] if micro_batch < 0 else [f'"micro_batch": {micro_batch}']
        known += [] if layer < 0 else [f'"layer": {layer}']
        args = ", ".join(known)
        if lane != "comm":
            self._on_rank(group, local, lane, phase, (start_s, end_s), args)
            return
        shares = self._traffic(phase, rank, micro_batch, layer) if self._traffic else None
        if shares is None:
            args += (", " if args else "") + '"direction": "not known"'
        for thread, share in zip(("send", "receive"), shares or (1.0, 1.0), strict=True):
            if share > 0:
                end = start_s + min(share, 1.0) * (end_s - start_s)
                self._on_rank(group, local, thread, phase, (start_s, end), args)

    def pipeline(self, times: IterationTimes, finish_s: NDArray[np.float64] | None = None) -> None:
        """Write the forwards and backwards of every group, and what follows them.

        Parameters
        ----------
        times : IterationTimes
        finish_s : float64 [P], optional
            The job's, to draw the optimizer.
        """
        replicas, virtual, _ = times.forward_start.shape
        for replica in range(replicas):
            for stage in range(self._stages):
                group = replica * self._stages + stage
                self._name(group, _PIPELINE, "pipeline")
                last = 0.0
                for block in blocks(times, replica, range(stage, virtual, self._stages)):
                    args = {
                        "micro_batches": block.micro_batches,
                        "virtual_stages": block.virtual_stages,
                    }
                    span = (block.start_s, block.end_s)
                    self._complete(group, _PIPELINE, block.title, "pipeline", span, _inner(args))
                    last = max(last, block.end_s)
                synced = float(times.sync_end[stage])
                ended = synced + (0.0 if finish_s is None else float(finish_s[stage]))
                tail = {"gradient sync": (last, synced), "optimizer": (synced, ended)}
                for title, (start, end) in tail.items():
                    if end > start:
                        self._name(group, _TAIL, "after the last backward")
                        self._complete(group, _TAIL, title, "sync", (start, end), "")

    def critical(self, path: CriticalPath, groups: int) -> None:
        """Write the critical path as a process of its own, after ``groups`` others."""
        self._name(groups, 0, "critical path", process="critical path")
        for segment in path.segments:
            batches = ", ".join(map(str, segment.micro_batches))
            title = f"{segment.kind} {batches} on stage {segment.stage}".replace("  ", " ")
            args = {
                "replica": "all" if segment.replica is None else segment.replica,
                "phases_us": {name: 1e6 * s for name, s in segment.phases.items()},
            }
            span = (segment.start_s, segment.end_s)
            self._complete(groups, 0, title, "critical path", span, _inner(args))

    def memory(self, group: GroupMemory, rank: int) -> None:
        """Write the memory of one rank as a counter of its group."""
        process = group.replica * self._stages + group.stage
        self._name(process, _PIPELINE, "pipeline")
        for at, total, kept in zip(
            group.times_s[:-1].tolist(),
            group.total[:, rank].tolist(),
            group.activations[:, rank].tolist(),
            strict=True,
        ):
            sizes = {"activations": kept / 1e9, "all else": (total - kept) / 1e9}
            head = f'"ph":"C","name":"memory of rank {rank} [GB]","pid":{process + 1}'
            self._write(f'{{{head},"ts":{_us(round(at * 1e9))},"args":{json.dumps(sizes)}}}')

    def _on_rank(
        self,
        group: int,
        local: int,
        lane: str,
        phase: str,
        span: tuple[float, float],
        args: str,
    ) -> None:
        row = _RANKS + local * len(THREADS) + THREADS.index(lane)
        self._name(group, row, f"rank {local} {_TITLES.get(lane, lane)}")
        self._complete(group, row, phase, lane, span, args)

    def _complete(
        self,
        group: int,
        row: int,
        name: str,
        category: str,
        span: tuple[float, float],
        args: str,
    ) -> None:
        # Both ends are rounded, not the length: neighbours stay neighbours.
        start, end = round(span[0] * 1e9), round(span[1] * 1e9)
        head = f'"ph":"X","name":"{name}","cat":"{category}",{self._place(group, row)}'
        times = f'"ts":{_us(start)},"dur":{_us(end - start)}'
        self._write(f'{{{head},{times},"args":{{{args}}}}}')

    def _name(self, group: int, row: int, title: str, process: str | None = None) -> None:
        """Name a thread, and its process, the first time either is met."""
        if (group, row) in self._named:
            return
        if (group, -1) not in self._named:
            self._named.add((group, -1))
            replica, stage = divmod(group, self._stages)
            whole = process or f"replica {replica} stage {stage}"
            self._meta("process", group, row, whole, group)
        self._named.add((group, row))
        self._meta("thread", group, row, title, row)

    def _meta(self, what: str, group: int, row: int, title: str, position: int) -> None:
        for name, args in (("name", {"name": title}), ("sort_index", {"sort_index": position})):
            head = f'"ph":"M","name":"{what}_{name}",{self._place(group, row)}'
            self._write(f'{{{head},"args":{json.dumps(args)}}}')

    def _place(self, group: int, row: int) -> str:
        """Count processes and threads from 1, for 0 is the idle one to viewers.

        No two processes share a thread number.
        """
        rows = _RANKS + self._ranks * len(THREADS)
        return f'"pid":{group + 1},"tid":{1 + group * rows + row}'

    def _write(self, event: str) -> None:
        assert self._file is not None  # noqa: S101  # only inside the with block
        self._file.write(("\n" if self.events == 0 else ",\n") + event)
        self.events += 1


def _inner(args: dict[str, Any]) -> str:
    """Write a mapping as JSON without its braces."""
    return json.dumps(args)[1:-1]


def _us(nanoseconds: int) -> str:
    return f"{nanoseconds // 1000}.{nanoseconds % 1000:03d}"
