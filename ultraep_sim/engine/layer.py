"""One MoE layer, forward and backward, over many records at once: the fast path.

Forward: attention and gate; count exchange, solve and transfer tasks; weight distribution beside
reroute; dispatch; experts; combine. Backward: combine's gradient; restore of replica weights;
experts (dgrad, wgrad); dispatch's gradient; attention beside gradient reduction.

Ranks wait for each other after every phase (an all-to-all, a collective or a transfer that must
end before the next), so the critical path is the sum over phases of the maximum over ranks.

Decisions where the sources leave room:

- Restoring replica weights is exposed by default: the text says that gradient reduction overlaps
  with attention backward and says nothing of the kind about the restore.
  ``restore="overlapped"`` hides it: under full recompute behind the recomputed attention,
  else behind the attention backward of the layer above, which it shares with gradient reduction.
- A re-placement (``migrate``) and free transport keep replicas for many micro-batches with
  buffers of their own: no restore, and their gradients are summed once a global batch, outside
  the layer.
- Weights that a policy sends ahead (``prefetched``) are exposed only where they stick out beyond
  the work of the layer that hides them: forward its attention, dispatch, experts and combine;
  backward the same and the recompute, less the part of attention backward that gradient reduction
  takes. The record's own critical times stand in for that layer (the one below; in the backward
  the one above), also where there is none. A best case: that such a transfer shares the links
  with dispatch and combine is not charged.
- Replicas whose main is in another scale-up domain get their weights, and give their gradients
  back, over the NICs, beside what stays inside. A re-placement that may cross domains is taken to
  move all it moves at the NICs' rate, where that is the lower.
- The gradient that is dispatched carries the dispatch dtype, the one that is combined the combine
  dtype (the DeepSeek-V3 recipe).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.compute.attention import attention_time
from ultraep_sim.compute.dense import gate_time, shared_expert_time
from ultraep_sim.compute.gemm import expert_backward, expert_forward
from ultraep_sim.errors import InputError
from ultraep_sim.fabric import streaming
from ultraep_sim.fabric.alltoall import all_to_all
from ultraep_sim.model.dtypes import DTYPES, GRADIENT_BYTES, activation_bytes
from ultraep_sim.model.profiles import Direction, RackProfile
from ultraep_sim.model.shapes import ModelShape

if TYPE_CHECKING:
    from ultraep_sim.planning.stats import LoadStats
    from ultraep_sim.policies.base import DecisionPrice

Phase = Literal["training", "prefill"]
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
#: What full recompute runs again inside the backward, and what hides weights sent ahead.
_WORK = ("fwd_attention", "fwd_dispatch", "fwd_compute", "fwd_combine")

_BACKWARD_WORK = ("bwd_recompute", "bwd_combine", "bwd_compute", "bwd_dispatch", "bwd_attention")

#: Phases that exist only because of balancing.
OVERHEAD_PHASES = (
    "fwd_plan",
    "fwd_distribute",
    "fwd_reroute",
    "bwd_distribute",
    "bwd_grad_reduce",
)


@dataclass(frozen=True)
class LayerOptions:
    """How a layer is run.

    Parameters
    ----------
    tokens_per_rank : int
        Tokens of a rank in one micro-batch; sets the time of attention.
    phase : {"training", "prefill"}
        Prefill has no backward: its times are zero.
    sequence_length : int
        Tokens of a sequence.
    weight_dtype, dispatch_dtype, combine_dtype : {"bf16", "fp8", "fp4"}
        Formats of the expert weights (and their arithmetic) and of the two all-to-alls.
    recompute : {"none", "full"}
        Full: the backward runs the forward again first. The plan is kept, not solved again.
    tile_rows : int
        Rows of a GEMM tile.
    relay : {"auto", "off"}
        Whether a policy that relays may.
    overlap : {"none", "shared_expert"}
        Whether the shared experts run behind dispatch and combine.
    restore : {"exposed", "overlapped"}
        Whether restoring replica weights in the backward is hidden behind attention.
    grad_reduce_sms : int, optional
        SM budget of gradient reduction; the rack's by default.

    Raises
    ------
    InputError
        An impossible value.
    """

    tokens_per_rank: int
    phase: Phase = "training"
    sequence_length: int = 8192
    weight_dtype: str = "bf16"
    dispatch_dtype: str = "bf16"
    combine_dtype: str = "bf16"
    recompute: Literal["none", "full"] = "none"
    tile_rows: int = 128
    relay: Literal["auto", "off"] = "auto"
    overlap: Literal["none", "shared_expert"] = "none"
    restore: Literal["exposed", "overlapped"] = "exposed"
    grad_reduce_sms: int | None = None

    def __post_init__(self) -> None:
        for name in ("tokens_per_rank", "sequence_length", "tile_rows"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(
                    "not a positive integer", place=name, value=value, remedy="give 1 or more"
                )
        choices = {
            "phase": get_args(Phase),
            "recompute": ("none", "full"),
            "relay": ("auto", "off"),
            "overlap": ("none", "shared_expert"),
            "restore": ("exposed", "overlapped"),
            **dict.fromkeys(("weight_dtype", "dispatch_dtype", "combine_dtype"), DTYPES),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(
                    "unknown choice", place=name, value=value, remedy=f"one of {', '.join(allowed)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping for the resolved scenario."""
        return asdict(self)


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
    run = _Layer(shape, rack, stats, price, options)
    fwd = run.forward()
    phases = fwd | run.backward(fwd)
    critical = run.critical(phases)
    forward = sum((critical[p] for p in FORWARD_PHASES), np.zeros(run.records))
    backward = sum((critical[p] for p in BACKWARD_PHASES), np.zeros(run.records))
    overhead = sum((critical[p] for p in OVERHEAD_PHASES), np.zeros(run.records))
    return LayerTimes(phases, critical, forward, backward, forward + backward, overhead)


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
    shared = _shared_seconds(shape, rack, options, direction)
    return seconds + (shared if options.overlap == "none" else 0.0)


