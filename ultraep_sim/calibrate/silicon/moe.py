"""Grouped-GEMM tables (``moe_perf``): balanced rows to fit on, power-law rows to predict.

What the columns mean: ``num_tokens`` is global to the expert-parallel group; the rank that is
timed hosts ``num_experts / moe_ep_size`` experts of width ``inter_size / moe_tp_size``. Balanced
rows stripe the tokens over the experts. Power-law rows time the hottest rank and do not store its
load (`ultraep_sim.calibrate.power_law` draws it). ``latency`` is in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.calibrate.fit import Parameter, Rows
from ultraep_sim.calibrate.silicon.tables import Table, read_table, table_path
from ultraep_sim.errors import CalibrationError
from ultraep_sim.model.dtypes import weight_bytes
from ultraep_sim.model.profiles import GpuProfile
from ultraep_sim.model.shapes import MODELS, ModelShape

COLUMNS = (
    "kernel_source",
    "moe_dtype",
    "num_tokens",
    "hidden_size",
    "inter_size",
    "topk",
    "num_experts",
    "moe_tp_size",
    "moe_ep_size",
    "distribution",
    "latency",
)
#: Precision of the tables -> of this project.
DTYPES = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}
BALANCED = "balanced"
#: A rank with one expert runs another code path (no grouped GEMM): 30 us more than with two.
MIN_EXPERTS = 2
_MIN_ROWS = 40


@dataclass(frozen=True, order=True)
class Case:
    """One set of rows: a kernel on a system, for a model's shape and a precision.

    Parameters
    ----------
    system, framework, kernel, model, precision : str
        `precision` is the tables' word: ``fp8`` scales per tensor, ``fp8_block`` per block.
    """

    system: str
    framework: str
    model: str
    precision: str
    kernel: str

    @property
    def name(self) -> str:
        """Path that names it in reports."""
        return f"{self.system}/{self.framework}/{self.kernel}/{self.model}/{self.precision}"


def read_moe(root: Path, system: str, framework: str) -> Table:
    """Read the grouped-GEMM table of a system and framework (sglang, trtllm or vllm).

    Raises
    ------
    CalibrationError
        There is none.
    """
    return read_table(root, table_path(root, system, "moe", framework, "moe_perf"), COLUMNS)


def cases(table: Table, system: str, framework: str) -> list[Case]:
    """Return the sets of the models that this project knows, expert parallelism only."""
    found = []
    for model in MODELS.values():
        ours = _of_model(table, model).where(distribution=BALANCED)
        for precision in DTYPES:
            here = ours.where(moe_dtype=precision)
            kernels = sorted(set(here.columns["kernel_source"].tolist()))
            found += [
                Case(system, framework, model.name, precision, kernel)
                for kernel in kernels
                if len(here.where(kernel_source=kernel)) >= _MIN_ROWS
            ]
    return found


def rows_of(table: Table, case: Case, distribution: str = BALANCED) -> Table:
    """Return the rows of a set, without those of one expert a rank."""
    ours = _of_model(table, MODELS[case.model]).where(
        moe_dtype=case.precision, kernel_source=case.kernel, distribution=distribution
    )
    return _latest(ours)


def _of_model(table: Table, model: ModelShape) -> Table:
    ours = of_shape(table, model).where(moe_tp_size=1)
    return ours.mask(ours.columns["moe_ep_size"] * MIN_EXPERTS <= model.num_experts)


def of_shape(table: Table, model: ModelShape) -> Table:
    """Return the rows of a model's experts."""
    return table.where(
        hidden_size=model.hidden,
        inter_size=model.expert_ffn,
        topk=model.top_k,
        num_experts=model.num_experts,
    )


def _latest(table: Table) -> Table:
    """Drop repeated measurements of a setting but the first: they would be judged on themselves."""
    kept, seen = np.zeros(len(table), dtype=bool), set()
    for at, key in enumerate(zip(*(table.columns[c] for c in COLUMNS[:-1]), strict=True)):
        kept[at] = key not in seen
        seen.add(key)
    return table.mask(kept)


def distributions(table: Table) -> list[str]:
    """Return the power laws of a table, ``power_law_1.01`` and so on."""
    return sorted(d for d in set(table.columns["distribution"].tolist()) if d != BALANCED)


