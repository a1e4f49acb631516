"""Attention, exchanges and collectives of the public tables beside the laws fitted to them.

Every kernel has one fit a system, to three quarters of its rows; a hash of the row picks the rest.
What a rack engineer asks of an all-to-all is a group larger than he timed, so that of an NVL72 is
also fitted to the smaller groups alone and judged on the largest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ultraep_sim.calibrate.fit import FitResult, Residuals, Rows, fit
from ultraep_sim.calibrate.silicon import alltoall, attention, nccl, rack_alltoall
from ultraep_sim.calibrate.silicon.profile import RACK_OF
from ultraep_sim.calibrate.silicon.tables import Table
from ultraep_sim.compute.kernel_laws import attention_core, collective, exchange, rack_exchange
from ultraep_sim.model.hardware import RACKS
from ultraep_sim.model.profiles import RackProfile


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
    """

    table: str
    rows: Rows
    found: FitResult
    role: str = ""
    name: str = ""

    def describe(self) -> dict[str, Any]:
        """Return what a report tells of it beside its rows."""
        return {"table": self.table, "set": self.name, **self.found.to_dict()}


def judge(root: Path, system: str) -> list[Judged]:
    """Fit and predict every table of a system but that of the grouped GEMM.

    Parameters
    ----------
    root : Path
        From `find_tables`.
    system : str
        One of `RACK_OF`.

    Raises
    ------
    CalibrationError
        The system lacks a table that every system has.
    """
    rack = RACKS[RACK_OF[system]]
    found = [*_attention(root, system, rack), *_exchanges(root, system, rack)]
    if rack_alltoall.has_table(root, system):
        table = rack_alltoall.read_rack_alltoall(root, system)
        found += rack_alltoalls(table, system, rack)
    return found


def _attention(root: Path, system: str, rack: RackProfile) -> list[Judged]:
    measured = attention.context_rows(root, system)
    found = fit(attention_core, attention.parameters(rack.gpu), measured)
    return [Judged("attention", measured, found)]


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
    """Judge sets of an NVL72's all-to-all twice: on rows of a hash, and on the largest group."""
    out = []
    for name in sets:
        measured = rack_alltoall.set_rows(table, system, name)
        parameters = rack_alltoall.parameters(rack, name)
        found = fit(rack_exchange, parameters, measured)
        out.append(Judged("rack_alltoall", measured, found, name=name))
        ranks = measured.columns["ranks"]
        largest, smaller = (measured.take(m) for m in (ranks == ranks.max(), ranks < ranks.max()))
        found = fit(rack_exchange, parameters, smaller, held_out=0)
        found = replace(found, held_out=Residuals.of(found.predict(largest.columns), largest))
        out.append(Judged("rack_alltoall_larger_group", largest, found, "predicted", name))
    return out


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
