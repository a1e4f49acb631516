"""What a log was measured on: rack and model set physical bounds and what to expect of a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ultraep_sim.calibrate.fit import Parameter
from ultraep_sim.calibrate.runlog.log import Floats
from ultraep_sim.compute.kernel_laws import PAIR_HIDDEN
from ultraep_sim.model.dtypes import activation_bytes
from ultraep_sim.model.profiles import RackProfile
from ultraep_sim.model.shapes import ModelShape

_NS = 1e9
#: A pair may take so many times the least time that the datasheet allows.
_SLOWEST = 300.0


@dataclass(frozen=True)
class Context:
    """Rack, model and formats of a run.

    Parameters
    ----------
    rack : RackProfile
        What the run ran on, as far as it is known before: the fit replaces what the log tells.
    model : ModelShape
    ranks : int
        Of the EP group: one pair in so many stays on its rank.
    weight_dtype, dispatch_dtype, combine_dtype : str
        Formats of weights and arithmetic, and on the wire.
    """

    rack: RackProfile
    model: ModelShape
    ranks: int
    weight_dtype: str = "bf16"
    dispatch_dtype: str = "bf16"
    combine_dtype: str = "bf16"

    def wire_bytes(self, kind: str) -> float:
        """Bytes that one pair of a rank's load brings over the fabric, on average."""
        dtype = self.dispatch_dtype if kind == "dispatch" else self.combine_dtype
        return self.model.hidden * activation_bytes(dtype) * (1 - 1 / self.ranks)

    @property
    def least_ns(self) -> dict[str, float]:
        """Nanoseconds of one pair (copy) at the datasheet's rates, by kind; a step has none."""
        gpu, link = self.rack.gpu, self.rack.scale_up_GBps.si
        math = self.model.flops_per_pair / gpu.peak(self.weight_dtype) * _NS
        wire = {k: self.wire_bytes(k) / link * _NS for k in ("dispatch", "combine")}
        return {
            "experts": math,
            "experts_backward": 2 * math,
            "layer": max(math, *wire.values()),  # the rest may be hidden behind the longest
            "weights": self.model.expert_bytes(self.weight_dtype) / link * _NS,
            **wire,
        }

    @property
    def expected_ns(self) -> dict[str, tuple[float, float]]:
        """Nanoseconds that are fixed, and those of one pair (copy), by kind, as the rack is."""
        gpu, rack = self.rack.gpu, self.rack
        launch, pair = gpu.expert_launch_us.si * _NS, gpu.expert_pair_ns.value
        pair *= self.model.hidden / PAIR_HIDDEN
        flops = self.model.flops_per_pair
        forward = pair + flops / gpu.rate("expert", "forward", self.weight_dtype) * _NS
        backward = 2 * pair + 2 * flops / gpu.rate("expert", "backward", self.weight_dtype) * _NS
        # A rank reads the weights of its experts however few pairs come.
        local = -(-self.model.num_experts // self.ranks)
        read = local * self.model.expert_bytes(self.weight_dtype) / gpu.memory_rate * _NS
        floor, rate = rack.alltoall_floor_us.si * _NS, rack.alltoall_rate("forward")
        wire = {k: self.wire_bytes(k) / rate * _NS for k in ("dispatch", "combine")}
        copy = self.model.expert_bytes(self.weight_dtype) / rack.stream_rate * _NS
        return {
            "experts": (launch + read, forward),
            "experts_backward": (2 * launch + 3 * read, backward),
            "layer": (launch + read + 2 * floor, forward + sum(wire.values())),
            "weights": (rack.stream_base_us.si * _NS, copy),
            "dispatch": (floor, wire["dispatch"]),
            "combine": (floor, wire["combine"]),
        }


def pair_parameter(name: str, kind: str, context: Context | None, typical: float) -> Parameter:
    """Return the bounds of a time per pair (per copy, of `weights`).

    Parameters
    ----------
    name, kind : str
    context : Context or None
        Where it is not known what ran, six decades around what the rows say.
    typical : float
        Nanoseconds per pair of the rows.
    """
    least = None if context is None else context.least_ns.get(kind)
    if least is None or name == "exposed_ns":  # hidden communication may cost nothing
        return Parameter(name, "ns", typical, typical * 1e-3, typical * 1e3)
    return Parameter(
        name, "ns", float(np.clip(typical, least, _SLOWEST * least)), least, _SLOWEST * least
    )


def expected_seconds(kind: str, load: Floats, context: Context) -> Floats | None:
    """Return what the rack would take before it is calibrated, seconds [N]."""
    found = context.expected_ns.get(kind)
    return None if found is None else (found[0] + found[1] * load) / _NS