def alpha_of(distribution: str) -> float:
    """Return the exponent in the name of a distribution.

    Raises
    ------
    CalibrationError
        The name holds none.
    """
    try:
        return float(distribution.removeprefix("power_law_"))
    except ValueError:
        raise CalibrationError(
            "no power law", value=distribution, remedy="expected power_law_ALPHA"
        ) from None


def balanced_rows(table: Table, case: Case, distribution: str = BALANCED) -> Rows:
    """Return the balanced rows of a set (or what a table calls so) with the timed rank's work."""
    return combine([_balanced(rows_of(table, case, distribution), MODELS[case.model], case)])


def _balanced(found: Table, model: ModelShape, case: Case) -> Rows:
    c = found.columns
    hosted = model.num_experts // c["moe_ep_size"]
    pairs = c["num_tokens"] * model.top_k / c["moe_ep_size"]
    # Few tokens leave experts without any; at least one pair falls on the timed rank.
    instances = np.minimum(hosted, np.maximum(np.rint(pairs), 1))
    columns = work(
        model,
        case.precision,
        pairs=(np.maximum(pairs, 1) / instances)[:, None],
        instances=instances[:, None],
        hosted=hosted,
        tokens=c["num_tokens"],
    )
    keys = tuple(
        f"{case.name}/{tokens}/ep{ranks}"
        for tokens, ranks in zip(c["num_tokens"], c["moe_ep_size"], strict=True)
    )
    return Rows(columns, c["latency"] * 1e-3, keys, (found.source,))


def work(
    model: ModelShape,
    precision: str,
    *,
    pairs: NDArray[Any],
    instances: NDArray[Any],
    hosted: NDArray[Any],
    tokens: NDArray[Any],
) -> dict[str, NDArray[Any]]:
    """Return the columns of `kernel_laws.grouped_gemm`, whose shapes hold here."""
    ones = np.ones(len(tokens))
    return {
        "pairs": np.asarray(pairs, dtype=np.float64),
        "instances": np.asarray(instances, dtype=np.float64),
        "hosted": np.asarray(hosted, dtype=np.float64),
        "tokens": np.asarray(tokens, dtype=np.float64),
        "weight_bytes": ones * (model.expert_params * weight_bytes(DTYPES[precision])),
        "flops_per_pair": ones * model.flops_per_pair,
        "hidden": ones * model.hidden,
    }


def combine(parts: Iterable[Rows]) -> Rows:
    """Put sets below each other, to fit them together."""
    every = list(parts)
    names = every[0].columns
    return Rows(
        {name: np.concatenate([p.columns[name] for p in every]) for name in names},
        np.concatenate([p.seconds for p in every]),
        tuple(key for p in every for key in p.keys),
        tuple(dict.fromkeys(source for p in every for source in p.sources)),
    )


def parameters(gpu: GpuProfile, precision: str, *, plain: bool = False) -> list[Parameter]:
    """Return what is fitted of a grouped GEMM, bounded by the GPU's datasheet.

    Parameters
    ----------
    gpu : GpuProfile
        Whose bandwidth and peak bound the fit.
    precision : str
        As in the tables.
    plain : bool
        The law of `compute.gemm` instead: a sharp roofline, whole tiles, no cost by expert. The
        cost by token of the group stays: the tables' operators pass over tokens that a rank of a
        real group never receives, and it is left out of profiles.
    """
    hbm, peak = gpu.hbm_TBps.value, gpu.peak(DTYPES[precision]) / 1e12
    found = [
        Parameter("launch_us", "us", 30, 1, 500),
        Parameter("hbm_TBps", "TB/s", 0.8 * hbm, 0.3 * hbm, hbm),
        Parameter("rate_TFLOPs", "TFLOP/s", 0.7 * peak, 0.05 * peak, peak),
        Parameter("pair_ns", "ns", 5, 1e-3, 100),
        Parameter("token_ns", "ns", 3, 1e-3, 100),
    ]
    if plain:
        return found
    return [
        *found,
        Parameter("sharpness", "1", 3, 1, 30),
        Parameter("padding", "1", 0.5, 1e-3, 1),
        Parameter("expert_us", "us", 0.05, 1e-5, 10),
    ]
