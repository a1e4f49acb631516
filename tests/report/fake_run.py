"""A made-up run directory in the format `run` writes, for tests of the report alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# policy: how much of the excess over the mean is left, and extra fixed milliseconds
KINDS = {
    "none": (1.0, 0.0),
    "eplb": (0.7, 0.02),
    "eplb_plus": (0.12, 0.3),
    "ultraep": (0.01, 0.25),
    "ideal": (0.0, 0.0),
}
PHASES = {
    "fwd_attention": 1.9, "fwd_plan": 0.03, "fwd_distribute": 0.1, "fwd_reroute": 0.02,
    "fwd_dispatch": 0.8, "fwd_compute": 1.9, "fwd_combine": 0.8,
    "bwd_combine": 0.8, "bwd_compute": 4.1, "bwd_dispatch": 0.8, "bwd_distribute": 0.1,
    "bwd_attention": 3.8, "bwd_grad_reduce": 0.1,
}  # fmt: skip
SCALED = ("compute", "dispatch", "combine")
OVERHEAD = ("plan", "distribute", "reroute", "grad_reduce")


def write_fake_run(
    directory: Path,
    *,
    kinds: dict[str, tuple[float, float]] | None = None,
    steps: list[int] | None = None,
    layers: int = 4,
    ranks: int = 64,
    training: bool = True,
    cold: dict[str, int] | None = None,
) -> Path:
    """Write result.parquet and summary.json with numbers that hang together but mean nothing."""
    kinds = KINDS if kinds is None else kinds
    steps = [*range(0, 40, 2), *range(200, 240, 2)] if steps is None else steps
    rng = np.random.default_rng(3)
    columns: dict[str, list] = {}
    loads = {
        (s, layer): np.sort(rng.gamma(2.5, 1.0, ranks))[rng.permutation(ranks)]
        for s in steps for layer in range(layers)
    }  # fmt: skip
    for label, (left, _) in kinds.items():
        for (step, layer), raw in loads.items():
            mean = 65536.0
            before = raw / raw.mean() * mean
            after = np.round(mean + left * (before - mean)).astype(np.int32)
            imbalance = float(after.max() / after.mean())
            row = {
                "policy": label, "step": step, "micro_batch": 0, "layer": layer,
                "imbalance_before": float(before.max() / mean), "imbalance": imbalance,
                "rank_pairs": after.tolist(),
                "warm": step >= (cold or {}).get(label, 0),
                "replicas": 50, "max_fanout": 4, "remote_fraction": 0.3,
            }  # fmt: skip
            for phase, seconds in PHASES.items():
                if not training and phase.startswith("bwd"):
                    seconds = 0.0
                if phase.endswith(SCALED):
                    seconds *= imbalance
                if phase.endswith(OVERHEAD) and label in ("none", "ideal"):
                    seconds = 0.0
                row[f"{phase}_s"] = seconds / 1e3
            row["layer_time_s"] = sum(row[f"{phase}_s"] for phase in PHASES)
            for key, value in row.items():
                columns.setdefault(key, []).append(value)
    arrays = {k: pa.array(v) for k, v in columns.items() if k != "rank_pairs"}
    flat = pa.array(np.concatenate(columns["rank_pairs"]).astype(np.int32))
    arrays["rank_pairs"] = pa.FixedSizeListArray.from_arrays(flat, ranks)
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), directory / "result.parquet")
    (directory / "summary.json").write_text(json.dumps(_summary(columns, kinds)))
    return directory


def _summary(columns: dict[str, list], kinds: dict) -> dict:
    policy = np.array(columns["policy"])

    def mean(label: str, key: str) -> float:
        return float(np.mean(np.array(columns[key])[policy == label]))

    def ratio(base: str, label: str) -> float:
        return mean(base, "layer_time_s") / mean(label, "layer_time_s")

    rows = [
        {
            "policy": label,
            "mean_rank_imbalance": mean(label, "imbalance"),
            "p99_rank_imbalance": mean(label, "imbalance") * 1.2,
            "layer_time_ms": 1e3 * mean(label, "layer_time_s"),
            "fraction_of_ideal": ratio("ideal", label) if "ideal" in kinds else None,
            "speedup_over_none": ratio("none", label) if "none" in kinds else None,
            "exposed_overhead_us_per_layer": 123.4,
            "replicas_per_plan": 50.0,
            "activation_peak_ratio": 1.1,
        }
        for label in kinds
    ]  # fmt: skip
    return {
        "scenario": {
            "name": "fake", "model": "qwen3-235b", "rack": "paper-rack64",
            "ep": {"ranks": 64, "slots_per_rank": 2}, "policies": list(kinds),
        },
        "rows": rows,
        "workload": "SYNTHETIC: drawn for a test of the plots",
    }  # fmt: skip
