"""A pass whose steps follow each other: overlap ``none`` and ``shared_expert``.

Shared experts run behind dispatch and combine and pause while the routed experts compute; what is
then left of them is a step of its own, after combine (in the backward after attention).
"""

from __future__ import annotations

from .group import Group
from .hiding import backward_window, forward_window
from .kernels import Kernel
from .schedule import Unit
from .streams import Program, Step


def run_unit(group: Group, unit: Unit) -> Program:
    """Run the one pass of a unit."""
    (work,) = unit
    if work.direction == "forward":
        yield (group.outside(work),)
        for layer in group.layers(work):
            yield from _forward(group, work.micro_batch, layer)
        return
    for layer in group.layers(work):
        yield from _backward(group, work.micro_batch, layer)
        group.sync.layer_ended(work, layer)
    yield (group.outside(work),)
    group.sync.extra_ended(work)


def plan(group: Group, micro_batch: int, layer: int) -> Step:
    """Return the step of deciding: nothing where the decision is hidden."""
    return () if group.job.hidden else (group.kernel("fwd_plan", micro_batch, layer),)


def distribution(group: Group, micro_batch: int, layer: int) -> Step:
    """Return the step of sending replica weights beside rerouting the tokens."""
    weights = group.kernel("fwd_distribute", micro_batch, layer)
    if group.job.hides_prefetch:
        weights = weights.beyond(forward_window(group.job, group.table, micro_batch, layer))
    return weights, group.kernel("fwd_reroute", micro_batch, layer)


def restore(group: Group, micro_batch: int, layer: int) -> Kernel:
    """Return the restoring of replica weights, less what is hidden if they are sent ahead."""
    weights = group.kernel("bwd_distribute", micro_batch, layer)
    if group.job.hides_prefetch:
        weights = weights.beyond(backward_window(group.job, group.table, micro_batch, layer))
    return weights


def _forward(group: Group, micro_batch: int, layer: int) -> Program:
    yield (group.kernel("fwd_attention", micro_batch, layer),)
    yield plan(group, micro_batch, layer)
    yield distribution(group, micro_batch, layer)
    yield from _experts(group, micro_batch, layer)


def _experts(group: Group, micro_batch: int, layer: int) -> Program:
    """Dispatch, expert compute, combine, and what these leave of the shared experts."""
    dispatch = group.kernel("fwd_dispatch", micro_batch, layer)
    shared = _shared(group, "fwd_shared", micro_batch, layer)
    if shared:
        group.main.draw(shared, dispatch.longest)
    yield (dispatch,)
    yield (group.kernel("fwd_compute", micro_batch, layer),)
    combine = group.kernel("fwd_combine", micro_batch, layer)
    if shared:
        group.main.draw(shared.beyond(dispatch.longest), combine.longest)
    yield (combine,)
    if shared:
        yield (shared.beyond(dispatch.longest + combine.longest),)


def _shared(group: Group, phase: str, micro_batch: int, layer: int) -> Kernel | None:
    if group.job.overlap != "shared_expert":
        return None
    return group.kernel(phase, micro_batch, layer)


def _backward(group: Group, micro_batch: int, layer: int) -> Program:
    overlapped = group.job.restore == "overlapped" and not group.job.hides_prefetch
    weights: Step | None = None
    if group.job.recompute == "full":
        attention = group.kernel("fwd_attention", micro_batch, layer)
        if overlapped:  # it leaves with the recomputed attention
            behind = restore(group, micro_batch, layer)
            group.main.draw(behind, attention.longest)
            weights = (behind.beyond(attention.longest),)
        yield (attention,)
        yield from _experts(group, micro_batch, layer)
    combine = group.kernel("bwd_combine", micro_batch, layer)
    shared = _shared(group, "bwd_shared", micro_batch, layer)
    if shared:
        group.main.draw(shared, combine.longest)
    yield (combine,)
    if weights is not None:
        yield weights
    elif not overlapped:
        yield (restore(group, micro_batch, layer),)
    yield (group.kernel("bwd_compute", micro_batch, layer),)
    dispatch = group.kernel("bwd_dispatch", micro_batch, layer)
    if shared:
        group.main.draw(shared.beyond(combine.longest), dispatch.longest)
    yield (dispatch,)
    yield from _attention(group, micro_batch, layer, overlapped and weights is None)
    if shared:
        yield (shared.beyond(combine.longest + dispatch.longest),)


def _attention(group: Group, micro_batch: int, layer: int, restores: bool) -> Program:
    """Run attention's backward beside gradient reduction, which the restore may follow."""
    attention = group.kernel("bwd_attention", micro_batch, layer)
    if not restores:
        yield (attention, group.kernel("bwd_grad_reduce", micro_batch, layer))
        return
    ended = group.side.run(_reduce_and_restore(group, micro_batch, layer))
    yield (attention,)
    yield ended


def _reduce_and_restore(group: Group, micro_batch: int, layer: int) -> Program:
    yield (group.kernel("bwd_grad_reduce", micro_batch, layer),)
    yield (restore(group, micro_batch, layer),)
