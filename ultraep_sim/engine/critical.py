"""What each phase of a layer adds to the critical path where ranks wait for each other.

Forward: attention and gate; count exchange, solve and transfer tasks; weight distribution beside
reroute; dispatch; experts; combine. Backward: combine's gradient; restore of replica weights;
experts (dgrad, wgrad); dispatch's gradient; attention beside gradient reduction.

Ranks wait for each other after every phase (an all-to-all, a collective or a transfer that must
end before the next), so the critical path is the sum over phases of the maximum over ranks, less
what is hidden.

Decisions where the sources leave room:

- Restoring replica weights is exposed by default: the text says that gradient reduction overlaps
  with attention backward and says nothing of the kind about the restore.
  ``restore="overlapped"`` hides it: under full recompute behind the recomputed attention,
  else behind the attention backward of the layer above, which it shares with gradient reduction.
- Weights that a policy sends ahead (``prefetched``) are exposed only where they stick out beyond
  the work of the layer that hides them: forward its attention, dispatch, experts and combine;
  backward the same and the recompute, less the part of attention backward that gradient reduction
  takes. The record's own critical times stand in for that layer (the one below; in the backward
  the one above), also where there is none. A best case: that such a transfer shares the links
  with dispatch and combine is not charged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]

FORWARD_PHASES = (
    "fwd_attention",
    "fwd_plan",
    "fwd_distribute",
    "fwd_reroute",
    "fwd_dispatch",
    "fwd_compute",
    "fwd_combine",
)
BACKWARD_PHASES = (
    "bwd_recompute",
    "bwd_combine",
    "bwd_distribute",
    "bwd_compute",
    "bwd_dispatch",
    "bwd_attention",
    "bwd_grad_reduce",
)
#: Phases that exist only because of balancing.
OVERHEAD_PHASES = (
    "fwd_plan",
    "fwd_distribute",
    "fwd_reroute",
    "bwd_distribute",
    "bwd_grad_reduce",
)
#: What full recompute runs again inside the backward, and what hides weights sent ahead.
WORK = ("fwd_attention", "fwd_dispatch", "fwd_compute", "fwd_combine")

_BACKWARD_WORK = ("bwd_recompute", "bwd_combine", "bwd_compute", "bwd_dispatch", "bwd_attention")


@dataclass(frozen=True)
class Rules:
    """What hides what.

    Parameters
    ----------
    training : bool
        Whether there is a backward.
    recompute : {"none", "full"}
    restore : {"exposed", "overlapped"}
    hidden, prefetched : bool
        As in `ultraep_sim.policies.DecisionPrice`.
    """

    training: bool
    recompute: Literal["none", "full"]
    restore: Literal["exposed", "overlapped"]
    hidden: bool
    prefetched: bool


def slowest(busy: Mapping[str, Seconds]) -> dict[str, Seconds]:
    """Reduce busy times [..., R] to those of the slowest rank [...]."""
    return {name: seconds.max(axis=-1) for name, seconds in busy.items()}


def critical(longest: Mapping[str, Seconds], rules: Rules) -> dict[str, Seconds]:
    """Say what each phase adds to the critical path.

    Parameters
    ----------
    longest : mapping of str to float64, any shape
        Seconds of the slowest rank by phase, see `slowest`; the keys of
        `ultraep_sim.engine.job.PHASE_PART`.
    rules : Rules

    Returns
    -------
    dict of str to float64, same shape
        Keys `FORWARD_PHASES`, then `BACKWARD_PHASES`; they sum to the time of the layer. Shared
        experts that stick out of what hides them are part of attention.
    """
    zero = np.zeros_like(longest["fwd_attention"])
    out = {name: longest.get(name, zero) for name in (*FORWARD_PHASES, *BACKWARD_PHASES)}
    if rules.hidden:
        out["fwd_plan"] = zero
    out["fwd_attention"] = longest["fwd_attention"] + _shared(longest, "fwd")
    work = sum((out[p] for p in WORK), zero)
    if rules.prefetched:
        out["fwd_distribute"] = beyond(longest["fwd_distribute"], work)
    out["fwd_reroute"] = beyond(longest["fwd_reroute"], out["fwd_distribute"])
    if not rules.training:
        return out
    if rules.recompute == "full":
        out["bwd_recompute"] = work
    window, reduce = longest["bwd_attention"], longest["bwd_grad_reduce"]
    out["bwd_grad_reduce"] = beyond(reduce, window)
    out["bwd_attention"] = window + _shared(longest, "bwd")
    if rules.prefetched:
        free = sum((out[p] for p in _BACKWARD_WORK), -np.minimum(reduce, window))
        out["bwd_distribute"] = beyond(longest["bwd_distribute"], free)
    elif rules.restore == "overlapped":
        out["bwd_distribute"] = _restore_leftover(longest, rules)
    return out


def _restore_leftover(longest: Mapping[str, Seconds], rules: Rules) -> Seconds:
    restore, reduce = longest["bwd_distribute"], longest["bwd_grad_reduce"]
    if rules.recompute == "full":
        return beyond(restore, longest["fwd_attention"])
    window = longest["bwd_attention"]
    return beyond(reduce + restore, window) - beyond(reduce, window)


def _shared(longest: Mapping[str, Seconds], prefix: Literal["fwd", "bwd"]) -> Seconds:
    """Shared-expert time that dispatch and combine do not hide, where they may hide it."""
    cover = longest[f"{prefix}_dispatch"] + longest[f"{prefix}_combine"]
    return beyond(longest[f"{prefix}_shared"], cover)


def beyond(work: Seconds, window: Seconds) -> Seconds:
    """Return what of `work` sticks out of `window`."""
    return np.maximum(work - window, 0.0)
