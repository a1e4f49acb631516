"""A hardware profile from the kernel tables of one system.

The grouped GEMM is fitted in the simulator's own law (`compute.gemm`: a sharp roofline of every
instance, whole tiles), pooled over the models, so that the numbers mean in a run what they meant
in the fit. The tables time inference, so backward rates are assumptions: those of experts and
attention keep the preset's ratio to the forward rate, that of the all-to-all is as forward. What
else they cannot tell (NICs, weight streaming) keeps its value and provenance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ultraep_sim.calibrate.fit import FitResult, Rows, fit
from ultraep_sim.calibrate.numbers import (
    banded,
    capped,
    following,
    number,
    source,
    spread,
    together,
)
from ultraep_sim.calibrate.silicon import alltoall, attention, moe, nccl, rack_alltoall
from ultraep_sim.calibrate.silicon.tables import DISTRIBUTION, VERSION
from ultraep_sim.compute.attention import score_flops
from ultraep_sim.compute.kernel_laws import (
    QUERY_ROWS,
    attention_core,
    collective,
    exchange,
    grouped_gemm,
    rack_exchange,
)
from ultraep_sim.errors import CalibrationError
from ultraep_sim.model.attention import AttentionShape, visible_keys
from ultraep_sim.model.hardware import RACKS
from ultraep_sim.model.profiles import GpuProfile, RackProfile
from ultraep_sim.model.provenance import Quantity

#: The rack a system's profile starts from.
RACK_OF = {
    "h100": "h100-nvl8",
    "h200": "h200-nvl8",
    "b200": "b200-nvl8",
    "gb200": "gb200-nvl72",
    "gb300": "gb300-nvl72",
}
#: Whose kernels the tables time.
FRAMEWORKS = ("trtllm", "vllm", "sglang")
FOLDS = 5
#: Prompt length at which a profile's attention rate holds, as in the presets.
LENGTH = 8192
#: Kernels whose time a training or prefill layer would see; the others are for few tokens.
_SKIPPED = "min_latency"


@dataclass(frozen=True)
class Calibrated:
    """A rack with new numbers, what it was before, and the fits by name."""

    rack: RackProfile
    base: RackProfile
    fits: dict[str, FitResult]

    @property
    def numbers(self) -> dict[str, Quantity]:
        """Return the new numbers by dotted name."""
        before = self.base.quantities()
        return {name: q for name, q in self.rack.quantities().items() if q != before[name]}

    def notes(self) -> dict[str, Any]:
        """Return what a profile file tells beside the rack."""
        files = {
            entry["file"]: entry["sha256"]
            for found in self.fits.values()
            for entry in found.manifest["files"]
        }
        return {
            "inputs": {"package": f"{DISTRIBUTION} {VERSION} (Apache-2.0)", "files": files},
            "fits": {name: found.to_dict() for name, found in self.fits.items()},
        }


def calibrate(
    root: Path,
    system: str,
    *,
    framework: str = "trtllm",
    progress: Callable[[str, int, int], None] | None = None,
) -> Calibrated:
    """Fit what the tables tell of a system, and put it into its rack.

    Parameters
    ----------
    root : Path
        From `tables.find_tables`.
    system : str
        One of `RACK_OF`.
    framework : str
        Whose kernels: one of `FRAMEWORKS`.
    progress : callable, optional
        Told what, done, total.

    Raises
    ------
    CalibrationError
        The system or the framework is unknown, or the tables hold no rows for it.
    """
    for what, value, choices in (("system", system, RACK_OF), ("framework", framework, FRAMEWORKS)):
        if value not in choices:
            raise CalibrationError(
                f"unknown {what}",
                place=f"--{what}",
                value=value,
                remedy=f"one of {', '.join(choices)}",
            )
    base = RACKS[RACK_OF[system]]
    jobs = _jobs(root, system, framework, base)
    fits = {}
    for done, (name, (law, parameters, rows)) in enumerate(jobs.items()):
        if progress is not None:
            progress("fits", done, len(jobs))
        fits[name] = fit(law, parameters, rows, folds=FOLDS)
    if progress is not None:
        progress("fits", len(jobs), len(jobs))
    numbers: dict[str, Any] = _gpu(fits, base.gpu, framework)
    gpu = replace(base.gpu, **numbers)
    numbers = {"name": f"{base.name}-{framework}", "gpu": gpu, **_links(fits, base)}
    rack = replace(base, **numbers)
    return Calibrated(rack, base, fits)


def _jobs(root: Path, system: str, framework: str, base: RackProfile) -> dict[str, Any]:
    table = moe.read_moe(root, system, framework)
    jobs: dict[str, Any] = {}
    for name, precision in (("bf16", "bfloat16"), ("fp8", "fp8_block"), ("fp4", "nvfp4")):
        sets = [
            moe.balanced_rows(table, case)
            for case in moe.cases(table, system, framework)
            if case.precision == precision and _SKIPPED not in case.kernel
        ]
        if sets:
            parameters = moe.parameters(base.gpu, precision, plain=True)
            jobs[f"grouped_gemm_{name}"] = (grouped_gemm, parameters, moe.combine(sets))
    rows: Rows = attention.context_rows(root, system)
    jobs["attention"] = (attention_core, attention.parameters(base.gpu), rows)
    newest = alltoall.read_alltoall(root, alltoall.versions(root, system)[-1])
    for phase in alltoall.PHASES:
        rows = alltoall.phase_rows(newest, system, phase)
        jobs[phase] = (exchange, alltoall.parameters(base), rows)
    rows = nccl.nccl_rows(root, system, "alltoall", base.domain_size)
    jobs["nccl_alltoall"] = (collective, nccl.parameters(base), rows)
    if rack_alltoall.has_table(root, system):
        rows = _wide_rows(root, system)
        jobs["rack_alltoall"] = (rack_exchange, rack_alltoall.parameters(base, plain=True), rows)
    return jobs


def _wide_rows(root: Path, system: str) -> Rows:
    """Dispatch and combine of the faster kernel in wide groups, below each other."""
    table = rack_alltoall.read_rack_alltoall(root, system)
    rows = moe.combine(rack_alltoall.set_rows(table, system, n) for n in rack_alltoall.FASTER)
    return rows.take(rows.columns["ranks"] >= rack_alltoall.WIDE)


def _number(found: FitResult, name: str, unit: str, what: str) -> Quantity:
    return number(found, name, unit, _source(found, what))


def _source(found: FitResult, what: str) -> str:
    return source(found, f"{what} of {DISTRIBUTION} {VERSION}")


def _gpu(fits: dict[str, FitResult], gpu: GpuProfile, framework: str) -> dict[str, Quantity]:
    moe_perf = f"moe_perf ({framework}, bf16, balanced)"
    bf16 = fits.get("grouped_gemm_bf16")
    if bf16 is None:
        raise CalibrationError(
            "no bf16 rows of a known model", value=framework, remedy="choose another framework"
        )
    out = {
        "expert_forward_TFLOPs": _number(bf16, "rate_TFLOPs", "TFLOP/s", moe_perf),
        "hbm_achieved_TBps": _number(bf16, "hbm_TBps", "TB/s", moe_perf),
        "expert_launch_us": _number(bf16, "launch_us", "us", moe_perf),
        "expert_pair_ns": _number(bf16, "pair_ns", "ns", moe_perf),
        "attention_forward_TFLOPs": _attention(fits["attention"], gpu),
    }
    for short in ("fp8", "fp4"):
        found = fits.get(f"grouped_gemm_{short}")
        if found is not None and getattr(gpu, f"{short}_speedup") is not None:
            what = f"moe_perf ({framework}, {short} over bf16, balanced)"
            out[f"{short}_speedup"] = _ratio(found, bf16, what)
    return out | {
        f"{what}_backward_TFLOPs": _backward(out[f"{what}_forward_TFLOPs"], gpu, what)
        for what in ("expert", "attention")
    }


def _backward(forward: Quantity, gpu: GpuProfile, what: str) -> Quantity:
    """Return the backward rate at the preset's ratio to the forward rate, within the datasheet."""
    before, partner = (getattr(gpu, f"{what}_{way}_TFLOPs") for way in ("forward", "backward"))
    ratio = f"{what} backward over forward as preset for {gpu.name}"
    rate = following(forward, before, partner, ratio, f"forward: {forward.source}")
    return replace(rate, high=min(rate.high or rate.value, gpu.peak("bf16") / 1e12))


