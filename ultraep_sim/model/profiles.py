"""Hardware profiles: what a GPU and a rack can do, each number with its provenance."""
# ruff: noqa: N815  # units stand in the names (GBps, TFLOPs), capitals and all

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ultraep_sim.errors import ProfileError
from ultraep_sim.model.dtypes import DTYPES
from ultraep_sim.model.provenance import SCENARIO_OVERRIDE, Quantity

Kernel = Literal["expert", "dense", "attention"]
Direction = Literal["forward", "backward"]


class _Profile:
    """What GPU and rack profiles share: printing and overriding their quantities."""

    name: str

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping of every number with unit, provenance and source."""
        out: dict[str, Any] = {}
        for f in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, f.name)
            out[f.name] = value.to_dict() if isinstance(value, Quantity | _Profile) else value
        return out

    def quantities(self, prefix: str = "") -> dict[str, Quantity]:
        """Every number by its (dotted) name."""
        out: dict[str, Quantity] = {}
        for f in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, f.name)
            if isinstance(value, Quantity):
                out[prefix + f.name] = value
            elif isinstance(value, _Profile):
                out |= value.quantities(f"{prefix}{f.name}.")
        return out

    def _overridden(self, overrides: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for key, value in _nested(overrides).items():
            place = f"{self.name}: {prefix}{key}"
            old = getattr(self, key, None) if key in {f.name for f in fields(self)} else None  # type: ignore[arg-type]  # subclasses are dataclasses
            if isinstance(old, Quantity):
                try:
                    changes[key] = old.overridden(value)
                except ProfileError as error:
                    raise error.at(place=place) from None
            elif isinstance(old, GpuProfile):
                if not isinstance(value, Mapping):
                    raise ProfileError(
                        "a GPU is overridden number by number",
                        place=place,
                        value=value,
                        remedy="write gpu: {bf16_TFLOPs: ...}",
                    )
                changes[key] = replace(old, **old._overridden(value, f"{prefix}{key}."))
            else:
                known = ", ".join(self.quantities())
                raise ProfileError(
                    "no such number in this profile",
                    place=place,
                    value=key,
                    remedy=f"one of {known}",
                )
        return changes


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys (``gpu.hbm_GB``) into nested mappings."""
    out: dict[str, Any] = {}
    for key, value in overrides.items():
        head, dot, rest = str(key).partition(".")
        if dot:
            inner = out.setdefault(head, {})
            if isinstance(inner, dict):
                inner[rest] = value
                continue
        if isinstance(value, Mapping) and isinstance(out.get(head), dict):
            out[head] |= value
        else:
            out[head] = dict(value) if isinstance(value, Mapping) else value
    return out


def _refuse_zero(profile: _Profile, *names: str) -> None:
    for name in names:
        value = getattr(profile, name)
        if isinstance(value, Quantity) and value.value == 0:
            raise ProfileError(
                "a rate or size of zero",
                place=f"{profile.name}: {name}",
                value=value.value,
                remedy="give a positive number",
            )


@dataclass(frozen=True)
class GpuProfile(_Profile):
    """One GPU. Names carry units; ``.si`` of each gives SI.

    Parameters
    ----------
    name : str
        The GPU.
    sms : Quantity
        Streaming multiprocessors.
    bf16_TFLOPs, fp8_TFLOPs, fp4_TFLOPs : Quantity or None
        Dense peak; None where the hardware lacks the format.
    hbm_TBps, hbm_GB : Quantity
        Nominal memory bandwidth and capacity.
    hbm_achieved_TBps : Quantity
        Bandwidth of streaming expert weights and activations in practice.
    expert_forward_TFLOPs, expert_backward_TFLOPs : Quantity
        Asymptotic bf16 rate of the grouped GEMMs of the experts.
    expert_launch_us, expert_pair_ns : Quantity
        t0 and c of the grouped-GEMM law; c holds for hidden 4096 and scales with hidden.
    dense_forward_TFLOPs, dense_backward_TFLOPs : Quantity
        bf16 rate of large plain GEMMs (projections, shared experts, gate).
    attention_forward_TFLOPs, attention_backward_TFLOPs : Quantity
        bf16 rate of fused causal attention, counting only unmasked work.
    fp8_speedup, fp4_speedup : Quantity or None
        Achieved GEMM rate over the achieved bf16 rate.
    """

    name: str
    sms: Quantity
    bf16_TFLOPs: Quantity
    fp8_TFLOPs: Quantity
    fp4_TFLOPs: Quantity | None
    hbm_TBps: Quantity
    hbm_GB: Quantity
    hbm_achieved_TBps: Quantity
    expert_forward_TFLOPs: Quantity
    expert_backward_TFLOPs: Quantity
    expert_launch_us: Quantity
    expert_pair_ns: Quantity
    dense_forward_TFLOPs: Quantity
    dense_backward_TFLOPs: Quantity
    attention_forward_TFLOPs: Quantity
    attention_backward_TFLOPs: Quantity
    fp8_speedup: Quantity
    fp4_speedup: Quantity | None

    def __post_init__(self) -> None:
        _refuse_zero(
            self, *(f.name for f in fields(self) if not f.name.endswith(("_us", "_ns", "name")))
        )

    def peak(self, dtype: str) -> float:
        """Nominal dense rate in FLOP/s."""
        if dtype not in DTYPES:
            raise ProfileError("unknown dtype", value=dtype, remedy=f"one of {', '.join(DTYPES)}")
        quantity: Quantity | None = getattr(self, f"{dtype}_TFLOPs")
        if quantity is None:
            raise ProfileError(
                f"this GPU has no {dtype} units",
                place=self.name,
                value=dtype,
                remedy="choose another dtype or rack",
            )
        return quantity.si

    def rate(self, kernel: Kernel, direction: Direction, dtype: str = "bf16") -> float:
        """Achieved rate of a kernel family in FLOP/s, never above the nominal peak.

        Attention is always computed in bf16: pass ``dtype="bf16"`` for it.
        """
        peak = self.peak(dtype)
        base: Quantity = getattr(self, f"{kernel}_{direction}_TFLOPs")
        speedup = 1.0 if dtype == "bf16" else getattr(self, f"{dtype}_speedup").si
        return float(min(base.si * speedup, peak))

    @property
    def memory_rate(self) -> float:
        """Achieved HBM bandwidth in bytes/s, never above the nominal one."""
        return min(self.hbm_achieved_TBps.si, self.hbm_TBps.si)


