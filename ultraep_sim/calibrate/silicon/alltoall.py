"""Wide-EP dispatch and combine tables (DeepEP's normal mode), by payload and SM budget.

``num_token`` counts a rank's own tokens; a token goes once to each rank that hosts one of its
experts, so the payload is the mean number of *other* ranks a random top-k reaches. Dispatch sends
fp8 with scales, combine bf16: the tables do not say so, but with bf16 for both, dispatch would be
faster than the link. Multi-node rows of the older tables are not fitted: those of H200 are copies
of H100's (`copied_rows` finds them).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np

from ultraep_sim.calibrate.fit import Parameter, Rows
from ultraep_sim.calibrate.silicon.tables import SYSTEMS, Table, read_table
from ultraep_sim.errors import CalibrationError
from ultraep_sim.model.dtypes import activation_bytes
from ultraep_sim.model.profiles import RackProfile

Phase = Literal["dispatch", "combine"]
PHASES: tuple[Phase, ...] = ("dispatch", "combine")
KEY = (
    "node_num",
    "hidden_size",
    "num_token",
    "num_topk",
    "num_experts",
    "dispatch_sms",
    "combine_sms",
)
COLUMNS = (*KEY, "dispatch_transmit_us", "combine_transmit_us")
RANKS_PER_NODE = {"gb200": 4, "gb300": 4}
PAYLOAD = {"dispatch": "fp8", "combine": "bf16"}


def versions(root: Path, system: str) -> list[Path]:
    """Return the tables of a system, oldest first.

    Raises
    ------
    CalibrationError
        There are none.
    """
    folder = root / SYSTEMS[system] / "comm" / "sglang"
    found = sorted(folder.glob("*/wideep_deepep_normal_perf.parquet"))
    if not found:
        raise CalibrationError("no dispatch table", file=folder, remedy="choose another system")
    return sorted(
        found,
        key=lambda p: [
            int("".join(filter(str.isdigit, x)) or 0) for x in p.parent.name.split(".")[:3]
        ],
    )


def read_alltoall(root: Path, path: Path) -> Table:
    """Read one dispatch and combine table."""
    return read_table(root, path, COLUMNS)


def copied_rows(one: Table, other: Table) -> int:
    """Count the rows of equal setting and equal times, to the last digit: nobody measures that."""
    first = {row[: len(KEY)]: row for row in zip(*(one.columns[c] for c in COLUMNS), strict=True)}
    rows = zip(*(other.columns[c] for c in COLUMNS), strict=True)
    return sum(first.get(row[: len(KEY)]) == row for row in rows)


def phase_rows(table: Table, system: str, phase: Phase) -> Rows:
    """Return the rows of one node, for dispatch or combine."""
    c = table.where(node_num=1).columns
    ranks = RANKS_PER_NODE.get(system, 8)
    tokens = c["num_token"].astype(np.float64)
    distinct = {
        int(k): _other_ranks(int(k), int(e), ranks)
        for k, e in zip(c["num_topk"], c["num_experts"], strict=True)
    }
    reached = np.array([distinct[int(k)] for k in c["num_topk"]])
    moved = tokens * reached * c["hidden_size"] * activation_bytes(PAYLOAD[phase])
    sms = c[f"{phase}_sms"].astype(np.float64)
    keys = tuple(
        f"{system}/{phase}/h{h}/k{k}/e{e}/t{t}/sm{s:g}"
        for h, k, e, t, s in zip(
            c["hidden_size"], c["num_topk"], c["num_experts"], c["num_token"], sms, strict=True
        )
    )
    columns = {"bytes": moved, "tokens": tokens, "sms": sms, "ranks": np.full(len(sms), ranks)}
    return Rows(columns, c[f"{phase}_transmit_us"] * 1e-6, keys, (table.source,))


def _other_ranks(top_k: int, experts: int, ranks: int) -> float:
    """Mean number of other ranks that host one of `top_k` different random experts."""
    hosted = experts // ranks
    missed = math.comb(experts - hosted, top_k) / math.comb(experts, top_k)
    return (ranks - 1) * (1.0 - missed)


def parameters(rack: RackProfile) -> list[Parameter]:
    """Return what is fitted of an exchange, bounded by the link."""
    link = rack.scale_up_GBps.value
    return [
        Parameter("floor_us", "us", 20, 1, 200),
        Parameter("step_us", "us", 1e-6, 1e-6, 1e-6),  # one node has one number of ranks
        Parameter("link_GBps", "GB/s", 0.7 * link, 0.1 * link, link),
        Parameter("sm_GBps", "GB/s", 20, 1, 200),
        Parameter("token_sm_ns", "ns", 50, 0.01, 5000),
        Parameter("sharpness", "1", 4, 1, 30),
    ]
