"""A unit as a chain of operations on two streams, and two chains run jointly.

Stage streams are in order: ``compute`` (attention, experts) and ``comm`` (plan, weights,
all-to-all). An operation starts when its chain's previous one has ended and its stream is free.
Where two chains run jointly, a stream takes their operations in a fixed order: operation ``k`` of
a chain of ``n`` has key ``(k + 1/2) / n``, smaller first. A fixed order keeps the recurrence
max-plus: nothing gets slower because something else got faster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Seconds = NDArray[np.float64]

COMPUTE, COMM = 0, 1


@dataclass(frozen=True)
class Chains:
    """Operations of the units of one virtual stage.

    Attributes
    ----------
    stream : int64 [ops]
        `COMPUTE` or `COMM`.
    seconds : float64 [M, ops]
    layer : int64 [ops]
        Index of the layer within the virtual stage an operation belongs to; -1 for what is once
        a unit (dense layers, embedding, head).
    """

    stream: NDArray[np.int64]
    seconds: Seconds
    layer: NDArray[np.int64]


def forward_chain(added: dict[str, Seconds], extra: Seconds) -> Chains:
    """Chain the forward of a virtual stage.

    Parameters
    ----------
    added : dict of str to float64 [M, layers]
        What each phase adds to the critical path.
    extra : float64 [M]
        What runs once, before the first layer.
    """
    prepare = added["fwd_plan"] + added["fwd_distribute"] + added["fwd_reroute"]
    ops = [
        (COMPUTE, added["fwd_attention"]),
        (COMM, prepare + added["fwd_dispatch"]),
        (COMPUTE, added["fwd_compute"]),
        (COMM, added["fwd_combine"]),
    ]
    return _chain(ops, extra, descending=False)


def backward_chain(added: dict[str, Seconds], extra: Seconds, *, recompute: bool) -> Chains:
    """Chain the backward of a virtual stage: layers descending, then `extra`."""
    again = [
        (COMPUTE, added["fwd_attention"]),
        (COMM, added["fwd_dispatch"]),
        (COMPUTE, added["fwd_compute"]),
        (COMM, added["fwd_combine"]),
    ]
    ops = [
        (COMM, added["bwd_combine"] + added["bwd_distribute"]),
        (COMPUTE, added["bwd_compute"]),
        (COMM, added["bwd_dispatch"]),
        (COMPUTE, added["bwd_attention"] + added["bwd_grad_reduce"]),
    ]
    return _chain(again + ops if recompute else ops, extra, descending=True)


def _chain(ops: list[tuple[int, Seconds]], extra: Seconds, *, descending: bool) -> Chains:
    layers = ops[0][1].shape[1]
    walk = np.arange(layers)[:: -1 if descending else 1]
    seconds = np.stack([part[:, walk] for _, part in ops], axis=2).reshape(len(extra), -1)
    stream = np.tile(np.array([stream for stream, _ in ops], np.int64), layers)
    layer = np.repeat(walk, len(ops))
    once = (np.array([COMPUTE]), extra[:, None], np.array([-1]))
    parts = [(stream, seconds, layer), once] if descending else [once, (stream, seconds, layer)]
    streams, times, owners = zip(*parts, strict=True)
    return Chains(np.concatenate(streams), np.hstack(times), np.concatenate(owners))


@njit(cache=True)
def run_jointly(stream_a, seconds_a, stream_b, seconds_b, end_a, end_b):  # type: ignore[no-untyped-def]
    """Fill when each operation of two chains ends, from their common start; return the last."""
    free = np.zeros(2)
    na, nb = stream_a.shape[0], stream_b.shape[0]
    i = j = 0
    at_a = at_b = 0.0
    while i < na or j < nb:
        # (i + 1/2) / na <= (j + 1/2) / nb, in whole numbers so that ties are ties
        if j == nb or (i < na and (2 * i + 1) * nb <= (2 * j + 1) * na):
            at_a = max(at_a, free[stream_a[i]]) + seconds_a[i]
            free[stream_a[i]] = at_a
            end_a[i] = at_a
            i += 1
        else:
            at_b = max(at_b, free[stream_b[j]]) + seconds_b[j]
            free[stream_b[j]] = at_b
            end_b[j] = at_b
            j += 1
    return max(at_a, at_b)
