"""Passes on two streams: overlap ``two_batch`` and ``dualpipe``.

A pass is a chain of operations that alternate between the compute and the communication stream; the
chains of a unit share both streams, so that one's transfers run behind the other's kernels. Each
stream works in a fixed order, the chains merged evenly: operation ``k`` of a chain of ``n`` stands
at ``(k + 0.5) / n``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from .barrier import Flag
from .group import Group
from .schedule import Pass, Unit
from .serial import distribution, plan, restore
from .streams import Program, Step


@dataclass(slots=True)
class Operation:
    """A part of a chain that runs on one stream without a break.

    Attributes
    ----------
    computes : bool
        On the compute stream, else on the communication stream.
    steps : callable
        Gives the steps, made when each starts.
    then : callable, optional
        What follows its end.
    before : Operation, optional
        The chain's previous one.
    key : float
        Its place among the unit's operations.
    ended : Flag
    """

    computes: bool
    steps: Callable[[], Iterator[Step]]
    then: Callable[[], None] | None = None
    before: Operation | None = None
    key: float = 0.0
    ended: Flag = field(default_factory=Flag)


def run_unit(group: Group, unit: Unit) -> Program:
    """Run one chain, or two jointly."""
    merged = [operation for work in unit for operation in _chain(group, work)]
    merged.sort(key=lambda operation: operation.key)  # stable: the first chain wins a tie
    ended = group.side.run(_stream(group, [op for op in merged if not op.computes]))
    yield from _stream(group, [op for op in merged if op.computes])
    yield ended


def _stream(group: Group, operations: list[Operation]) -> Program:
    for operation in operations:
        before = operation.before
        if before is not None and not before.ended.raised:
            yield before.ended.wait(group.env)
        yield from operation.steps()
        group.tally.events += operation.ended.set()
        if operation.then is not None:
            operation.then()


def _chain(group: Group, work: Pass) -> list[Operation]:
    """Return the operations of a pass, linked and placed."""
    outside = Operation(True, partial(_outside, group, work))
    if work.direction == "forward":
        chain = [outside]
        for layer in group.layers(work):
            chain += _forward(group, work.micro_batch, layer)
    else:
        chain = []
        for layer in group.layers(work):
            chain += _backward(group, work.micro_batch, layer)
            chain[-1].then = partial(group.sync.layer_ended, work, layer)
        outside.then = partial(group.sync.extra_ended, work)
        chain.append(outside)
    for k, operation in enumerate(chain):
        operation.key = (k + 0.5) / len(chain)
        operation.before = chain[k - 1] if k else None
    return chain


def _forward(group: Group, micro_batch: int, layer: int) -> list[Operation]:
    at = group, micro_batch, layer
    return [
        Operation(True, partial(_one, *at, "fwd_attention")),
        Operation(False, partial(_send, *at)),
        Operation(True, partial(_one, *at, "fwd_compute")),
        Operation(False, partial(_one, *at, "fwd_combine")),
    ]


def _backward(group: Group, micro_batch: int, layer: int) -> list[Operation]:
    at = group, micro_batch, layer
    again = [
        Operation(True, partial(_one, *at, "fwd_attention")),
        Operation(False, partial(_one, *at, "fwd_dispatch")),
        Operation(True, partial(_one, *at, "fwd_compute")),
        Operation(False, partial(_one, *at, "fwd_combine")),
    ]
    return (again if group.job.recompute == "full" else []) + [
        Operation(False, partial(_return, *at)),
        Operation(True, partial(_one, *at, "bwd_compute")),
        Operation(False, partial(_one, *at, "bwd_dispatch")),
        Operation(True, partial(_attend, *at)),
    ]


def _outside(group: Group, work: Pass) -> Iterator[Step]:
    yield (group.outside(work),)


def _one(group: Group, micro_batch: int, layer: int, phase: str) -> Iterator[Step]:
    yield (group.kernel(phase, micro_batch, layer),)


def _send(group: Group, micro_batch: int, layer: int) -> Iterator[Step]:
    yield plan(group, micro_batch, layer)
    yield distribution(group, micro_batch, layer)
    yield (group.kernel("fwd_dispatch", micro_batch, layer),)


def _return(group: Group, micro_batch: int, layer: int) -> Iterator[Step]:
    """Run combine's backward, then the restore: it has no window of its own on this stream."""
    yield (group.kernel("bwd_combine", micro_batch, layer),)
    yield (restore(group, micro_batch, layer),)


def _attend(group: Group, micro_batch: int, layer: int) -> Iterator[Step]:
    yield (
        group.kernel("bwd_attention", micro_batch, layer),
        group.kernel("bwd_grad_reduce", micro_batch, layer),
    )
