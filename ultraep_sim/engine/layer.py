"""One MoE layer, forward and backward, over many records at once: the fast path of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.model.profiles import RackProfile
from ultraep_sim.model.shapes import ModelShape

from .critical import (
    BACKWARD_PHASES,
    FORWARD_PHASES,
    OVERHEAD_PHASES,
    WORK,
    Rules,
    critical,
    slowest,
)
from .options import LayerOptions, Phase
from .phases import attention_seconds, busy_phases

if TYPE_CHECKING:
    from ultraep_sim.planning.stats import LoadStats
    from ultraep_sim.policies.base import DecisionPrice

__all__ = [
    "BACKWARD_PHASES",
    "FORWARD_PHASES",
    "OVERHEAD_PHASES",
    "LayerOptions",
    "LayerTimes",
    "Phase",
    "attention_seconds",
    "layer_times",
    "rules_of",
]

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class LayerTimes:
    """Times of one layer in N records on R ranks, in seconds.

    Attributes
    ----------
    phases : dict of str to float64 [N, R]
        How long each rank is busy in each phase, hidden or not (`FORWARD_PHASES`, then
        `BACKWARD_PHASES`). Arrays may be read-only views.
    critical : dict of str to float64 [N]
        What each phase adds to the critical path; the sum over phases is `layer_s`.
    forward_s, backward_s, layer_s : float64 [N]
        Critical path of the layer.
    exposed_overhead_s : float64 [N]
        What is on the critical path only because of balancing: count exchange, solve, transfer
        tasks, exposed weight distribution, what reroute adds to it, exposed restore, and the part
        of gradient reduction that attention backward does not hide (`OVERHEAD_PHASES`).
    """

    phases: dict[str, Seconds]
    critical: dict[str, Seconds]
    forward_s: Seconds
    backward_s: Seconds
    layer_s: Seconds
    exposed_overhead_s: Seconds


def rules_of(price: DecisionPrice, options: LayerOptions) -> Rules:
    """Say what hides what, from a policy's price and the way a layer is run."""
    training = options.phase == "training"
    return Rules(training, options.recompute, options.restore, price.hidden, price.prefetched)


def layer_times(
    shape: ModelShape,
    rack: RackProfile,
    stats: LoadStats,
    price: DecisionPrice,
    options: LayerOptions,
) -> LayerTimes:
    """Time one MoE layer for every record of a policy.

    Parameters
    ----------
    shape, rack : ModelShape, RackProfile
        What runs on what.
    stats : LoadStats
        Per-rank counts of N plans.
    price : DecisionPrice
        What the policy's decision costs, and how its weights travel.
    options : LayerOptions
        How the layer is run.

    Returns
    -------
    LayerTimes

    Raises
    ------
    ProfileError
        The GPU lacks a dtype, or the SM budget exceeds the GPU.
    """
    busy = busy_phases(shape, rack, stats, price, options)
    rules = rules_of(price, options)
    added = critical(slowest(busy), rules)
    zero = np.zeros(stats.pairs.shape[0])
    forward = sum((added[p] for p in FORWARD_PHASES), zero)
    backward = sum((added[p] for p in BACKWARD_PHASES), zero)
    overhead = sum((added[p] for p in OVERHEAD_PHASES), zero)
    again = np.zeros_like(stats.pairs, np.float64)
    if rules.training and rules.recompute == "full":
        again = sum((busy[p] for p in WORK), again)
    busy["bwd_recompute"] = again
    phases = {name: busy[name] for name in (*FORWARD_PHASES, *BACKWARD_PHASES)}
    return LayerTimes(phases, added, forward, backward, forward + backward, overhead)
