"""A rack with the numbers that a run's log tells, in terms of what the log determines.

A log of times and loads tells products and sums, so they are what is written: the rate of the
experts contains the cost per pair (``expert_pair_ns`` becomes 0, as in the paper's rack), and the
rate of the all-to-all is that of dispatch and combine together.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from ultraep_sim.calibrate.fit import FitResult
from ultraep_sim.calibrate.numbers import (
    Spread,
    banded,
    following,
    number,
    scaled,
    source,
    spread,
    together,
)
from ultraep_sim.calibrate.outcome import Outcome, with_numbers
from ultraep_sim.calibrate.runlog.context import Context
from ultraep_sim.calibrate.runlog.diagnose import diagnose
from ultraep_sim.calibrate.runlog.fits import fit_kinds
from ultraep_sim.calibrate.runlog.log import Log
from ultraep_sim.errors import CalibrationError
from ultraep_sim.model.provenance import Quantity, fitted

Fits = dict[str, FitResult]
Numbers = dict[str, Quantity]

_TOLD = 3  # findings in an error, of the most rows first
_SHARED = ("gpu.expert", "alltoall")


def calibrate_log(log: Log, context: Context | None, repair: Collection[str] = ()) -> Outcome:
    """Judge a log's rows, fit the good ones, and put what they tell into a rack.

    Parameters
    ----------
    log : Log
        With loads.
    context : Context or None
        Without it there is no rack, only times per pair.
    repair : collection of str
        Diseases to mend rather than to exclude.

    Raises
    ------
    CalibrationError
        No row is left, or too few for the parameters.
    """
    found = diagnose(log, context, repair)
    if not found.good.any():
        worst = sorted(found.findings, key=lambda one: -len(one.rows))
        told = "; ".join(map(str, worst[:_TOLD]))
        if len(worst) > _TOLD:
            told += f"; and {len(worst) - _TOLD} more, on fewer rows"
        raise CalibrationError("no good row is left", file=log.sources[0][0], remedy=told)
    fits = fit_kinds(found, context)
    numbers: Numbers = {} if context is None else _numbers(fits, context)
    name = Path(log.sources[0][0]).stem
    rack = None
    if context is not None and numbers:
        rack = with_numbers(context.rack, numbers, f"{context.rack.name}-{name}")
    unfitted = {"step": "a whole step's time per pair is no single number of a rack"}
    if context is not None and not any(name.startswith(_SHARED) for name in numbers):
        unfitted["layer"] = "less time than compute and communication take in turn: they overlap"
    return Outcome(
        title=log.sources[0][0],
        fits=fits,
        inputs=dict(log.sources),
        rack=rack,
        numbers=numbers,
        findings=found.findings,
        warnings=tuple(_memory_bound(log, context)),
        unfitted={k: v for k, v in unfitted.items() if k in fits},
    )


def _memory_bound(log: Log, context: Context | None) -> list[str]:
    """Warn where reading the weights, not the pairs, may set the time of the experts."""
    if context is None:
        return []
    model, gpu = context.model, context.rack.gpu
    local = -(-model.num_experts // context.ranks)
    read = local * model.expert_bytes(context.weight_dtype) / gpu.memory_rate
    pairs = read * gpu.rate("expert", "forward", context.weight_dtype) / model.flops_per_pair
    few = int(((log.kind == "experts") & (log.load > 0) & (log.load < pairs)).sum())
    if not few:
        return []
    return [
        f"experts: {few} rows have fewer than {pairs:.0f} pairs, so that reading the weights may "
        "set their time and not the pairs; leave them out if the residuals are large"
    ]


def _numbers(fits: Fits, context: Context) -> Numbers:
    out: Numbers = {}
    if "experts" in fits:
        out |= _experts(fits["experts"], context)
    if "experts_backward" in fits:
        rate = _rate(fits["experts_backward"], context, 2.0, "experts_backward of the log")
        out["gpu.expert_backward_TFLOPs"] = rate
    exchanges = [fits[kind] for kind in ("dispatch", "combine") if kind in fits]
    if exchanges:
        out |= _exchanges(exchanges, [k for k in ("dispatch", "combine") if k in fits], context)
    layer = fits.get("layer")
    if layer is not None and "exposed_ns" in layer.values and not exchanges:
        wire = context.wire_bytes("dispatch") + context.wire_bytes("combine")
        where = source(layer, "exposed communication of layers of the log, overlap left out")
        value, moved = wire / layer.values["exposed_ns"], spread(layer, "exposed_ns", -1)
        out["alltoall_forward_GBps"] = banded(value, moved, "GB/s", where)
    elif layer is not None and "pair_ns" in layer.values:
        out |= _layer(layer, context)
    if "weights" in fits:
        size = context.model.expert_bytes(context.weight_dtype)
        found = fits["weights"]
        where = source(found, "weight distribution of the log")
        value = size / found.values["pair_ns"]
        out["stream_GBps"] = banded(value, spread(found, "pair_ns", -1), "GB/s", where)
        out["stream_base_us"] = number(found, "fixed_us", "us", where)
    return out


def _speedup(context: Context) -> float:
    """Rates of a profile are bf16 ones; other formats multiply them."""
    if context.weight_dtype == "bf16":
        return 1.0
    quantity: Quantity = getattr(context.rack.gpu, f"{context.weight_dtype}_speedup")
    return quantity.si


def _rate(found: FitResult, context: Context, work: float, what: str) -> Quantity:
    flops = work * context.model.flops_per_pair / _speedup(context)
    where = source(found, f"{what} ({context.model.name}, {context.weight_dtype})")
    value = flops / found.values["pair_ns"] * 1e-3
    return banded(value, spread(found, "pair_ns", -1), "TFLOP/s", where)


def _experts(found: FitResult, context: Context) -> Numbers:
    gpu = context.rack.gpu
    forward = _rate(found, context, 1.0, "experts of the log, median rank")
    ratio = f"backward over forward as on {context.rack.name}"
    before, partner = gpu.expert_forward_TFLOPs, gpu.expert_backward_TFLOPs
    backward = following(forward, before, partner, ratio, "forward from the log")
    return {
        "gpu.expert_forward_TFLOPs": forward,
        "gpu.expert_backward_TFLOPs": backward,
        "gpu.expert_launch_us": number(
            found, "fixed_us", "us", source(found, "experts of the log")
        ),
        "gpu.expert_pair_ns": fitted(0, "ns", source(found, "inside the fitted rate")),
    }


def _exchanges(fits: list[FitResult], kinds: list[str], context: Context) -> Numbers:
    """Dispatch and combine share a rate in the simulator: the one that gives their sum."""
    wire = sum(context.wire_bytes(kind) for kind in kinds)
    where = " and ".join(source(f, k) for f, k in zip(fits, kinds, strict=True)) + " of the log"
    total, slower = _sum(fits, "pair_ns")
    floor, later = _sum(fits, "fixed_us")
    return {
        "alltoall_forward_GBps": banded(wire / total, scaled(slower, -1), "GB/s", where),
        "alltoall_floor_us": banded(floor / len(fits), later, "us", where),
    }


def _sum(fits: list[FitResult], name: str) -> tuple[float, Spread]:
    """Add a parameter of several fits; the spread of the sum is to first order."""
    total = sum(found.values[name] for found in fits)
    return total, together(*(spread(f, name, f.values[name] / total) for f in fits))


def _layer(found: FitResult, context: Context) -> Numbers:
    """Share a layer's time per pair as the rack did before: no row tells the two apart.

    Nothing where the time is less than both take one after the other: then they overlap.
    """
    measured, sd = found.values["pair_ns"], found.relative_sd("pair_ns")
    least, expected = context.least_ns, context.expected_ns
    least_math, least_wire = least["experts"], least["dispatch"] + least["combine"]
    most_math, most_wire = measured - least_wire, measured - least_math
    if most_math < least_math:
        return {}
    share = expected["experts"][1] / (expected["layer"][1])
    math_ns = min(max(measured * share, least_math), most_math)
    flops = context.model.flops_per_pair / _speedup(context) * 1e-3
    moved = context.wire_bytes("dispatch") + context.wire_bytes("combine")
    wire_ns = measured - math_ns
    where = source(found, f"layers of the log, shared out as on {context.rack.name}")
    where += f"; compute + exposed communication: {measured:.4g} ns a pair +-{sd:.1%}"
    total = spread(found, "pair_ns", -1)
    # What one of the two gains the other loses: to first order the sum stays.
    share = math.log(most_math / least_math) / 4
    math_moved = together(total, {where: -share})
    wire_moved = together(total, {where: share * math_ns / wire_ns})
    return {
        "gpu.expert_forward_TFLOPs": _between(
            flops / math_ns, math_moved, "TFLOP/s", where, flops / most_math, flops / least_math
        ),
        "gpu.expert_pair_ns": fitted(0, "ns", source(found, "inside the fitted rate")),
        "alltoall_forward_GBps": _between(
            moved / wire_ns, wire_moved, "GB/s", where, moved / most_wire, moved / least_wire
        ),
    }


def _between(
    value: float, moved: Spread, unit: str, where: str, low: float, high: float
) -> Quantity:
    shared = tuple(sorted(moved.items()))
    return Quantity(value, unit, "assumed", where, min(low, value), max(high, value), shared)
