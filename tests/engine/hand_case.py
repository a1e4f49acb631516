"""What a hand-computed case is, and the layer that most of them begin with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.engine.jobs import make_job
from ultraep_sim.engine.job import Job

#: Forward: attention 10, plan 1, max(distribute 4, reroute 3), dispatch 5, compute 20, combine 6:
#: 46. Backward: combine 7, restore 2, compute 30, dispatch 8, max(attention 12, reduce 9): 59.
ONE = {
    "fwd_attention": 10,
    "fwd_plan": 1,
    "fwd_distribute": 4,
    "fwd_reroute": 3,
    "fwd_dispatch": 5,
    "fwd_compute": 20,
    "fwd_combine": 6,
    "bwd_combine": 7,
    "bwd_distribute": 2,
    "bwd_compute": 30,
    "bwd_dispatch": 8,
    "bwd_attention": 12,
    "bwd_grad_reduce": 9,
}


@dataclass(frozen=True)
class HandCase:
    """A job and what an engine must answer.

    Attributes
    ----------
    name : str
    job : Job
    iteration_s : float
    expected : mapping of str to array-like
        Further fields of `IterationTimes` (starts and ends are [D, VS, M], busy [D, P]).
    """

    name: str
    job: Job
    iteration_s: float
    expected: Mapping[str, Any] = field(default_factory=dict)


def one(busy: Mapping[str, Any] | None = None, **changes: Any) -> Job:
    """Return a job of `ONE` with some of its seconds, and some fields, changed."""
    return make_job(busy={**ONE, **(busy or {})}, **changes)


def pipe(fwd: Any, bwd: Any, **changes: Any) -> Job:
    """Return a pipeline whose layers only compute, hops of 1 s unless told otherwise."""
    return make_job(**{"busy": {"fwd_compute": fwd, "bwd_compute": bwd}, "hop_s": 1, **changes})
