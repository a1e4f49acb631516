"""Kernels of the public tables other than `moe_perf` beside the laws fitted to them.

Every kernel has one fit a system, to three quarters of its rows; a hash of the row picks the rest.
What a rack engineer asks of an all-to-all is a group larger than he timed, so that of an NVL72 is
also fitted to the smaller groups alone and judged on the largest one. Grouped GEMMs of wide expert
parallelism are predicted by the law of balanced rows, and have a fit of their own beside it. The
attention block of a layer is predicted by the simulator itself, on presets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ultraep_sim.calibrate.fit import FitResult, Residuals, Rows, fit
from ultraep_sim.calibrate.silicon import alltoall, attention, moe, nccl, rack_alltoall, wide_ep
from ultraep_sim.calibrate.silicon.profile import RACK_OF
from ultraep_sim.calibrate.silicon.tables import Table, has_table
from ultraep_sim.compute.attention import attention_time
from ultraep_sim.compute.kernel_laws import (
    Columns,
    Floats,
    Values,
    attention_core,
    collective,
    exchange,
    grouped_gemm,
    rack_exchange,
)
from ultraep_sim.model.hardware import RACKS
from ultraep_sim.model.profiles import RackProfile

#: The kernel of `moe_perf` that wide EP runs too.
_KERNEL = "moe_torch_flow_cutlass"


@dataclass(frozen=True)
class Judged:
    """Rows of a table and the law that stands beside them.

    Parameters
    ----------
    table : str
        How reports call it.
    rows : Rows
        What was measured.
    found : FitResult
        The law.
    role : str
        Of all rows; empty where `fit` held out one in four.
    name : str
        Which of several sets of a table.
    taught : Rows, optional
        Rows that the law was fitted to, where `rows` does not hold them.
    """

    table: str
    rows: Rows
    found: FitResult
    role: str = ""
    name: str = ""
    taught: Rows | None = None

    def describe(self) -> dict[str, Any]:
        """Return what a report tells of it beside its rows."""
        return {"table": self.table, "set": self.name, **self.found.to_dict()}


def judge(root: Path, system: str) -> list[Judged]:
    """Fit and predict every table of a system but that of the grouped GEMM.

    Attention, dispatch, combine and NCCL must be there; of the others, those that the system has.

    Parameters
    ----------
    root : Path
        From `find_tables`.
    system : str
        One of `RACK_OF`.

    Raises
    ------
    CalibrationError
        The system lacks a table that must be there.
    """
    rack = RACKS[RACK_OF[system]]
    found = [*_attention(root, system, rack), *_exchanges(root, system, rack)]
    if has_table(root, system, "moe", "trtllm", "wideep_moe_perf"):
        found += wide_eps(root, system, rack)
    if has_table(root, system, "moe", "sglang", "wideep_context_moe_perf"):
        found += _wide_ep_context(root, system, rack)
    if rack_alltoall.has_table(root, system):
        table = rack_alltoall.read_rack_alltoall(root, system)
        found += rack_alltoalls(table, system, rack)
    return found


def _attention(root: Path, system: str, rack: RackProfile) -> list[Judged]:
    tables = {"attention": attention.context_rows(root, system)}
    if has_table(root, system, "mla", "trtllm", "context_mla_perf"):
        tables["mla_attention"] = attention.mla_rows(root, system)
    parameters = attention.parameters(rack.gpu)
    out = [Judged(t, rows, fit(attention_core, parameters, rows)) for t, rows in tables.items()]
    if has_table(root, system, "mla", "trtllm", "mla_context_module_perf"):
        out.append(_mla_block(root, system, rack))
    return out


def _mla_block(root: Path, system: str, rack: RackProfile) -> Judged:
    """Put the simulator's own attention block beside a measured one: presets, nothing fitted."""
    measured = attention.mla_block_rows(root, system)

    def law(values: Values, columns: Columns) -> Floats:
        each = zip(columns["tokens"].tolist(), columns["length"].tolist(), strict=True)
        model = attention.MLA_MODEL
        return np.array([attention_time(model, rack.gpu, tokens, n) for tokens, n in each])

    none = Residuals.of(np.zeros(0), measured.take(np.zeros(0, dtype=np.int64)))
    found = FitResult(
        values={},
        parameters=(),
        covariance=np.zeros((0, 0)),
        fitted=none,
        held_out=Residuals.of(law({}, measured.columns), measured),
        cross_validated=none,
        log_errors=np.zeros(0),
        log_errors_crossed=np.zeros(0),
        warnings=(),
        manifest={"rows_read": len(measured), "rows_sha256": measured.digest},
        law=law,
    )
    return Judged("mla_block", measured, found, "predicted")


def _exchanges(root: Path, system: str, rack: RackProfile) -> list[Judged]:
    out = []
    newest = alltoall.read_alltoall(root, alltoall.versions(root, system)[-1])
    for phase in alltoall.PHASES:
        measured = alltoall.phase_rows(newest, system, phase)
        out.append(Judged(phase, measured, fit(exchange, alltoall.parameters(rack), measured)))
    measured = nccl.nccl_rows(root, system, "alltoall", rack.domain_size)
    found = fit(collective, nccl.parameters(rack), measured)
    return [*out, Judged("nccl_alltoall", measured, found)]