@dataclass(frozen=True)
class RackProfile(_Profile):
    """One scale-up domain of equal GPUs and its way out. Names carry units.

    Parameters
    ----------
    name : str
        The rack.
    gpu : GpuProfile
        Its GPUs.
    domain : Quantity
        GPUs in the scale-up domain.
    scale_up_GBps : Quantity
        Nominal scale-up bandwidth of one GPU and direction.
    alltoall_forward_GBps, alltoall_backward_GBps, alltoall_floor_us : Quantity
        Achieved rate of dispatch and combine on the busiest rank, and the floor of one of them.
    scale_out_Gbps, scale_out_achieved_GBps, scale_out_floor_us : Quantity
        Nominal NIC rate of one GPU, achieved all-to-all rate over it, and its floor.
    stream_GBps, stream_base_us, relay_us : Quantity
        Tile streaming of weights: rate on the busiest GPU, constant part, extra of a relay tree.
    migrate_GBps, migrate_base_us : Quantity
        Bulk send/receive of weights (re-placement of history-based policies).
    grad_reduce_GBps, grad_reduce_sms : Quantity
        Rate at which a home rank gathers and adds replica gradients, and the SMs that takes.

    Notes
    -----
    Achieved figures set the time; nominal ones cap them, so overriding a nominal figure upwards
    alone changes nothing.
    """

    name: str
    gpu: GpuProfile
    domain: Quantity
    scale_up_GBps: Quantity
    alltoall_forward_GBps: Quantity
    alltoall_backward_GBps: Quantity
    alltoall_floor_us: Quantity
    scale_out_Gbps: Quantity
    scale_out_achieved_GBps: Quantity
    scale_out_floor_us: Quantity
    stream_GBps: Quantity
    stream_base_us: Quantity
    relay_us: Quantity
    migrate_GBps: Quantity
    migrate_base_us: Quantity
    grad_reduce_GBps: Quantity
    grad_reduce_sms: Quantity

    def __post_init__(self) -> None:
        names = [f.name for f in fields(self) if f.name.endswith(("GBps", "Gbps", "sms"))]
        _refuse_zero(self, "domain", *names)
        for name in ("domain", "grad_reduce_sms"):
            value = getattr(self, name).value
            if not math.isclose(value, round(value)):
                raise ProfileError(
                    "not a whole number",
                    place=f"{self.name}: {name}",
                    value=value,
                    remedy="give an integer",
                )

    @property
    def domain_size(self) -> int:
        """GPUs in the scale-up domain."""
        return round(self.domain.value)

    def alltoall_rate(self, direction: Direction) -> float:
        """Achieved dispatch or combine rate of a rank in bytes/s, at most the nominal link's."""
        achieved: Quantity = getattr(self, f"alltoall_{direction}_GBps")
        return min(achieved.si, self.scale_up_GBps.si)

    @property
    def scale_out_rate(self) -> float:
        """Achieved all-to-all rate of a rank's NIC in bytes/s, at most its nominal rate."""
        return min(self.scale_out_achieved_GBps.si, self.scale_out_Gbps.si)

    @property
    def stream_rate(self) -> float:
        """Tile-streaming rate of the busiest GPU in bytes/s, at most the nominal link's."""
        return min(self.stream_GBps.si, self.scale_up_GBps.si)

    @property
    def migrate_rate(self) -> float:
        """Bulk send/receive rate in bytes/s, at most the nominal link's."""
        return min(self.migrate_GBps.si, self.scale_up_GBps.si)

    def grad_reduce_rate(self, sms: int | None = None) -> float:
        """Rate in bytes/s at which a home gathers replica gradients on a budget of SMs.

        Proportional to the SMs (it is bound by them) until the streaming rate of the link.

        Raises
        ------
        ProfileError
            A budget that the GPU does not have.
        """
        budget = self.grad_reduce_sms.si if sms is None else sms
        if not 1 <= budget <= self.gpu.sms.si:
            raise ProfileError(
                f"{self.gpu.name} has {self.gpu.sms.value:g} SMs",
                place="grad_reduce_sms",
                value=budget,
                remedy="give a budget within them",
            )
        rate = self.grad_reduce_GBps.si * budget / self.grad_reduce_sms.si
        return min(rate, self.stream_rate)

    def overrides(self) -> dict[str, float]:
        """Return the numbers that `with_overrides` replaced, by (dotted) name."""
        return {
            name: q.value
            for name, q in self.quantities().items()
            if q.provenance == "assumed" and q.source == SCENARIO_OVERRIDE
        }

    def with_overrides(self, overrides: Mapping[str, Any]) -> RackProfile:
        """Return the rack with numbers replaced, each marked as the user's assumption.

        Parameters
        ----------
        overrides : mapping
            Name to number in the unit the name ends with; GPU numbers nested under ``gpu`` or
            dotted (``gpu.hbm_GB``).

        Raises
        ------
        ProfileError
            A name this profile lacks, or a value that is no positive number.
        """
        return replace(self, **self._overridden(overrides, ""))
