"""Small jobs made by hand or drawn, for the tests of both engines.

`make_job` fills everything that a test does not name with zeros and ones, so that a hand-computed
case names only what it computes with. `jobs` draws whole jobs: every schedule, overlap, recompute,
restore and gradient sync, busy times with zeros in them, virtual stages without MoE layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ultraep_sim.engine.job import PHASE_PART, Job

OVERLAPS = ("none", "shared_expert", "two_batch", "dualpipe")
SHARED = ("fwd_shared", "bwd_shared")


def make_job(
    *, busy: Mapping[str, Any] | None = None, layers: int | tuple = 1, **changes: Any
) -> Job:
    """Return a job: one of everything, no overlap, no times, unless told otherwise.

    Parameters
    ----------
    busy : mapping of str to array-like, optional
        Seconds by phase, anything that broadcasts to [D, M, L, R]; phases left out take none.
    layers : int or tuple of (int, int)
        MoE layers of every virtual stage, or the ranges themselves.
    **changes
        Fields of `Job`. The arrays (``extra_forward``, ..., ``finish_s``) may be anything that
        broadcasts to their shape.
    """
    stages, chunks = changes.pop("stages", 1), changes.pop("chunks", 1)
    micro_batches, replicas = changes.pop("micro_batches", 1), changes.pop("replicas", 1)
    ranks, virtual = changes.pop("ranks", 1), stages * chunks
    if isinstance(layers, int):
        layers = tuple((vs * layers, (vs + 1) * layers) for vs in range(virtual))
    count = max(stop for _, stop in layers)
    shapes = {
        "extra_forward": (replicas, virtual, ranks),
        "extra_backward": (replicas, virtual, ranks),
        "hop_s": (virtual - 1,),
        "bucket_s": (count,),
        "extra_bucket_s": (virtual,),
        "finish_s": (stages,),
    }
    arrays = {name: _full(changes.pop(name, 0.0), shape) for name, shape in shapes.items()}
    shape = (replicas, micro_batches, count, ranks)
    unknown = set(busy or {}) - set(PHASE_PART)
    assert not unknown, unknown
    phases = {name: _full((busy or {}).get(name, 0.0), shape) for name in PHASE_PART}
    choices = {
        "schedule": "1f1b" if chunks == 1 else "interleaved",
        "overlap": "none",
        "recompute": "none",
        "restore": "exposed",
        "hidden": False,
        "prefetched": False,
        "grad_sync": "overlapped",
        **changes,
    }
    return Job(
        stages=stages,
        chunks=chunks,
        micro_batches=micro_batches,
        replicas=replicas,
        ranks=ranks,
        layers=layers,
        busy=lambda d: {name: seconds[d] for name, seconds in phases.items()},
        **arrays,
        **choices,
    )


def scaled(job: Job, phase: str, factor: float) -> Job:
    """Return the job with the seconds of one phase multiplied."""

    def busy(replica: int) -> dict[str, np.ndarray]:
        found = dict(job.busy(replica))
        found[phase] = found[phase] * factor
        return found

    return replace(job, busy=busy)


def _full(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.array(np.broadcast_to(np.asarray(value, np.float64), shape))


@st.composite
def jobs(draw: st.DrawFn, overlaps: tuple[str, ...] = OVERLAPS, **fixed: Any) -> Job:
    """Draw a small job.

    Shared experts take time only with ``overlap="shared_expert"``: elsewhere whoever builds a job
    folds them into attention.

    Parameters
    ----------
    overlaps : tuple of str
        The overlaps to draw from.
    **fixed
        Fields of `Job` that are not drawn (``stages``, ``recompute``, ...; no arrays).
    """

    def one(name: str, choices: st.SearchStrategy) -> Any:
        return fixed[name] if name in fixed else draw(choices)

    overlap = fixed.get("overlap") or draw(st.sampled_from(overlaps))
    schedules = ["1f1b"] if overlap == "dualpipe" else ["1f1b", "interleaved"]
    schedule = one("schedule", st.sampled_from(schedules))
    stages = one("stages", st.integers(1, 4))
    chunks = one("chunks", st.integers(1, 2)) if schedule == "interleaved" else 1
    step = (stages if schedule == "interleaved" else 1) * (2 if overlap == "two_batch" else 1)
    micro_batches = one("micro_batches", st.integers(1, max(1, 6 // step)).map(lambda n: n * step))
    replicas, ranks = one("replicas", st.integers(1, 3)), one("ranks", st.integers(1, 4))
    virtual = stages * chunks
    counts = draw(st.lists(st.integers(0, 2), min_size=virtual, max_size=virtual))
    counts[0] = max(counts[0], 1)
    stops = np.cumsum(counts).tolist()
    layers = tuple(zip([0, *stops[:-1]], stops, strict=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (replicas, micro_batches, stops[-1], ranks)
    busy = {name: _times(rng, shape) for name in PHASE_PART}
    if overlap != "shared_expert":
        for name in SHARED:
            busy[name] = np.zeros(shape)
    synced = replicas > 1  # one replica has nothing to keep in sync
    return make_job(
        stages=stages,
        chunks=chunks,
        micro_batches=micro_batches,
        replicas=replicas,
        ranks=ranks,
        schedule=schedule,
        overlap=overlap,
        recompute=one("recompute", st.sampled_from(["none", "full"])),
        restore=one("restore", st.sampled_from(["exposed", "overlapped"])),
        hidden=one("hidden", st.booleans()),
        prefetched=one("prefetched", st.booleans()),
        grad_sync=one("grad_sync", st.sampled_from(["overlapped", "exposed"])),
        layers=layers,
        busy=busy,
        extra_forward=_times(rng, (replicas, virtual, ranks)),
        extra_backward=_times(rng, (replicas, virtual, ranks)),
        hop_s=_times(rng, (virtual - 1,)),
        bucket_s=_times(rng, (stops[-1],)) * 3 * synced,
        extra_bucket_s=_times(rng, (virtual,)) * 3 * synced,
        finish_s=_times(rng, (stages,)),
    )


def _times(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Seconds of very different sizes, a fifth of them zero, sometimes all of them."""
    size = 10.0 ** rng.integers(-4, 1)
    return rng.uniform(0, size, shape) * (rng.random(shape) < 0.8) * (rng.random() < 0.9)