def _shared_seconds(
    shape: ModelShape, rack: RackProfile, options: LayerOptions, direction: Direction
) -> float:
    tokens = options.tokens_per_rank
    return shared_expert_time(shape, rack.gpu, tokens, direction, options.weight_dtype)


class _Layer:
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
        self.training = options.phase == "training"
        self.streams = price.transport in ("stream", "broadcast")

    def forward(self) -> dict[str, Seconds]:
        price = self.price
        decision = price.exchange.si + price.solve.si + price.tasks.si
        return {
            "fwd_attention": self._same(self._attention("forward")),
            "fwd_plan": self._same(decision),
            "fwd_distribute": self._distribute(),
            "fwd_reroute": self._same(price.reroute.si),
            "fwd_dispatch": self._dispatch("forward"),
            "fwd_compute": self._experts("forward"),
            "fwd_combine": self._combine("forward"),
        }

    def backward(self, forward: dict[str, Seconds]) -> dict[str, Seconds]:
        if not self.training:
            return dict.fromkeys(BACKWARD_PHASES, self._same(0.0))
        again = self._same(0.0)
        if self.options.recompute == "full":
            again = sum((forward[p] for p in _WORK), again)
        return {
            "bwd_recompute": again,
            "bwd_combine": self._dispatch("backward"),
            "bwd_distribute": self._distribute() if self.streams else self._same(0.0),
            "bwd_compute": self._experts("backward"),
            "bwd_dispatch": self._combine("backward"),
            "bwd_attention": self._same(self._attention("backward")),
            "bwd_grad_reduce": self._grad_reduce(),
        }

    def critical(self, phases: dict[str, Seconds]) -> dict[str, Seconds]:
        """Reduce busy times to what each phase adds where ranks wait for each other."""
        out = {name: busy.max(axis=1) for name, busy in phases.items()}
        if self.price.hidden:
            out["fwd_plan"] = np.zeros(self.records)
        out["fwd_attention"] = out["fwd_attention"] + self._shared_leftover(out, "forward")
        work = sum((out[p] for p in _WORK), np.zeros(self.records))
        if self.price.prefetched:
            out["fwd_distribute"] = _beyond(out["fwd_distribute"], work)
        out["fwd_reroute"] = _beyond(out["fwd_reroute"], out["fwd_distribute"])
        if not self.training:
            return out
        if self.options.recompute == "full":
            out["bwd_recompute"] = work
        window = out["bwd_attention"]
        reduce = out["bwd_grad_reduce"]
        out["bwd_grad_reduce"] = _beyond(reduce, window)
        out["bwd_attention"] = window + self._shared_leftover(out, "backward")
        if self.price.prefetched:
            free = sum((out[p] for p in _BACKWARD_WORK), -np.minimum(reduce, window))
            out["bwd_distribute"] = _beyond(out["bwd_distribute"], free)
        elif self.options.restore == "overlapped":
            out["bwd_distribute"] = self._restore_leftover(out["bwd_distribute"], reduce, window)
        return out

    def _restore_leftover(self, restore: Seconds, reduce: Seconds, window: Seconds) -> Seconds:
        if self.options.recompute == "full":
            return _beyond(restore, np.full(self.records, self._attention("forward")))
        return _beyond(reduce + restore, window) - _beyond(reduce, window)

    def _shared_leftover(self, out: dict[str, Seconds], direction: Direction) -> Seconds:
        """Shared-expert time that dispatch and combine do not hide, where they may hide it."""
        if self.options.overlap == "none":
            return np.zeros(self.records)
        prefix = "fwd" if direction == "forward" else "bwd"
        cover = out[f"{prefix}_dispatch"] + out[f"{prefix}_combine"]
        shared = _shared_seconds(self.shape, self.rack, self.options, direction)
        return _beyond(np.full(self.records, shared), cover)

    def _same(self, seconds: float) -> Seconds:
        return np.broadcast_to(np.float64(seconds), (self.records, self.ranks))

    def _attention(self, direction: Direction) -> float:
        return attention_seconds(self.shape, self.rack, self.options, direction)

    def _experts(self, direction: Direction) -> Seconds:
        law = expert_forward if direction == "forward" else expert_backward
        s, options = self.stats, self.options
        return law(
            self.shape,
            self.rack.gpu,
            s.pairs,
            s.tiles,
            s.instances,
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
        if not (self.price.relay and self.options.relay == "auto"):
            return streaming.distribute(self.rack, s.copies_sent, s.copies_received, copy, far=far)
        relayed = s.relayed[:, None]
        sent = np.where(relayed, s.relay_sent, s.copies_sent)
        far = (
            np.where(relayed, s.far_relay_sent, far[0]),
            np.where(relayed, s.far_relay_received, far[1]),
        )
        return streaming.distribute(self.rack, sent, s.copies_received, copy, s.relayed, far)

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


def _beyond(work: Seconds, window: Seconds) -> Seconds:
    """Return what of `work` sticks out of `window`."""
    return np.maximum(work - window, 0.0)
