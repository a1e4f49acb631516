"""One training iteration, every kernel timed and nothing yet arranged in time.

Both engines read a `Job` and return `IterationTimes`; they share nothing else. Geometry: ``D``
data-parallel replicas of ``P`` pipeline stages, each stage an expert-parallel group of ``R`` ranks.
The model's ``L`` MoE layers are divided over ``VS = P x V`` virtual stages (``V`` chunks a stage);
virtual stage ``v * P + s`` runs on stage ``s``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Seconds = NDArray[np.float64]
Schedule = Literal["1f1b", "interleaved"]
Overlap = Literal["none", "shared_expert", "two_batch", "dualpipe"]

#: Kernels of a layer, with the part of the machine that a slow one is slow for.
PHASE_PART: dict[str, Literal["compute", "link", "control"]] = {
    "fwd_attention": "compute",
    "fwd_shared": "compute",
    "fwd_plan": "control",
    "fwd_distribute": "link",
    "fwd_reroute": "control",
    "fwd_dispatch": "link",
    "fwd_compute": "compute",
    "fwd_combine": "link",
    "bwd_combine": "link",
    "bwd_distribute": "link",
    "bwd_compute": "compute",
    "bwd_dispatch": "link",
    "bwd_attention": "compute",
    "bwd_shared": "compute",
    "bwd_grad_reduce": "control",  # bound by its SM budget, not by the link
}


@dataclass(frozen=True)
class Episode:
    """A spell in which some GPUs are slower; only the event engine can run it.

    Attributes
    ----------
    gpus : ndarray of int64
        Global ranks, ``(replica * P + stage) * R + rank``.
    part : {"compute", "link"}
        Which kernels take longer (`PHASE_PART`).
    factor : float
        How many times longer; applied whole to a kernel that starts inside the spell.
    start_s, end_s : float
        Simulated seconds since the start of the iteration.
    """

    gpus: NDArray[np.int64]
    part: Literal["compute", "link"]
    factor: float
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Job:
    """What an engine arranges in time.

    Attributes
    ----------
    stages, chunks, micro_batches, replicas, ranks : int
        P, V, M, D, R.
    schedule : {"1f1b", "interleaved"}
        Interleaved wants ``micro_batches`` to be a multiple of ``stages``.
    overlap : {"none", "shared_expert", "two_batch", "dualpipe"}
        ``two_batch`` wants an even number of micro-batches, ``dualpipe`` the 1f1b schedule.
    recompute : {"none", "full"}
    restore : {"exposed", "overlapped"}
    hidden, prefetched : bool
        As in `DecisionPrice`.
    grad_sync : {"overlapped", "exposed"}
        Whether gradient buckets leave while the last backward still runs.
    layers : tuple of (int, int)
        Half-open range of MoE layers of each virtual stage, [VS].
    busy : callable
        ``busy(replica)`` gives seconds by phase (keys of `PHASE_PART`), float64 [M, L, R]; slow
        GPUs and jitter are in it, episodes are not.
    extra_forward, extra_backward : float64 [D, VS, R]
        Dense layers, embedding and head of a virtual stage, once a micro-batch.
    hop_s : float64 [VS - 1]
        Delay of activations (and of their gradients) from virtual stage ``i`` to ``i + 1``.
    bucket_s : float64 [L]
        Data-parallel gradient sync of each MoE layer.
    extra_bucket_s : float64 [VS]
        The same for what `extra_backward` stands for.
    finish_s : float64 [P]
        Optimizer and gathering of parameters, after a stage's sync.
    episodes : tuple of Episode
    """

    stages: int
    chunks: int
    micro_batches: int
    replicas: int
    ranks: int
    schedule: Schedule
    overlap: Overlap
    recompute: Literal["none", "full"]
    restore: Literal["exposed", "overlapped"]
    hidden: bool
    prefetched: bool
    grad_sync: Literal["overlapped", "exposed"]
    layers: tuple[tuple[int, int], ...]
    busy: Callable[[int], Mapping[str, Seconds]]
    extra_forward: Seconds
    extra_backward: Seconds
    hop_s: Seconds
    bucket_s: Seconds
    extra_bucket_s: Seconds
    finish_s: Seconds
    episodes: tuple[Episode, ...] = ()

    def __post_init__(self) -> None:
        for name in ("stages", "chunks", "micro_batches", "replicas", "ranks"):
            if getattr(self, name) < 1:
                raise _refused(name, getattr(self, name), "give 1 or more")
        if self.schedule == "1f1b" and self.chunks != 1:
            raise _refused("chunks", self.chunks, "1f1b has one chunk a stage; use interleaved")
        if self.schedule == "interleaved" and self.micro_batches % self.stages:
            raise _refused(
                "micro_batches",
                self.micro_batches,
                f"interleaved wants a multiple of the {self.stages} stages",
            )
        if self.overlap == "two_batch" and self.micro_batches % 2:
            raise _refused("micro_batches", self.micro_batches, "two_batch wants an even number")
        pairs = self.micro_batches // 2
        if (self.overlap, self.schedule) == ("two_batch", "interleaved") and pairs % self.stages:
            raise _refused(
                "micro_batches",
                self.micro_batches,
                f"interleaved pairs want a multiple of {2 * self.stages}",
            )
        if self.overlap == "dualpipe" and self.schedule != "1f1b":
            raise _refused("schedule", self.schedule, "dualpipe wants 1f1b")
        if len(self.layers) != self.virtual_stages:
            raise _refused("layers", len(self.layers), f"give {self.virtual_stages} ranges")

    @property
    def virtual_stages(self) -> int:
        """VS = P x V."""
        return self.stages * self.chunks

    @property
    def hides_prefetch(self) -> bool:
        """Whether weights that are sent ahead hide in a window of their own layer's work.

        Beside another micro-batch's work they are on the communication stream, which hides them as
        it hides the rest of it. A window there would move time from one stream to the other when a
        kernel gets slower, and a slower GPU could shorten an iteration.
        """
        return self.prefetched and self.overlap not in ("two_batch", "dualpipe")

    @property
    def num_layers(self) -> int:
        """MoE layers of the model."""
        return max(stop for _, stop in self.layers)


@dataclass(frozen=True)
class IterationTimes:
    """When everything of one iteration happened, in seconds since its start.

    Attributes
    ----------
    iteration_s : float
    forward_start, forward_end, backward_start, backward_end : float64 [D, VS, M]
        Of each micro-batch on each virtual stage. Micro-batches that run jointly (``two_batch``,
        ``dualpipe``) start and end together.
    busy_s : float64 [D, P]
        Time a stage spends in forwards and backwards.
    compute_s : float64 [D, P]
        The part of it in which its compute stream works, counting each kernel's slowest rank.
    sync_end : float64 [P]
        When a stage's gradients are in sync over all replicas.
    events : int
        Changes of state that the engine processed; 0 on the fast path.
    """

    iteration_s: float
    forward_start: Seconds
    forward_end: Seconds
    backward_start: Seconds
    backward_end: Seconds
    busy_s: Seconds
    compute_s: Seconds
    sync_end: Seconds
    events: int = 0


def _refused(place: str, value: Any, remedy: str) -> InputError:
    return InputError("no such iteration can be run", place=place, value=value, remedy=remedy)
