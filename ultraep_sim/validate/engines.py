"""Fast path beside event path: the same iterations, arranged in time by both engines.

The fast path's assumptions hold in every run here, so both have to say the same to rounding. The
event path stands in the place of the published value; it is our second engine, nothing published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import product

import numpy as np

from ..engine.event import run_event
from ..engine.fast import run_fast
from ..engine.job import IterationTimes
from ..engine.run import training_jobs
from ..scenario import Scenario
from ..scenario.load import scenario_from_dict
from .rows import Row, make_row

Progress = Callable[[str, int, int], None]

TABLE = "engines"
OVERLAPS = ("none", "shared_expert", "two_batch", "dualpipe")
RECOMPUTES = ("none", "full")
POLICIES = ("none", "eplb", "ultraep", "ideal")


def run(quick: bool = False, progress: Progress | None = None) -> list[Row]:
    """Compare seconds of an iteration, and the largest difference of any time in it.

    Parameters
    ----------
    quick : bool
        Without recomputation only.
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    list of dict
        ``case`` is ``OVERLAP/RECOMPUTE/POLICY``. Metrics: ``iteration_s``, and ``last_end_s``, the
        end of the backward or the sync that differs most.
    """
    every = list(product(OVERLAPS, RECOMPUTES[: 1 if quick else 2]))
    found = []
    for done, (overlap, recompute) in enumerate(every, start=1):
        found += list(_rows(scenario(overlap, recompute), f"{overlap}/{recompute}"))
        if progress is not None:
            progress("engines", done, len(every))
    return found


def scenario(overlap: str, recompute: str) -> Scenario:
    """Return a small pipeline with data-parallel replicas."""
    return scenario_from_dict(
        {
            "name": "two-engines",
            "model": "glm-4.5-air-106b",
            "rack": "paper-rack64",
            "ep": {
                "ranks": 16, "slots_per_rank": 2, "data_parallel": 2, "pipeline_stages": 4,
            },
            "workload": {
                "synthetic": {"imbalance": 2.0, "layers": 4, "steps": 5, "drift": 0.3},
                "tokens_per_rank": 4096,
                "sequence_length": 4096,
            },
            "policies": [
                {"name": "eplb", "cadence_steps": 2} if name == "eplb" else name
                for name in POLICIES
            ],
            "engine": {"overlap": overlap, "recompute": recompute},
            "training": {"micro_batches": 8},
            "seed": 0,
        }
    )  # fmt: skip


def _rows(one: Scenario, case: str) -> Iterator[Row]:
    jobs, iterations = training_jobs(one)
    for policy in POLICIES:
        job = jobs.job(policy, iterations[0])
        event, fast = run_event(job), run_fast(job)
        furthest = _furthest(event, fast)
        pairs = {"iteration_s": (event.iteration_s, fast.iteration_s), "last_end_s": furthest}
        for metric, (reference, value) in pairs.items():
            yield make_row(
                TABLE, f"{case}/{policy}", metric, reference, value, fitted=False,
                provenance="reference: the event path; simulated: the fast path",
            )  # fmt: skip


def _furthest(event: IterationTimes, fast: IterationTimes) -> tuple[float, float]:
    """Return the pair of times that differ most, of all times of the iteration."""
    pairs = [
        (np.ravel(getattr(event, field.name)), np.ravel(getattr(fast, field.name)))
        for field in fields(IterationTimes)
        if field.name != "events"
    ]
    theirs, ours = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    # Of what is exactly zero in both (the first start) there is no relative difference.
    at = int(np.argmax(np.where(theirs > 0, np.abs(ours - theirs) / np.maximum(theirs, 1e-300), 0)))
    return float(theirs[at]), float(ours[at])
