"""NCCL tables (``nccl_perf``): collectives of 2 to 8 GPUs (more where a rack is one domain).

``message_size`` counts *elements*, ``latency`` milliseconds. What passes through a rank's port
follows from the collective: ``(n - 1) / n`` of the message for all-to-all, all-gather and
reduce-scatter, twice that for all-reduce.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ultraep_sim.calibrate.fit import Parameter, Rows
from ultraep_sim.calibrate.silicon.tables import SYSTEMS, read_table
from ultraep_sim.errors import CalibrationError
from ultraep_sim.model.profiles import RackProfile

COLUMNS = ("op_name", "nccl_dtype", "num_gpus", "message_size", "latency")
ELEMENT_BYTES = {"half": 2, "int8": 1}
OPERATIONS = ("alltoall", "all_gather", "reduce_scatter", "all_reduce")
_PASSES = {"all_reduce": 2.0}


def nccl_rows(root: Path, system: str, operation: str, most_gpus: int) -> Rows:
    """Return the newest rows of a collective, of groups inside one scale-up domain.

    Raises
    ------
    CalibrationError
        The operation is unknown, or the system has no table.
    """
    if operation not in OPERATIONS:
        raise CalibrationError(
            "unknown collective", value=operation, remedy=f"one of {', '.join(OPERATIONS)}"
        )
    folder = root / SYSTEMS[system] / "comm" / "nccl"
    found = sorted(folder.glob("*/nccl_perf.parquet"), key=lambda p: _version(p.parent.name))
    if not found:
        raise CalibrationError("no NCCL table", file=folder, remedy="choose another system")
    table = read_table(root, found[-1], COLUMNS).where(op_name=operation)
    c = table.mask(table.columns["num_gpus"] <= most_gpus).columns
    ranks = c["num_gpus"].astype(np.float64)
    size = c["message_size"] * np.array([ELEMENT_BYTES[d] for d in c["nccl_dtype"]], dtype=float)
    keys = tuple(
        f"{system}/{operation}/{d}/n{n}/{m}"
        for d, n, m in zip(c["nccl_dtype"], c["num_gpus"], c["message_size"], strict=True)
    )
    wire = _PASSES.get(operation, 1.0) * size * (ranks - 1) / ranks
    rows = Rows({"wire_bytes": wire, "ranks": ranks}, c["latency"] * 1e-3, keys, (table.source,))
    _, first = np.unique(np.array(keys), return_index=True)
    return rows.take(np.sort(first))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def parameters(rack: RackProfile) -> list[Parameter]:
    """Return what is fitted of a collective, bounded by the link."""
    link = rack.scale_up_GBps.value
    return [
        Parameter("floor_us", "us", 5, 0.5, 100),
        Parameter("step_us", "us", 1, 1e-3, 20),
        Parameter("link_GBps", "GB/s", 0.7 * link, 0.05 * link, link),
        Parameter("half_MiB", "MiB", 0.05, 1e-6, 100),
    ]
