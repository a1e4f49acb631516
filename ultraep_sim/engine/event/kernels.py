"""The kernels of one replica, ready to be run by its ranks, and what slows them for a spell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.engine.job import PHASE_PART, Episode, Job
from ultraep_sim.errors import InputError

#: Rows of a rank in a timeline. Gradient reduction has one of its own: it runs on its own share of
#: the SMs beside both streams. ``sync`` is the data-parallel network of a stage.
Lane = Literal["compute", "comm", "plan", "reduce", "sync"]

_PART_LANE: dict[str, Lane] = {"compute": "compute", "link": "comm", "control": "plan"}
LANES: dict[str, Lane] = {phase: _PART_LANE[part] for phase, part in PHASE_PART.items()}
LANES["bwd_grad_reduce"] = "reduce"

#: Stands for "not of one micro-batch" or "not of one layer" in a span.
NONE = -1


class SpanSink(Protocol):
    """Takes what each rank did, for a timeline; spans of a lane of a rank never overlap.

    ``micro_batch`` and ``layer`` are -1 where a span belongs to none. Spans of no length are not
    given.
    """

    def __call__(  # noqa: D102 - the class says it
        self,
        rank: int,
        lane: Lane,
        phase: str,
        start_s: float,
        end_s: float,
        micro_batch: int,
        layer: int,
    ) -> None: ...


@dataclass(slots=True)
class Kernel:
    """One kernel of a step on all ranks of a group.

    Attributes
    ----------
    phase, lane : str
    seconds : list of float [R]
        How long it runs on each rank.
    longest : float
        The largest of them.
    running : int
        Ranks on which it takes any time.
    micro_batch, layer : int
        What it works for, or `NONE`.
    """

    phase: str
    lane: Lane
    seconds: list[float]
    longest: float
    running: int
    micro_batch: int
    layer: int

    def with_seconds(self, seconds: list[float]) -> Kernel:
        """Return the same kernel with other durations."""
        running = sum(s > 0 for s in seconds)
        return replace(self, seconds=seconds, longest=max(seconds), running=running)

    def beyond(self, window: float) -> Kernel:
        """Return what is left of it on each rank after `window` seconds behind other work."""
        return self.with_seconds([max(0.0, s - window) for s in self.seconds])


class KernelTable:
    """Kernel times of one replica.

    Parameters
    ----------
    job : Job
    replica : int

    Raises
    ------
    InputError
        Times of the wrong shape, negative or not finite; shared experts that overlap with nothing
        and are not part of attention.
    """

    def __init__(self, job: Job, replica: int) -> None:
        shape = (job.micro_batches, job.num_layers, job.ranks)
        busy = job.busy(replica)
        self._seconds = {phase: _checked(phase, busy.get(phase), shape) for phase in PHASE_PART}
        self.longest = {phase: s.max(axis=-1) for phase, s in self._seconds.items()}
        self._running = {phase: (s > 0).sum(axis=-1) for phase, s in self._seconds.items()}
        extra = (job.virtual_stages, job.ranks)
        self._extra = {
            "extra_forward": _checked("extra_forward", job.extra_forward[replica], extra),
            "extra_backward": _checked("extra_backward", job.extra_backward[replica], extra),
        }
        for phase in ("fwd_shared", "bwd_shared"):
            if job.overlap != "shared_expert" and self.longest[phase].any():
                raise InputError(
                    f"shared experts of their own with overlap {job.overlap}",
                    place=phase,
                    value=float(self.longest[phase].max()),
                    remedy="make them part of attention",
                )

    def kernel(self, phase: str, micro_batch: int, layer: int) -> Kernel:
        """Return a kernel of a layer."""
        return Kernel(
            phase,
            LANES[phase],
            self._seconds[phase][micro_batch, layer].tolist(),
            float(self.longest[phase][micro_batch, layer]),
            int(self._running[phase][micro_batch, layer]),
            micro_batch,
            layer,
        )

    def outside(self, phase: str, virtual_stage: int, micro_batch: int) -> Kernel:
        """Return what a virtual stage computes outside its MoE layers."""
        seconds = self._extra[phase][virtual_stage]
        running = int((seconds > 0).sum())
        longest = float(seconds.max())
        return Kernel(phase, "compute", seconds.tolist(), longest, running, micro_batch, NONE)


class Spells:
    """The episodes that strike one group.

    Parameters
    ----------
    episodes : sequence of Episode
    first_gpu, ranks : int
        The group's global ranks are ``first_gpu`` and the next ``ranks - 1``.
    """

    def __init__(self, episodes: Sequence[Episode], first_gpu: int, ranks: int) -> None:
        found = []
        for episode in episodes:
            inside = np.unique(episode.gpus) - first_gpu
            hit = inside[(inside >= 0) & (inside < ranks)].tolist()
            if hit:
                found.append((episode, hit))
        self._found = found

    def __bool__(self) -> bool:
        """Whether any episode strikes the group."""
        return bool(self._found)

    def stretch(self, kernel: Kernel, now: float) -> Kernel:
        """Return the kernel as it runs if it starts now; overlapping episodes multiply."""
        part = PHASE_PART.get(kernel.phase, "compute")
        seconds = kernel.seconds
        for episode, hit in self._found:
            if episode.part == part and episode.start_s <= now < episode.end_s:
                seconds = seconds.copy()
                for rank in hit:
                    seconds[rank] *= episode.factor
        return kernel if seconds is kernel.seconds else kernel.with_seconds(seconds)


def _checked(
    phase: str, seconds: NDArray[np.float64] | None, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    if seconds is None or seconds.shape != shape:
        raise InputError(
            f"kernel times are not of shape {shape}",
            place=phase,
            value=None if seconds is None else seconds.shape,
            remedy="give a time for every micro-batch, layer and rank",
        )
    if not (np.isfinite(seconds).all() and (seconds >= 0).all()):
        raise InputError(
            "kernel times must be finite and not negative",
            place=phase,
            value=float(seconds.min()),
            remedy="check what made them",
        )
    return seconds
