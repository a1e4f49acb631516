"""Fit the laws of grouped products, tile streaming, gradient reduction, reroute and planning.

Rows of virtual ranks crossed one GPU's memory (path ``hbm``), never a link; they are fitted by the
bytes that memory moved, and named after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ultraep_sim.calibrate.bench.document import Document
from ultraep_sim.calibrate.fit import Columns, FitResult, Law, Parameter, Rows, fit, is_held_out
from ultraep_sim.calibrate.runlog.log import Floats
from ultraep_sim.compute.kernel_laws import grouped_gemm, roofline
from ultraep_sim.errors import CalibrationError
from ultraep_sim.model.profiles import GpuProfile

Values = Mapping[str, float]


@dataclass(frozen=True)
class Job:
    """What can be fitted: a law to rows, its parameters bounded by what the rows of a fit say."""

    law: Law
    parameters: Callable[[Rows], list[Parameter]]
    rows: Rows

    def fit(self, held_out: int, folds: int = 0) -> FitResult:
        """Fit all rows but one in `held_out` (0: all), which have no part in the bounds either.

        Raises
        ------
        CalibrationError
            The rows are fewer than the parameters.
        """
        seen = self.rows.take(~is_held_out(self.rows.keys, held_out))
        return fit(self.law, self.parameters(seen), self.rows, held_out=held_out, folds=folds)


_FOLDS = 5
_FEW = 20  # rows below which none are held out
_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp32": 4.0, "fp8": 1.0}


def linear(values: Values, columns: Columns) -> Floats:
    """Time as ``base + work x unit``, where work is whatever the row counts."""
    return np.asarray(values["base_us"] * 1e-6 + columns["work"] * values["unit_ns"] * 1e-9)


def streaming(values: Values, columns: Columns) -> Floats:
    """Time as ``base + relay [where there is one] + bytes / rate``."""
    start = values["base_us"] + values.get("relay_us", 0.0) * columns["relay"]
    return np.asarray(start * 1e-6 + columns["bytes"] / (values["rate_GBps"] * 1e9))


def reduction(values: Values, columns: Columns) -> Floats:
    """Time as ``base + bytes / min(rate, SMs x rate of one)``."""
    moved = columns["bytes"] / 1e9
    slow = moved / (values["sm_GBps"] * columns["sms"])
    return np.asarray(values["base_us"] * 1e-6 + roofline(moved / values["rate_GBps"], slow))


def fit_document(
    document: Document, gpu: GpuProfile | None
) -> tuple[dict[str, FitResult], dict[str, str]]:
    """Fit every kind of row that the document has enough of.

    Parameters
    ----------
    document : Document
    gpu : GpuProfile or None
        Whose datasheet bounds the rates.

    Returns
    -------
    fits : dict of str to FitResult
        Named after what was crossed; ``host_`` before those of a CPU.
    unfitted : dict of str to str
        Why not, of the rest.
    """
    fits, unfitted = {}, {}
    prefix = "" if document.is_gpu else "host_"
    for name, job in jobs(document, gpu):
        few = len(job.rows) < _FEW
        try:
            fits[prefix + name] = job.fit(0 if few else 4, 0 if few else _FOLDS)
        except CalibrationError as error:
            unfitted[prefix + name] = str(error)
    skewed = document.of("gemm", distribution="skewed")
    if skewed:
        unfitted[f"{prefix}gemm, skewed"] = (
            f"{len(skewed)} rows are for `validate runtime` to judge"
        )
    return fits, unfitted


def jobs(document: Document, gpu: GpuProfile | None) -> Iterator[tuple[str, Job]]:
    """Yield what can be fitted, by name."""
    yield from _gemm(document, gpu)
    yield from _blocks(document)
    for path in ("hbm", "nvlink"):
        yield from _stream(document, path)
        yield from _reduction(document, path)
    for part in ("split", "tokens"):
        rows = document.of("reroute", part=part)
        if rows:
            work = ("ranks", "experts") if part == "split" else ("tokens", "top_k")
            yield f"reroute_{part}", _linear(document, rows, work)
    rows = document.of("histogram")
    if rows:
        yield "histogram", _linear(document, rows, ("tokens", "top_k"))
    for policy in dict.fromkeys(str(row.get("policy")) for row in document.of("planner")):
        rows = document.of("planner", policy=policy)
        yield f"planner_{policy}", _linear(document, rows, ("ranks", "experts"))


def _linear(document: Document, rows: list[Mapping[str, Any]], work: tuple[str, str]) -> Job:
    timed = document.timed(rows, *work)
    done = timed.columns[work[0]] * timed.columns[work[1]]
    return Job(linear, _line, _with_columns(timed, work=done))


def _line(rows: Rows) -> list[Parameter]:
    """Bounds of a straight line: the base no longer than the median, six decades of a unit."""
    if not len(rows):
        return []
    unit = float(np.median(rows.seconds / np.maximum(rows.columns["work"], 1))) * 1e9
    middle = float(np.median(rows.seconds)) * 1e6
    return [
        Parameter("base_us", "us", 0.5 * middle, 1e-3 * middle, middle * 2),
        Parameter("unit_ns", "ns", 0.5 * unit, 1e-3 * unit, 1e3 * unit),
    ]


def _with_columns(rows: Rows, **columns: Floats) -> Rows:
    return Rows(columns, rows.seconds, rows.keys, rows.sources)


def _gemm(document: Document, gpu: GpuProfile | None) -> Iterator[tuple[str, Job]]:
    balanced = document.of("gemm", distribution="balanced")
    for dtype in dict.fromkeys(str(row.get("dtype")) for row in balanced):
        if dtype in _BYTES:
            rows = document.of("gemm", distribution="balanced", dtype=dtype)
            parameters = partial(_gemm_parameters, document, gpu, dtype)
            yield (
                f"gemm_{dtype}",
                Job(grouped_gemm, parameters, product_rows(document, rows, dtype)),
            )


def product_rows(document: Document, rows: list[Mapping[str, Any]], dtype: str) -> Rows:
    """Return grouped products for `grouped_gemm`.

    Raises
    ------
    CalibrationError
        A number is missing or not a positive one, or the loads are not those of the experts.
    """
    timed = document.timed(rows, "hidden", "ffn")
    pairs = [document.expert_pairs(row) for row in rows]
    columns = gemm_columns(timed.columns["hidden"], timed.columns["ffn"], pairs, dtype)
    return _with_columns(timed, **columns)


def gemm_columns(
    hidden: Floats, ffn: Floats, pairs: Sequence[Sequence[int]], dtype: str
) -> dict[str, Floats]:
    """Return the columns of `grouped_gemm`.

    Parameters
    ----------
    hidden, ffn : float64 [N]
    pairs : sequence of sequence of int [N]
        Pairs of each expert of a call; those without are not touched.
    dtype : str
    """
    loads = np.zeros((len(pairs), max(map(len, pairs), default=0)))
    for at, one in enumerate(pairs):
        loads[at, : len(one)] = one
    return {
        "pairs": loads,
        "instances": (loads > 0).astype(np.float64),
        "hosted": np.array([float(len(one)) for one in pairs]),
        "tokens": loads.sum(axis=1),
        "weight_bytes": 3 * _BYTES[dtype] * hidden * ffn,
        "flops_per_pair": 6 * hidden * ffn,
        "hidden": hidden,
    }


def _gemm_parameters(
    document: Document, gpu: GpuProfile | None, dtype: str, _: Rows
) -> list[Parameter]:
    launch = Parameter("launch_us", "us", 30, 0.1, 5000)
    pair = Parameter("pair_ns", "ns", 5, 1e-3, 1e6)
    if not document.is_gpu:  # a CPU has no tiles of 128 rows
        return [
            launch,
            Parameter("hbm_TBps", "TB/s", 0.05, 1e-4, 10),
            Parameter("rate_TFLOPs", "TFLOP/s", 0.05, 1e-5, 100),
            pair,
            Parameter("padding", "1", 1e-9, 1e-9, 1e-9),
        ]
    hbm = 20.0 if gpu is None else gpu.hbm_TBps.value
    known = gpu is not None and dtype in ("bf16", "fp8")
    peak = gpu.peak(dtype) / 1e12 if gpu is not None and known else 2e4
    return [
        launch,
        Parameter("hbm_TBps", "TB/s", 0.8 * hbm, 0.05 * hbm, hbm),
        Parameter("rate_TFLOPs", "TFLOP/s", 0.7 * peak, 0.01 * peak, peak),
        pair,
    ]


def _blocks(document: Document) -> Iterator[tuple[str, Job]]:
    """Every virtual rank of an MoE block: its pairs and its time."""
    pairs, seconds, keys = [], [], []
    for row in document.of("block"):
        load = np.sum([np.sum(call, axis=1) for call in document.calls(row)], axis=0)
        for rank, (count, time) in enumerate(zip(load, document.rank_seconds(row), strict=True)):
            if count > 0 and time > 0:
                pairs.append(float(count))
                seconds.append(time)
                keys.append(f"policy {row.get('policy')}/rank {rank}")
    if pairs:
        rows = Rows({"work": np.array(pairs)}, np.array(seconds), tuple(keys), (document.source,))
        yield "block_rank", Job(linear, _line, rows)


def _stream(document: Document, path: str) -> Iterator[tuple[str, Job]]:
    rows = document.of("stream", path=path)
    if path == "nvlink":  # what the busiest sender of a relay tree sends is not in the row
        rows = [row for row in rows if row.get("transport") == "direct"]
    if not rows:
        return
    timed = document.timed(rows, "stored_bytes", "loaded_bytes", "expert_bytes", "fan_out")
    c = timed.columns
    if path == "nvlink":
        moved = c["expert_bytes"] * c["fan_out"]
    else:
        moved = c["stored_bytes"] + c["loaded_bytes"]
    relay = np.array([float(row.get("transport") == "relay") for row in rows])
    parameters = [
        Parameter("base_us", "us", 8, 0.1, 1000),
        Parameter("rate_GBps", "GB/s", 500, 1, 2e4),
    ]
    if relay.any():
        parameters.append(Parameter("relay_us", "us", 5, 1e-3, 500))
    columns = {"bytes": moved, "relay": relay}
    yield f"stream_{path}", Job(streaming, lambda _: parameters, _with_columns(timed, **columns))


def _reduction(document: Document, path: str) -> Iterator[tuple[str, Job]]:
    rows = document.of("reduction", path=path)
    if not rows:
        return
    timed = document.timed(rows, "moved_bytes")
    sms = np.array([float(row.get("sms") or document.sms) for row in rows])
    parameters = [
        Parameter("base_us", "us", 8, 0.1, 1000),
        Parameter("rate_GBps", "GB/s", 1000, 1, 2e4),
        Parameter("sm_GBps", "GB/s", 15, 0.1, 1000),
    ]
    columns = {"bytes": timed.columns["moved_bytes"], "sms": sms}
    yield f"reduction_{path}", Job(reduction, lambda _: parameters, _with_columns(timed, **columns))