def rack_alltoalls(
    table: Table, system: str, rack: RackProfile, sets: Sequence[str] = tuple(rack_alltoall.SETS)
) -> list[Judged]:
    """Judge sets of an NVL72's all-to-all twice: on rows of a hash, and on the largest group.

    The second fit sees every row of the smaller groups, those too that the first one held out.
    """
    out = []
    for name in sets:
        measured = rack_alltoall.set_rows(table, system, name)
        parameters = rack_alltoall.parameters(rack, name)
        found = fit(rack_exchange, parameters, measured)
        path = f"{system}/{name}"
        out.append(Judged("rack_alltoall", measured, found, name=path))
        ranks = measured.columns["ranks"]
        largest, smaller = (measured.take(m) for m in (ranks == ranks.max(), ranks < ranks.max()))
        found = fit(rack_exchange, parameters, smaller, held_out=0)
        found = replace(found, held_out=Residuals.of(found.predict(largest.columns), largest))
        out.append(Judged("rack_alltoall_larger_group", largest, found, "predicted", path, smaller))
    return out


def wide_eps(root: Path, system: str, rack: RackProfile) -> list[Judged]:
    """Judge wide-EP rows by the law of balanced rows, nothing fitted, and by a fit of their own."""
    balanced = moe.read_moe(root, system, "trtllm")
    table = wide_ep.read_wide_ep(root, system)
    out = []
    for case in wide_ep.cases(table, system):
        measured = wide_ep.wide_ep_rows(table, case)
        found = fit(grouped_gemm, moe.parameters(rack.gpu, case.precision), measured)
        out.append(Judged("wide_ep", measured, found, name=case.name))
        other = replace(case, kernel=_KERNEL)
        if other in moe.cases(balanced, system, "trtllm"):
            out.append(_by_balanced("wide_ep_by_balanced", measured, balanced, other, rack))
    return out


def figures(judged: Sequence[Judged]) -> dict[str, float]:
    """Return how distinct tokens of the timed rank, measured over drawn, spread over wide-EP rows.

    Median and the two tenths; nothing where no system has such rows.
    """
    columns = [one.rows.columns for one in judged if one.table == "wide_ep"]
    if not columns:
        return {}
    ratio = np.concatenate([c["distinct"] / c["drawn_distinct"] for c in columns])
    levels = {"p10": 0.1, "median": 0.5, "p90": 0.9}
    return {f"wide_ep_distinct_{k}": float(np.quantile(ratio, q)) for k, q in levels.items()}


def _wide_ep_context(root: Path, system: str, rack: RackProfile) -> list[Judged]:
    """Judge uniform rows of SGLang's DeepGEMM by a fit of their own, and by another kernel's law.

    The other is what TensorRT-LLM runs in the same format: Hopper has CUTLASS, Blackwell DeepGEMM.
    """
    case, measured = wide_ep.context_rows(root, system)
    found = fit(grouped_gemm, moe.parameters(rack.gpu, case.precision), measured)
    balanced = moe.read_moe(root, system, "trtllm")
    others = [
        one
        for one in moe.cases(balanced, system, "trtllm")
        if (one.model, one.precision) == (case.model, case.precision)
    ]
    return [
        Judged("wide_ep_context", measured, found, name=case.name),
        *(
            _by_balanced("wide_ep_context_by_balanced", measured, balanced, one, rack)
            for one in others
        ),
    ]


def _by_balanced(
    name: str, measured: Rows, table: Table, case: moe.Case, rack: RackProfile
) -> Judged:
    """Put the law of the balanced rows of `moe_perf` beside rows that it never saw."""
    rows = moe.balanced_rows(table, case)
    found = fit(grouped_gemm, moe.parameters(rack.gpu, case.precision), rows)
    found = replace(found, held_out=Residuals.of(found.predict(measured.columns), measured))
    return Judged(name, measured, found, "predicted", case.name)


def copies(root: Path) -> list[dict[str, Any]]:
    """Dispatch tables of H200 that repeat H100's measurements."""
    theirs = {p.parent.name: p for p in alltoall.versions(root, "h100")}
    out = []
    for path in alltoall.versions(root, "h200"):
        if path.parent.name in theirs:
            ours = alltoall.read_alltoall(root, path)
            other = alltoall.read_alltoall(root, theirs[path.parent.name])
            for nodes in sorted(set(ours.columns["node_num"].tolist())):
                part = ours.where(node_num=nodes)
                copied = alltoall.copied_rows(other.where(node_num=nodes), part)
                out.append(
                    {
                        "table": path.relative_to(root).as_posix(),
                        "nodes": int(nodes),
                        "rows": len(part),
                        "copied_from_h100": copied,
                    }
                )
    return out
