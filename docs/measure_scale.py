"""Measure how cost grows with the rack: one iteration of DeepSeek-V3 from 8 to 10,240 GPUs.

Writes docs/scale.json (measured figures with the machine's name) and docs/scale.png. Each size runs
in a process of its own on one core, so that its peak memory is its own.

    .venv/bin/python docs/measure_scale.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: GPUs: ranks of a group, pipeline stages, replicas.
SIZES = {
    8: (8, 1, 1),
    64: (64, 1, 1),
    256: (64, 4, 1),
    1024: (64, 4, 4),
    2560: (64, 4, 10),
    10240: (64, 4, 40),
}
MICRO_BATCHES = 16


def scenario_values(gpus: int) -> dict[str, Any]:
    """Return the scenario of one size: every layer, micro-batch and rank of one iteration."""
    ranks, stages, replicas = SIZES[gpus]
    return {
        "name": f"scale-{gpus}",
        "model": "deepseek-v3-671b",
        "rack": "paper-rack64",
        "ep": {
            "ranks": ranks,
            "slots_per_rank": 2,
            "pipeline_stages": stages,
            "data_parallel": replicas,
        },
        "workload": {
            "synthetic": {"imbalance": 1.3, "layers": 58, "steps": 1, "drift": 0.02},
            "tokens_per_rank": 8192,
            "sequence_length": 4096,
        },
        "policies": ["ultraep"],
        "engine": {"recompute": "full"},
        "training": {"micro_batches": MICRO_BATCHES},
    }


def measure(gpus: int) -> dict[str, Any]:
    """Time one size in this process; kernels are compiled and warm."""
    from ultraep_sim.engine.fast import run_fast
    from ultraep_sim.engine.run import training_jobs
    from ultraep_sim.engine.workload import make_workload
    from ultraep_sim.scenario import scenario_from_dict

    small = scenario_values(8) | {"training": {"micro_batches": 1}}
    jobs, _ = training_jobs(scenario_from_dict(small))
    run_fast(jobs.job("ultraep", 0))

    scenario = scenario_from_dict(scenario_values(gpus))
    begin = time.process_time()
    records = sum(1 for _ in make_workload(scenario))
    drawn = time.process_time()
    jobs, _ = training_jobs(scenario)
    replayed = time.process_time()
    times = run_fast(jobs.job("ultraep", 0))
    end = time.process_time()
    draw = drawn - begin
    return {
        "gpus": gpus,
        "records": records,
        "draw_s": draw,
        "replay_s": replayed - drawn - draw,
        "arrange_s": end - replayed,
        "whole_s": end - drawn,
        "peak_GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "iteration_s": times.iteration_s,
    }


def _apart(gpus: int) -> dict[str, Any]:
    """Measure one size in a process of its own, on one core."""
    env = {**os.environ, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", str(gpus)]
    found = subprocess.run(command, env=env, check=True, capture_output=True, text=True)  # noqa: S603  # this very file
    return dict(json.loads(found.stdout))


def plot(rows: list[dict[str, Any]]) -> None:
    """Draw time and memory over GPUs, both axes logarithmic."""
    import matplotlib.pyplot as plt

    from ultraep_sim.report.style import style

    with style():
        _draw(rows, plt)


def _draw(rows: list[dict[str, Any]], plt: Any) -> None:
    gpus = [row["gpus"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for key, label in (
        ("whole_s", "whole run"),
        ("draw_s", "drawing the loads"),
        ("replay_s", "planning, three policies"),
        ("arrange_s", "arranging one iteration"),
    ):
        left.plot(gpus, [row[key] for row in rows], "o-", label=label)
    left.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="seconds on one core")
    left.legend()
    right.plot(gpus, [row["peak_GB"] for row in rows], "o-")
    right.set(xscale="log", xlabel="GPUs", ylabel="peak memory [GB]", ylim=(0, None))
    figure.suptitle("One iteration of DeepSeek-V3, every layer, micro-batch and rank")
    figure.savefig(HERE / "scale.png", dpi=110)


def main() -> None:
    """Measure all sizes, or one for the parent process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", type=int, help="measure this size here and print JSON")
    one = parser.parse_args().one
    if one is not None:
        print(json.dumps(measure(one)))
        return
    rows = []
    for gpus in SIZES:
        rows.append(_apart(gpus))
        print(rows[-1], file=sys.stderr)
    found = {
        "what": "one iteration of DeepSeek-V3 (58 MoE layers x 16 micro-batches x ranks), "
        "fast path, policies ultraep, none and ideal, one core",
        "date": date.today().isoformat(),
        "machine": {"cpu": _cpu(), "python": platform.python_version()},
        "rows": rows,
    }
    (HERE / "scale.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plot(rows)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
