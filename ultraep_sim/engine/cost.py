"""The cost model a policy may weigh, read off the same laws that time a layer."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ..compute.gemm import expert_backward, expert_forward
from ..fabric.alltoall import all_to_all
from ..fabric.streaming import distribute, reduce_broadcast, reduce_gradients
from ..model.dtypes import GRADIENT_BYTES, activation_bytes
from ..model.profiles import Direction, RackProfile
from ..model.shapes import ModelShape
from ..policies import CostModel, DecisionPrice
from .layer import LayerOptions, attention_seconds


def cost_model(
    shape: ModelShape, rack: RackProfile, price: DecisionPrice, options: LayerOptions
) -> CostModel:
    """Linearise the layer around a balanced load.

    Every slope is the difference of a law at twice and at once the balanced load of a rank (or at
    two copies and one), so the model holds whatever mechanisms the laws have.

    Parameters
    ----------
    shape, rack : ModelShape, RackProfile
    price : DecisionPrice
        Of the policy that will weigh it.
    options : LayerOptions

    Returns
    -------
    CostModel
        Seconds; forward and, in training, backward together.

    Notes
    -----
    Weights are charged as exposed also where the price says that they are sent ahead, and an
    overlapped restore as hidden. Copies are those that stay in a scale-up domain. A relay that the
    options or the price rule out costs infinitely much. The reading of replica gradients on the
    ranks that serve them is left out: the home that adds them up is the slower end.
    """
    directions: tuple[Direction, ...] = get_args(Direction)
    training = options.phase == "training"
    used = directions if training else directions[:1]
    times = 2.0 if training and options.restore == "exposed" else 1.0
    copy = shape.expert_bytes(options.weight_dtype)
    one, two = _column(1), _column(2)
    first = float(distribute(rack, one, one, copy)[0, 0])
    second = float(distribute(rack, two, two, copy)[0, 0])
    relayed = float(distribute(rack, one, one, copy, np.array([True]))[0, 0])
    may_relay = price.relay and price.transport == "stream" and options.relay != "off"
    return CostModel(
        pair_s=sum(_pair(shape, rack, options, d) for d in used),
        wire_s=sum(_wire(shape, rack, options, d) for d in used),
        copy_s=times * (second - first),
        copy_base_s=times * (2 * first - second),
        relay_s=times * (relayed - first) if may_relay else math.inf,
        gradient_s=_gradient(shape, rack, price, options) if training else 0.0,
        gradient_window_s=(
            attention_seconds(shape, rack, options, "backward") if training else 0.0
        ),
    )


def _gradient(
    shape: ModelShape, rack: RackProfile, price: DecisionPrice, options: LayerOptions
) -> float:
    """Seconds of gradient reduction per replica of one home, or per expert that is broadcast."""
    size, none = shape.expert_params * GRADIENT_BYTES, _column(0)

    def seconds(copies: int) -> float:
        if price.transport == "broadcast":
            return float(reduce_broadcast(rack, none, _column(copies), size)[0, 0])
        sms = options.grad_reduce_sms
        return float(reduce_gradients(rack, _column(copies), none, size, sms)[0, 0])

    return seconds(2) - seconds(1)


def _column(count: int) -> NDArray[np.int64]:
    return np.full((1, 1), count, np.int64)


def _pair(
    shape: ModelShape, rack: RackProfile, options: LayerOptions, direction: Direction
) -> float:
    """Seconds of expert compute per pair of one expert, around the balanced load of a rank."""
    law = expert_forward if direction == "forward" else expert_backward
    load = options.tokens_per_rank * shape.top_k
    rows = options.tile_rows

    def seconds(pairs: int) -> float:
        tiles = _column(-(-pairs // rows))[..., None]
        found = law(
            shape, rack.gpu, _column(pairs), tiles,
            dtype=options.weight_dtype, tile_rows=rows,
        )  # fmt: skip
        return float(found[0, 0])

    return (seconds(2 * load) - seconds(load)) / load


def _wire(
    shape: ModelShape, rack: RackProfile, options: LayerOptions, direction: Direction
) -> float:
    """Seconds of dispatch and combine per pair that crosses ranks inside a domain."""
    load = options.tokens_per_rank * shape.top_k
    total = 0.0
    for dtype in (options.dispatch_dtype, options.combine_dtype):
        row = shape.hidden * activation_bytes(dtype)
        none = _column(0)

        def seconds(pairs: int, row: float = row, none: NDArray[np.int64] = none) -> float:
            moved = _column(pairs)
            return float(all_to_all(rack, moved, moved, none, none, row, direction)[0, 0])

        total += (seconds(2 * load) - seconds(load)) / load
    return total
