"""All-to-all tables of an NVL72 (``trtllm_alltoall_perf``): 2 to 64 ranks of one NVLink domain.

The tables do not say what a row means; the link does. ``num_tokens`` counts a rank's own tokens
(time grows with the group although the count is the same). ``balanced`` loads stripe a token's
experts: with 256 experts, top-8 and R ranks it goes to ``min(8, R)`` ranks, ``1 / R`` of them its
own. The byte that goes to *other* ranks then costs the same on 4, 8 and 16 ranks; random experts
would make 16 ranks a third slower than 8 (measured: 7 %), and a copy for every expert would pass
the link threefold. Dispatch sends the ``moe_dtype``; ``combine`` takes equal times for all of them
and so sends bf16; ``combine_low_precision`` sends nvfp4; ``prepare`` sends indices only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ultraep_sim.calibrate.fit import Parameter, Rows
from ultraep_sim.calibrate.silicon import tables
from ultraep_sim.calibrate.silicon.tables import Table, read_table, table_path
from ultraep_sim.model.dtypes import activation_bytes
from ultraep_sim.model.profiles import RackProfile

COLUMNS = (
    "kernel_source",
    "op_name",
    "moe_dtype",
    "num_tokens",
    "hidden_size",
    "topk",
    "num_experts",
    "moe_ep_size",
    "distribution",
    "latency",
)
NAME = "trtllm_alltoall_perf"
#: Set -> kernel, operation, dtype of its rows, format on the wire. Combine is timed again for
#: every dtype of the experts; one of them is read, or held-out rows had twins among the fitted.
SETS = {
    "one_sided/dispatch/fp4": ("NVLinkOneSided", "alltoall_dispatch", "nvfp4", "fp4"),
    "one_sided/combine/bf16": ("NVLinkOneSided", "alltoall_combine", "nvfp4", "bf16"),
    "two_sided/dispatch/bf16": ("NVLinkTwoSided", "alltoall_dispatch", "bfloat16", "bf16"),
    "two_sided/dispatch/fp8": ("NVLinkTwoSided", "alltoall_dispatch", "fp8", "fp8"),
    "two_sided/dispatch/fp4": ("NVLinkTwoSided", "alltoall_dispatch", "nvfp4", "fp4"),
    "two_sided/combine/bf16": ("NVLinkTwoSided", "alltoall_combine", "bfloat16", "bf16"),
    "two_sided/combine/fp4": ("NVLinkTwoSided", "alltoall_combine_low_precision", "nvfp4", "fp4"),
    "two_sided/prepare": ("NVLinkTwoSided", "alltoall_prepare", "bfloat16", ""),
}
#: The kernels whose numbers a profile takes: the faster of both.
FASTER = ("one_sided/dispatch/fp4", "one_sided/combine/bf16")
#: From so many ranks on a token's 8 experts lie on 8 ranks, as in a group that fills a rack.
WIDE = 8


def has_table(root: Path, system: str) -> bool:
    """Tell whether a system has such a table: GB200 has, GB300 has not."""
    return tables.has_table(root, system, "comm", "trtllm", NAME)


def read_rack_alltoall(root: Path, system: str) -> Table:
    """Read the table of a system.

    Raises
    ------
    CalibrationError
        It has none.
    """
    table = read_table(root, table_path(root, system, "comm", "trtllm", NAME), COLUMNS)
    return table.where(distribution="balanced")


def set_rows(table: Table, system: str, name: str) -> Rows:
    """Return the rows of one of `SETS`: bytes to other ranks, tokens and ranks.

    Raises
    ------
    KeyError
        There is no such set.
    """
    kernel, operation, dtype, wire = SETS[name]
    c = table.where(kernel_source=kernel, op_name=operation, moe_dtype=dtype).columns
    ranks, tokens = (c[k].astype(np.float64) for k in ("moe_ep_size", "num_tokens"))
    others = np.minimum(c["topk"], ranks) * (1 - 1 / ranks)
    sent = tokens * others * c["hidden_size"] * (activation_bytes(wire) if wire else 0.0)
    keys = tuple(
        f"{system}/{name}/h{h}/k{k}/e{e}/ep{r}/t{t}"
        for h, k, e, r, t in zip(
            *(c[n] for n in ("hidden_size", "topk", "num_experts", "moe_ep_size", "num_tokens")),
            strict=True,
        )
    )
    columns = {"bytes": sent, "tokens": tokens, "ranks": ranks}
    return Rows(columns, c["latency"] * 1e-3, keys, (table.source,))


def parameters(rack: RackProfile, name: str = "", *, plain: bool = False) -> list[Parameter]:
    """Return what is fitted of an exchange, bounded by the link.

    Parameters
    ----------
    rack : RackProfile
        Whose link bounds the rate.
    name : str
        Which of `SETS`: without bytes on the wire, the link is not fitted.
    plain : bool
        The law of `fabric.alltoall` instead: a floor and a rate.
    """
    link = rack.scale_up_GBps.value
    found = [
        Parameter("floor_us", "us", 10, 1, 200),
        Parameter("link_GBps", "GB/s", 0.7 * link, 0.1 * link, link),
        Parameter("step_us", "us", 1, 1e-3, 20),
        Parameter("token_ns", "ns", 20, 1e-2, 1000),
        Parameter("sharpness", "1", 3, 1, 30),
        Parameter("half_ranks", "1", 500, 10, 1e5),
    ]
    if plain:
        return found[:2]
    if name and not SETS[name][3]:
        return [p for p in found if p.name in ("floor_us", "step_us", "token_ns")]
    return found
