"""How long every rank is busy in every phase of one MoE layer: where all kernel times meet.

Both engines of whole iterations, and the single layer, arrange these numbers in time; none of them
computes a kernel time of its own.

Decisions where the sources leave room:

- A re-placement (``migrate``) and free transport keep replicas for many micro-batches with
  buffers of their own: no restore, and their gradients are summed once a global batch, outside
  the layer.
- Replicas whose main is in another scale-up domain get their weights, and give their gradients
  back, over the NICs, beside what stays inside. A re-placement that may cross domains is taken to
  move all it moves at the NICs' rate, where that is the lower.
- The gradient that is dispatched carries the dispatch dtype, the one that is combined the combine
  dtype (the DeepSeek-V3 recipe).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.compute.attention import attention_time
from ultraep_sim.compute.dense import gate_time, shared_expert_time
from ultraep_sim.compute.gemm import expert_backward, expert_forward
from ultraep_sim.fabric import streaming
from ultraep_sim.fabric.alltoall import all_to_all
from ultraep_sim.fabric.relay_choice import distribute_gain
from ultraep_sim.model.dtypes import GRADIENT_BYTES, activation_bytes
from ultraep_sim.model.profiles import Direction, RackProfile
from ultraep_sim.model.shapes import ModelShape

from .job import PHASE_PART
from .options import LayerOptions

if TYPE_CHECKING:
    from ultraep_sim.planning.stats import LoadStats
    from ultraep_sim.policies.base import DecisionPrice

Seconds = NDArray[np.float64]


def busy_phases(
    shape: ModelShape,
    rack: RackProfile,
    stats: LoadStats,
    price: DecisionPrice,
    options: LayerOptions,
) -> dict[str, Seconds]:
    """Time every rank in every phase, hidden or not.

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
    dict of str to float64 [N, R]
        Seconds by phase, the keys of `ultraep_sim.engine.job.PHASE_PART`; those of the backward
        are zero in prefill. Arrays may be read-only views. ``fwd_shared`` and ``bwd_shared`` are
        zero unless the shared experts overlap (they are part of attention then).

    Raises
    ------
    ProfileError
        The GPU lacks a dtype, or the SM budget exceeds the GPU.
    """
    return _Phases(shape, rack, stats, price, options).all()


def attention_seconds(
    shape: ModelShape, rack: RackProfile, options: LayerOptions, direction: Direction
) -> float:
    """Seconds of attention and gate, and of the shared experts where nothing hides them.

    Parameters
    ----------
    shape, rack, options : ModelShape, RackProfile, LayerOptions
        What runs where and how.
    direction : {"forward", "backward"}
        The backward hides gradient reduction.
    """
    gpu, tokens = rack.gpu, options.tokens_per_rank
    seconds = attention_time(shape, gpu, tokens, options.sequence_length, direction)
    seconds += gate_time(shape, gpu, tokens, direction)
    if options.overlap == "shared_expert":
        return seconds
    return seconds + shared_seconds(shape, rack, options, direction)


def shared_seconds(
    shape: ModelShape, rack: RackProfile, options: LayerOptions, direction: Direction
) -> float:
    """Seconds of the shared experts of one layer on one rank."""
    tokens = options.tokens_per_rank
    return shared_expert_time(shape, rack.gpu, tokens, direction, options.weight_dtype)


def relayed_records(
    shape: ModelShape,
    rack: RackProfile,
    stats: LoadStats,
    price: DecisionPrice,
    options: LayerOptions,
) -> NDArray[np.bool_]:
    """Say in which records weights travel by a relay tree.

    Parameters
    ----------
    shape, rack, stats, price, options
        As in `busy_phases`.

    Returns
    -------
    bool [N]
        By the published rule, never, or by modelled gain, as the options say; never where the
        policy does not relay.
    """
    s = stats
    if price.transport != "stream" or not price.relay or options.relay == "off":
        return np.zeros(s.relayed.shape, np.bool_)
    if options.relay != "gain":
        return s.relayed
    direct = (s.far_copies_sent, s.far_copies_received)
    tree = (s.far_relay_sent, s.far_relay_received)
    copy = shape.expert_bytes(options.weight_dtype)
    return distribute_gain(
        rack, s.copies_sent, s.copies_received, s.relay_sent, copy, direct, tree
    )[1]


class _Phases:
    """The inputs of one call, so that each phase is one short method."""

    def __init__(
        self,
        shape: ModelShape,
        rack: RackProfile,
        stats: LoadStats,
        price: DecisionPrice,
        options: LayerOptions,
    ) -> None:
        self.shape, self.rack, self.stats = shape, rack, stats
        self.price, self.options = price, options
        self.records, self.ranks = stats.pairs.shape
        self.streams = price.transport in ("stream", "broadcast")

    def all(self) -> dict[str, Seconds]:
        return self._forward() | self._backward()

    def _forward(self) -> dict[str, Seconds]:
        price = self.price
        decision = price.exchange.si + price.solve.si + price.tasks.si
        return {
            "fwd_attention": self._same(self._attention("forward")),
            "fwd_shared": self._same(self._shared("forward")),
            "fwd_plan": self._same(decision),
            "fwd_distribute": self._distribute(),
            "fwd_reroute": self._same(price.reroute.si),
            "fwd_dispatch": self._dispatch("forward"),
            "fwd_compute": self._experts("forward"),
            "fwd_combine": self._combine("forward"),
        }

    def _backward(self) -> dict[str, Seconds]:
        if self.options.phase != "training":
            return {name: self._same(0.0) for name in PHASE_PART if name.startswith("bwd_")}
        return {
            "bwd_combine": self._dispatch("backward"),
            "bwd_distribute": self._distribute() if self.streams else self._same(0.0),
            "bwd_compute": self._experts("backward"),
            "bwd_dispatch": self._combine("backward"),
            "bwd_attention": self._same(self._attention("backward")),
            "bwd_shared": self._same(self._shared("backward")),
            "bwd_grad_reduce": self._grad_reduce(),
        }

    def _same(self, seconds: float) -> Seconds:
        return np.broadcast_to(np.float64(seconds), (self.records, self.ranks))

    def _attention(self, direction: Direction) -> float:
        return attention_seconds(self.shape, self.rack, self.options, direction)

    def _shared(self, direction: Direction) -> float:
        if self.options.overlap != "shared_expert":
            return 0.0
        return shared_seconds(self.shape, self.rack, self.options, direction)

    def _experts(self, direction: Direction) -> Seconds:
        law = expert_forward if direction == "forward" else expert_backward
        s, options = self.stats, self.options
        return law(
            self.shape,
            self.rack.gpu,
            s.pairs,
            s.tiles,
            dtype=options.weight_dtype,
            tile_rows=options.tile_rows,
        )

    def _dispatch(self, direction: Direction) -> Seconds:
        """From source to host: dispatch, and the gradient of combine."""
        s = self.stats
        pair = self.shape.hidden * activation_bytes(self.options.dispatch_dtype)
        return all_to_all(
            self.rack, s.near_sent, s.near_received, s.far_sent, s.far_received, pair, direction
        )

    def _combine(self, direction: Direction) -> Seconds:
        """From host back to source: combine, and the gradient of dispatch."""
        s = self.stats
        pair = self.shape.hidden * activation_bytes(self.options.combine_dtype)
        return all_to_all(
            self.rack, s.near_received, s.near_sent, s.far_received, s.far_sent, pair, direction
        )

    def _distribute(self) -> Seconds:
        s = self.stats
        copy = self.shape.expert_bytes(self.options.weight_dtype)
        if self.price.transport == "migrate":
            return streaming.migrate(self.rack, s.moved_copies, copy, s.crosses)
        if not self.streams:
            return self._same(0.0)
        far = (s.far_copies_sent, s.far_copies_received)
        if self.price.transport == "broadcast":
            return streaming.broadcast(self.rack, s.copies_sent, s.copies_received, copy, far)
        relayed = relayed_records(self.shape, self.rack, s, self.price, self.options)
        if not relayed.any():
            return streaming.distribute(self.rack, s.copies_sent, s.copies_received, copy, far=far)
        tree = relayed[:, None]
        sent = np.where(tree, s.relay_sent, s.copies_sent)
        far = (
            np.where(tree, s.far_relay_sent, far[0]),
            np.where(tree, s.far_relay_received, far[1]),
        )
        return streaming.distribute(self.rack, sent, s.copies_received, copy, relayed, far)

    def _grad_reduce(self) -> Seconds:
        if not self.streams:
            return self._same(0.0)
        gradient = self.shape.expert_params * GRADIENT_BYTES
        s, sms = self.stats, self.options.grad_reduce_sms
        far = (s.far_copies_sent, s.far_copies_received)
        if self.price.transport == "broadcast":
            return streaming.reduce_broadcast(
                self.rack, s.copies_sent, s.copies_received, gradient, far
            )
        return streaming.reduce_gradients(
            self.rack, s.copies_sent, s.copies_received, gradient, sms, far
        )