def _attention(found: FitResult, gpu: GpuProfile) -> Quantity:
    """Return the rate that many prompts of `LENGTH` tokens reach: the simulator's law has one.

    Not counted are the launch and the wait for the last block, which few heads alone notice.
    """
    of_key = score_flops(AttentionShape(heads=1, kv_heads=1, head_dim=attention.HEAD_DIM), 1.0)
    flops = of_key * visible_keys(0, LENGTH)
    math = flops / (found.values["rate_TFLOPs"] * 1e12)
    ramp = math * found.values["ramp_tokens"] / LENGTH
    blocks = found.values["block_us"] * 1e-6 * LENGTH / QUERY_ROWS / gpu.sms.value
    seconds = math + ramp + blocks
    moved = together(
        spread(found, "rate_TFLOPs", (math + ramp) / seconds),
        spread(found, "ramp_tokens", -ramp / seconds),
        spread(found, "block_us", -blocks / seconds),
    )
    where = _source(found, f"context_attention_perf at {LENGTH} tokens")
    rate = banded(flops / seconds * 1e-12, moved, "TFLOP/s", where)
    most = found.interval("rate_TFLOPs")[1] * math / seconds  # within the datasheet
    return capped(rate, most)


def _ratio(one: FitResult, other: FitResult, what: str) -> Quantity:
    """Return one rate over another, of two separate fits."""
    value = one.values["rate_TFLOPs"] / other.values["rate_TFLOPs"]
    moved = together(spread(one, "rate_TFLOPs"), spread(other, "rate_TFLOPs", -1))
    return banded(value, moved, "1", _source(one, what))


def _links(fits: dict[str, FitResult], base: RackProfile) -> dict[str, Quantity]:
    """Rate and floor of dispatch and combine, where a table covers the domain.

    Inside one server those of the slower of both. On an NVL72 of both together, from groups of
    `rack_alltoall.WIDE` ranks on, in the law of `fabric.alltoall`; a rack without such a table
    keeps its own figures.
    """
    if "rack_alltoall" in fits:
        found, what = fits["rack_alltoall"], f"{rack_alltoall.NAME} (NVLink one-sided)"
    elif base.domain_size > 8:
        return {}
    else:
        found = min((fits["dispatch"], fits["combine"]), key=lambda f: f.values["link_GBps"])
        what = "wideep_deepep_normal_perf"
    rate = _number(found, "link_GBps", "GB/s", what)
    as_forward = replace(rate, provenance="assumed", source=f"as forward, {rate.source}")
    return {
        "alltoall_forward_GBps": rate,
        "alltoall_backward_GBps": as_forward,
        "alltoall_floor_us": _number(found, "floor_us", "us", what),
    }
