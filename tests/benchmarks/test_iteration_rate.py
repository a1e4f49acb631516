"""Cost of arranging one iteration of DeepSeek-V3's size on 256 GPUs, beside planning it.

The baseline is the count of the same kernels: a NumPy maximum over all ranks of all phases, the
least any engine must do. Read `us_per_call`; docs/measure_scale.py measures whole runs by size.
"""

import numpy as np
import pytest

from tests.engine.jobs import make_job
from ultraep_sim.engine.fast import run_fast
from ultraep_sim.engine.job import PHASE_PART

GROUP = "iteration: 4 stages x 64 ranks, 58 MoE layers, 16 micro-batches"
LAYERS = ((0, 13), (13, 28), (28, 43), (43, 58))


@pytest.fixture(scope="module")
def kernels():
    rng = np.random.default_rng(0)
    return {name: rng.uniform(1, 2, (1, 16, 58, 64)) for name in PHASE_PART}


@pytest.mark.benchmark(group=GROUP)
def test_slowest_rank_baseline(benchmark, kernels):
    benchmark(lambda: [seconds.max(axis=-1) for seconds in kernels.values()])
    benchmark.extra_info["us_per_call"] = round(benchmark.stats["median"] * 1e6)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("overlap", ["none", "two_batch", "dualpipe"])
def test_fast_path(benchmark, kernels, overlap):
    busy = {name: 0.0 if "shared" in name else seconds for name, seconds in kernels.items()}
    job = make_job(stages=4, micro_batches=16, ranks=64, layers=LAYERS, overlap=overlap, busy=busy)
    times = benchmark(run_fast, job)
    benchmark.extra_info["us_per_call"] = round(benchmark.stats["median"] * 1e6)
    assert times.iteration_s > 0
