"""What balanced rows cannot tell of a hot expert: how fast a kernel runs that suits its neighbours.

A grouped GEMM launches one kernel for all experts of a rank, and an autotuner picks its tile for
the *mean* load. A hot expert's rows then go through tiles that were chosen for fewer rows: its
arithmetic is slower than that of a balanced batch of such experts, which would have got a larger
tile. Balanced rows bound by how much, from both sides. At best its rows run at the fitted rate. At
worst they run no faster than a mean load does, whose time is at least known to hide behind its
weights: ``weights / B`` for so many rows. Between the two nothing is known but the order of
magnitude, so the rate is drawn log-uniformly (the prior of a scale that only has bounds).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Rows of the smallest tile: the least M or N of a tensor core's matrix instruction (PTX ISA, mma).
LEAST_TILE_ROWS = 8


def ridge_rows(values: Mapping[str, float], weight_bytes: float, flops_per_pair: float) -> float:
    """Rows of an expert from which arithmetic takes longer than reading its weights.

    Parameters
    ----------
    values : mapping
        Of the fitted law: hbm_TBps, rate_TFLOPs.
    weight_bytes, flops_per_pair : float
        Of an expert, and of a row.
    """
    memory_s = weight_bytes / (values["hbm_TBps"] * 1e12)
    return memory_s * values["rate_TFLOPs"] * 1e12 / flops_per_pair


def work_rows(
    loads: NDArray[Any], mean_load: float, ridge: float, rng: np.random.Generator
) -> Floats:
    """Draw how many rows at the fitted rate the loads cost, one tactic a draw.

    Parameters
    ----------
    loads : int64 [draws, experts of the rank]
        Pairs.
    mean_load : float
        Pairs of an expert, on average over the group: what the tactic was chosen for.
    ridge : float
        From `ridge_rows`.
    rng : Generator
        Source of randomness.

    Returns
    -------
    float64, as `loads`
        Never fewer than the loads, and the loads themselves up to the mean.
    """
    tile = max(mean_load, LEAST_TILE_ROWS)
    slowest = min(1.0, tile / ridge)
    rate = slowest ** rng.random((len(loads), 1))
    return np.asarray(np.where(loads > tile, tile + (loads - tile) / rate, loads))
