"""What replicas that live through a whole iteration cost at its end.

A balancer that places by history keeps its replicas for many micro-batches. Their gradients are
summed into the main experts' once an iteration, before gradients leave for other replicas of the
job, and the updated weights go back to them after the optimizer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..fabric.streaming import distribute, reduce_gradients
from ..model.dtypes import GRADIENT_BYTES
from ..model.profiles import RackProfile
from ..model.shapes import ModelShape
from ..planning.stats import LoadStats
from .options import LayerOptions

Seconds = NDArray[np.float64]


def lasting_replicas(
    shape: ModelShape, rack: RackProfile, stats: LoadStats, options: LayerOptions
) -> tuple[Seconds, Seconds]:
    """Time summing the gradients of a layer's replicas, and giving them their new weights.

    Parameters
    ----------
    shape, rack, options : ModelShape, RackProfile, LayerOptions
    stats : LoadStats
        One record a layer: the placement at the end of the iteration.

    Returns
    -------
    gradients, weights : float64 [L]
        Seconds of the slowest rank. Gradients on the rack's SM budget for them, weights streamed
        straight from their homes.
    """
    far = (stats.far_copies_sent, stats.far_copies_received)
    sent, received = stats.copies_sent, stats.copies_received
    size = shape.expert_params * GRADIENT_BYTES
    gradients = reduce_gradients(rack, sent, received, size, options.grad_reduce_sms, far)
    copy = shape.expert_bytes(options.weight_dtype)
    weights = distribute(rack, sent, received, copy, far=far)
    return gradients.max(axis=1), weights.max(axis=1)
