"""Grouped-GEMM tables of wide expert parallelism: 2 to 256 ranks, with and without EPLB.

``wideep_moe_perf`` (TensorRT-LLM) has power-law loads only. It times the hottest rank, keeps how
many *distinct* tokens that rank got (``rank0_num_tokens``) and, with EPLB, how many slots there
were. Loads are drawn as for skewed rows (`ultraep_sim.calibrate.power_law`), placed by EPLB's rule
where the row says so (`ultraep_sim.policies.replication`), and of the draws the one is kept whose
hottest rank would get as many distinct tokens as the row's. ``num_tokens`` is global.

``wideep_context_moe_perf`` (SGLang, DeepGEMM behind DeepEP) has ``uniform`` rows. Their times say
that pairs fill one expert's tile of 128 rows before the next expert gets any: on two
ranks 32 tokens take as long as 256, though spread over the 128 hosted experts they would read 6 GB.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.calibrate.fit import Rows, row_stream
from ultraep_sim.calibrate.power_law import draw_hottest
from ultraep_sim.calibrate.silicon import moe
from ultraep_sim.calibrate.silicon.tables import Table, read_table, table_path
from ultraep_sim.compute.kernel_laws import TILE_ROWS
from ultraep_sim.model.shapes import MODELS, ModelShape
from ultraep_sim.policies.replication import rebalance

COLUMNS = (
    "kernel_source",
    "moe_dtype",
    "num_tokens",
    "rank0_num_tokens",
    "hidden_size",
    "inter_size",
    "topk",
    "num_experts",
    "num_slots",
    "moe_ep_size",
    "distribution",
    "latency",
)
UNIFORM = "uniform"
DRAWS = 32
_EPLB = "_eplb"
_CONTEXT_MODEL = "deepseek-v3-671b"


def read_wide_ep(root: Path, system: str) -> Table:
    """Read the wide-EP table of TensorRT-LLM.

    Raises
    ------
    CalibrationError
        The system has none.
    """
    path = table_path(root, system, "moe", "trtllm", "wideep_moe_perf")
    return read_table(root, path, COLUMNS)


def cases(table: Table, system: str) -> list[moe.Case]:
    """Return the sets of the models that this project knows."""
    found = []
    for model in MODELS.values():
        c = _of_model(table, model).columns
        kinds = sorted(set(zip(c["kernel_source"].tolist(), c["moe_dtype"].tolist(), strict=True)))
        found += [moe.Case(system, "trtllm", model.name, dtype, kernel) for kernel, dtype in kinds]
    return found


def _of_model(table: Table, model: ModelShape) -> Table:
    ours = moe.of_shape(table, model)
    return ours.mask(ours.columns["moe_ep_size"] * moe.MIN_EXPERTS <= ours.columns["num_slots"])


def wide_ep_rows(table: Table, case: moe.Case) -> Rows:
    """Return the rows of a set with a drawn load of the timed rank.

    Beside the columns of `kernel_laws.grouped_gemm`: ``distinct``, the distinct tokens of the
    timed rank, and ``drawn_distinct``, the median over the draws, which the law does not read.
    """
    model = MODELS[case.model]
    found = _of_model(table, model).where(kernel_source=case.kernel, moe_dtype=case.precision)
    c = found.columns
    hosted = c["num_slots"] // c["moe_ep_size"]
    pairs, drawn, keys = np.zeros((len(found), int(hosted.max()))), np.zeros(len(found)), []
    names = ("num_tokens", "rank0_num_tokens", "num_slots", "moe_ep_size", "distribution")
    for at, (tokens, distinct, slots, ranks, distribution) in enumerate(
        zip(*(c[name].tolist() for name in names), strict=True)
    ):
        keys.append(f"{case.name}/{distribution}/slots{slots}/{tokens}/ep{ranks}")
        loads = _hottest(keys[-1], model, tokens, slots, ranks, distribution)
        # A token visits an expert or not, as good as independently of the rank's other experts.
        seen = tokens * (1 - np.prod(1 - np.minimum(loads / tokens, 1), axis=1))
        drawn[at] = np.median(seen)
        pairs[at, : loads.shape[1]] = loads[np.abs(seen - distinct).argmin()]
    columns = moe.work(
        model,
        case.precision,
        pairs=pairs,
        instances=pairs > 0,
        hosted=hosted,
        tokens=c["num_tokens"],
    )
    columns |= {"distinct": c["rank0_num_tokens"].astype(np.float64), "drawn_distinct": drawn}
    return Rows(columns, c["latency"] * 1e-3, tuple(keys), (found.source,))


def _hottest(
    key: str, model: ModelShape, tokens: int, slots: int, ranks: int, distribution: str
) -> NDArray[np.float64]:
    """Draw the loads of the hottest rank's slots, float64 [DRAWS, slots / ranks]."""
    rng = row_stream(key)
    alpha = moe.alpha_of(distribution.removesuffix(_EPLB))
    loads = draw_hottest(tokens, model.top_k, model.num_experts, 1, alpha, DRAWS, rng)
    share = loads.astype(np.float64)
    if distribution.endswith(_EPLB):
        place = rebalance(share, slots, 1, 1, ranks)
        copies = np.stack([np.bincount(one, minlength=model.num_experts) for one in place])
        share = np.take_along_axis(share / copies, place, axis=1)
    by_rank = share.reshape(DRAWS, ranks, -1)
    return np.asarray(by_rank[np.arange(DRAWS), by_rank.sum(axis=2).argmax(axis=1)])


def context_rows(root: Path, system: str) -> tuple[moe.Case, Rows]:
    """Return the uniform rows of SGLang's wide-EP prefill table, of DeepSeek-V3.

    Raises
    ------
    CalibrationError
        The system has no such table.
    """
    path = table_path(root, system, "moe", "sglang", "wideep_context_moe_perf")
    table = read_table(root, path, moe.COLUMNS)
    kernel, dtype = table.columns["kernel_source"][0], table.columns["moe_dtype"][0]
    case = moe.Case(system, "sglang", _CONTEXT_MODEL, dtype, kernel)
    rows = moe.balanced_rows(table, case, UNIFORM)
    c = rows.columns
    pairs = c["pairs"] * c["instances"]
    filled = np.minimum(np.ceil(pairs / TILE_ROWS), c["hosted"][:, None])
    columns = {**c, "pairs": pairs / filled, "instances": filled}
    return case, Rows(columns, rows.seconds, rows.keys, rows.sources)
