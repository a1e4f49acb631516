"""A rack with the numbers that a measurement document tells: those of a GPU only, never a CPU's."""

from __future__ import annotations

from ultraep_sim.calibrate.bench.document import Document
from ultraep_sim.calibrate.bench.fits import fit_document
from ultraep_sim.calibrate.fit import FitResult
from ultraep_sim.calibrate.numbers import banded, capped, number, source, spread, together
from ultraep_sim.calibrate.outcome import Outcome, with_numbers
from ultraep_sim.errors import CalibrationError
from ultraep_sim.model.hardware import RACKS
from ultraep_sim.model.profiles import GpuProfile, RackProfile
from ultraep_sim.model.provenance import Quantity

_GEMM = {
    "gpu.expert_forward_TFLOPs": ("rate_TFLOPs", "TFLOP/s"),
    "gpu.hbm_achieved_TBps": ("hbm_TBps", "TB/s"),
    "gpu.expert_launch_us": ("launch_us", "us"),
    "gpu.expert_pair_ns": ("pair_ns", "ns"),
}
_STREAM = {"stream_GBps": ("rate_GBps", "GB/s"), "stream_base_us": ("base_us", "us")}


def calibrate_document(document: Document, rack: RackProfile | None) -> Outcome:
    """Fit a document, and put what belongs to a GPU into a rack.

    Parameters
    ----------
    document : Document
    rack : RackProfile or None
        What the GPU sits in; without it there are only fits.

    Raises
    ------
    CalibrationError
        The rack has another GPU than was measured, or the measurements are a CPU's.
    """
    if rack is not None:
        _check_same(document, rack)
    fits, unfitted = fit_document(document, None if rack is None else rack.gpu)
    numbers: dict[str, Quantity] = {} if rack is None else _numbers(document, fits, rack)
    for name in fits:
        if name.endswith("_hbm"):
            unfitted[f"{name}, rack"] = "virtual ranks share one GPU's memory: this is no link"
    warnings = []
    if not document.is_gpu:
        warnings.append(
            "measured on a CPU: none of these numbers is a GPU's, and no rack gets them"
        )
    new = None if rack is None or not numbers else with_numbers(rack, numbers, f"{rack.name}-bench")
    return Outcome(
        title=document.title,
        fits=fits,
        inputs=dict([document.source]),
        rack=new,
        numbers=numbers,
        warnings=tuple(warnings),
        unfitted=unfitted,
    )


def gpu_of(document: Document) -> GpuProfile | None:
    """Return the GPU that was measured, where it is one of ours."""
    if not document.is_gpu:
        return None
    words = _words(document)
    return next((rack.gpu for rack in RACKS.values() if rack.gpu.name in words), None)


def _words(document: Document) -> list[str]:
    return document.device.lower().replace("-", " ").split()


def _check_same(document: Document, rack: RackProfile) -> None:
    if not document.is_gpu:
        raise CalibrationError(
            "measured on a host without a GPU: no rack gets its numbers", file=document.source[0],
            place="machine", value=document.device, remedy="leave out --rack and --out",
        )  # fmt: skip
    if rack.gpu.name not in _words(document):
        raise CalibrationError(
            f"rack {rack.name} has another GPU ({rack.gpu.name})", file=document.source[0],
            place="machine.device", value=document.device, remedy="give the --rack of that GPU",
        )  # fmt: skip


def _numbers(
    document: Document, fits: dict[str, FitResult], rack: RackProfile
) -> dict[str, Quantity]:
    out: dict[str, Quantity] = {}
    bf16, fp8 = fits.get("gemm_bf16"), fits.get("gemm_fp8")
    if bf16 is not None:
        where = source(bf16, f"grouped products in bf16 on {document.device}")
        out |= {k: number(bf16, name, unit, where) for k, (name, unit) in _GEMM.items()}
    if bf16 is not None and fp8 is not None:
        both = together(spread(fp8, "rate_TFLOPs"), spread(bf16, "rate_TFLOPs", -1))
        value = fp8.values["rate_TFLOPs"] / bf16.values["rate_TFLOPs"]
        where = source(fp8, f"grouped products, fp8 over bf16, on {document.device}")
        out["gpu.fp8_speedup"] = banded(value, both, "1", where)
    link = fits.get("stream_nvlink")
    if link is not None:
        where = source(link, f"tile streaming over the link, {document.device}")
        out |= {k: number(link, name, unit, where) for k, (name, unit) in _STREAM.items()}
        out["stream_GBps"] = capped(out["stream_GBps"], rack.scale_up_GBps.value)
    return out
