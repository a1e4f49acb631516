"""What a unit on the critical path is made of: phases, and the rank that was slowest in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .critical import BACKWARD_PHASES, FORWARD_PHASES, WORK, Rules, critical, slowest
from .job import Job

Seconds = NDArray[np.float64]

#: Name of what the kernel times of a job do not explain: spells, and an engine's named effects.
OTHER = "other"


@dataclass(frozen=True)
class PhaseOnPath:
    """What one phase contributes to the critical path.

    Attributes
    ----------
    name : str
        A phase of a layer, ``extra_forward`` or ``extra_backward`` (dense layers, embedding,
        head), ``recompute_*``, ``hop``, ``sync``, ``finish``, ``joint``, ``wait`` or `OTHER`.
    seconds : float
    gpu : int or None
        The global rank that was the slowest for most of these seconds; None where all ranks take
        the same, or none is involved.
    gpu_share : float
        The share of the seconds for which it was.
    """

    name: str
    seconds: float
    gpu: int | None
    gpu_share: float


class Ledger:
    """Seconds by phase, and by the rank that was slowest."""

    def __init__(self, gpus: int) -> None:
        self._gpus = gpus
        self._seconds: dict[str, float] = {}
        self._by_gpu: dict[str, Seconds] = {}

    def book(self, name: str, seconds: float) -> None:
        """Add seconds to a phase."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def blame(self, name: str, gpus: NDArray[np.int64], seconds: Seconds) -> None:
        """Add seconds to the ranks that were slowest in a phase."""
        np.add.at(self._by_gpu.setdefault(name, np.zeros(self._gpus)), gpus, seconds)

    def totals(self) -> tuple[PhaseOnPath, ...]:
        """Return all phases, longest first."""
        found = []
        for name, seconds in self._seconds.items():
            gpu, share = None, 0.0
            if name in self._by_gpu and self._by_gpu[name].any():
                gpu = int(self._by_gpu[name].argmax())
                share = float(self._by_gpu[name][gpu] / seconds)
            if seconds:
                found.append(PhaseOnPath(name, seconds, gpu, share))
        return tuple(sorted(found, key=lambda phase: (-phase.seconds, phase.name)))


class Kernels:
    """What each phase of one replica adds where ranks wait, and who is slowest in it."""

    def __init__(self, job: Job, replica: int) -> None:
        self.job, self.replica = job, replica
        self.busy = job.busy(replica)
        joint = job.overlap in ("two_batch", "dualpipe")
        restore = "exposed" if joint else job.restore
        rules = Rules(True, job.recompute, restore, job.hidden, job.hides_prefetch)
        self.added = critical(slowest(self.busy), rules)

    def forward(self, vs: int, m: int, ledger: Ledger) -> dict[str, float]:
        """Break down a forward."""
        first, stop = self.job.layers[vs]
        out = {"extra_forward": self._extra(self.job.extra_forward, vs, "extra_forward", ledger)}
        for name in FORWARD_PHASES:
            out[name] = self._phase(name, name, vs, m, slice(first, stop), ledger)
        return out

    def backward(
        self, vs: int, m: int, ledger: Ledger, down_to: int | None = None
    ) -> dict[str, float]:
        """Break down a backward; `down_to` a layer, or to its end."""
        first, stop = self.job.layers[vs]
        part = slice(first if down_to is None else down_to, stop)
        out: dict[str, float] = {}
        if self.job.recompute == "full":
            for name in WORK:
                again = name.replace("fwd_", "recompute_")
                out[again] = self._phase(again, name, vs, m, part, ledger)
        for name in BACKWARD_PHASES:
            if name != "bwd_recompute":  # its parts are named above
                out[name] = self._phase(name, name, vs, m, part, ledger)
        if down_to is None:
            name = "extra_backward"
            out[name] = self._extra(self.job.extra_backward, vs, name, ledger)
        return out

    def _phase(
        self, name: str, kernel: str, vs: int, m: int, layers: slice, ledger: Ledger
    ) -> float:
        seconds = self.added[kernel][m, layers]
        busy = self.busy[kernel][m, layers]
        gpus = self._first_gpu(vs) + busy.argmax(axis=-1)
        ledger.blame(name, gpus, np.where(np.ptp(busy, axis=-1) > 0, seconds, 0.0))
        return float(seconds.sum())

    def _extra(self, extra: Seconds, vs: int, name: str, ledger: Ledger) -> float:
        seconds = extra[self.replica, vs]
        rank = int(seconds.argmax())
        if np.ptp(seconds) > 0:
            ledger.blame(name, np.array([self._first_gpu(vs) + rank]), seconds[rank : rank + 1])
        return float(seconds[rank])

    def _first_gpu(self, vs: int) -> int:
        group = self.replica * self.job.stages + vs % self.job.stages
        return group * self.job.ranks
