"""Attention, exchanges and collectives of the public tables beside the laws fitted to them.

Every kernel has one fit a system, to three quarters of its rows; a hash of the row picks the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultraep_sim.calibrate.fit import FitResult, Rows, fit
from ultraep_sim.calibrate.silicon import alltoall, attention, nccl
from ultraep_sim.calibrate.silicon.profile import RACK_OF
from ultraep_sim.compute.kernel_laws import attention_core, collective, exchange
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
    return [*_attention(root, system, rack), *_exchanges(root, system, rack)]


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
