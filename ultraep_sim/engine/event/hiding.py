"""How much weight traffic the layer hides that a policy sent ahead (``prefetched``).

The transfer of a layer really runs behind the layer before it. Like the fast path this engine takes
the layer's own work for that layer's (their loads differ, their kinds of work do not): the formula,
not the transfer, so that the two engines agree and a prefetch is never half inside an iteration.
Episodes do not change the window, and the hidden part is in no timeline. Passes on two streams know
no window (`Job.hides_prefetch`).
"""

from __future__ import annotations

from ultraep_sim.engine.job import Job

from .kernels import KernelTable


def forward_window(job: Job, table: KernelTable, micro_batch: int, layer: int) -> float:
    """Return seconds of a layer's forward behind which its weights may travel."""
    at = _Longest(table, micro_batch, layer)
    seconds = at["fwd_attention"] + at["fwd_dispatch"] + at["fwd_compute"] + at["fwd_combine"]
    return seconds + at.shared_leftover(job, "fwd")


def backward_window(job: Job, table: KernelTable, micro_batch: int, layer: int) -> float:
    """Return the same of its backward: recompute too, less what gradient reduction takes of it."""
    at = _Longest(table, micro_batch, layer)
    seconds = at["bwd_combine"] + at["bwd_compute"] + at["bwd_dispatch"] + at["bwd_attention"]
    seconds += at.shared_leftover(job, "bwd")
    if job.recompute == "full":
        seconds += forward_window(job, table, micro_batch, layer)
    return seconds - min(at["bwd_grad_reduce"], at["bwd_attention"])


class _Longest:
    """Seconds of each kernel of one layer on its slowest rank."""

    def __init__(self, table: KernelTable, micro_batch: int, layer: int) -> None:
        self._table = table
        self._at = micro_batch, layer

    def __getitem__(self, phase: str) -> float:
        return float(self._table.longest[phase][self._at])

    def shared_leftover(self, job: Job, prefix: str) -> float:
        """Shared experts that their own layer's dispatch and combine leave in the open."""
        if job.overlap != "shared_expert":
            return 0.0
        cover = self[f"{prefix}_dispatch"] + self[f"{prefix}_combine"]
        return max(0.0, self[f"{prefix}_shared"] - cover)
