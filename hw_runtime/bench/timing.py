"""Medians and spread of a call: CUDA events, replays of a CUDA graph, or the host's clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .rows import Timing

L2_BYTES = 128 * 2**20
"""Buffers rotate over more than this, the largest second-level cache of the GPUs we compile for."""
GRAPH_CALLS = 20


@dataclass(frozen=True)
class Clock:
    """How calls are timed.

    Parameters
    ----------
    device : torch.device
    runs : int
    warmup : int
    """

    device: torch.device
    runs: int = 30
    warmup: int = 5

    def call(self, work: Callable[[int], Any]) -> Timing:
        """Time single calls; ``work(i)`` takes the ``i``-th of the rotating buffers."""
        for i in range(self.warmup):
            work(i)
        if self.device.type != "cuda":
            return summary([_host(work, self.warmup + i) for i in range(self.runs)], "host_clock")
        marks = []
        torch.cuda.synchronize(self.device)
        for i in range(self.runs):
            # torch declares events without types.
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            work(self.warmup + i)
            end.record()
            marks.append((start, end))
        torch.cuda.synchronize(self.device)
        return summary([1e3 * start.elapsed_time(end) for start, end in marks], "cuda_events")

    def replay(self, work: Callable[[int], Any]) -> Timing:
        """Time calls inside a CUDA graph, free of launch overhead; on the CPU as `call`.

        A graph holds `GRAPH_CALLS` calls on rotating buffers; one replay gives one number, the
        time of the graph over its calls.
        """
        if self.device.type != "cuda":
            return self.call(work)
        # Every buffer of the graph once before: what a first call uploads cannot be captured.
        for i in range(max(self.warmup, GRAPH_CALLS)):
            work(i)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(GRAPH_CALLS):
                work(i)
        whole = self.call(lambda _: graph.replay())
        parts = [value / GRAPH_CALLS for value in (whole.median_us, whole.low_us, whole.high_us)]
        return Timing(parts[0], parts[1], parts[2], whole.runs, "cuda_graph")


def rotation(nbytes: int, device: torch.device) -> int:
    """Say how many buffers of ``nbytes`` a call must rotate over to find none in the cache."""
    return 1 + -(-L2_BYTES // max(1, nbytes)) if device.type == "cuda" else 2


def summary(microseconds: list[float], method: str) -> Timing:
    """Median, 5th and 95th percentile."""
    low, median, high = np.percentile(microseconds, [5, 50, 95])
    return Timing(float(median), float(low), float(high), len(microseconds), method)


def _host(work: Callable[[int], Any], i: int) -> float:
    start = time.perf_counter_ns()
    work(i)
    return (time.perf_counter_ns() - start) / 1e3
