"""Replay rate of `ultraep` at EP64, 256 experts, on one core: plan and time together.

Read `records_per_s` in the extra info of `make bench`; the group's other row replays `none`, the
cost of everything but planning.
"""

import numpy as np
import pytest

from tests.benchmarks.zipf import zipf_loads
from ultraep_sim.engine.layer import LayerOptions, layer_times
from ultraep_sim.engine.replay import PolicyReplay, replay
from ultraep_sim.model import get_model, get_rack
from ultraep_sim.planning import EPLayout
from ultraep_sim.policies import get_policy
from ultraep_sim.trace import Record

RECORDS = 512


def records():
    rng = np.random.default_rng(0)
    out = []
    for step in range(RECORDS // 8):
        for layer in range(8):
            total = zipf_loads(rng, 64, 256, rng.uniform(1.5, 6))
            sources = rng.multinomial(65_536, total / total.sum(), 64).astype(np.int32)
            out.append(Record(step, 0, layer, sources))
    return out


@pytest.mark.benchmark(group="replay: EP64, 256 experts, 512 records with sources")
@pytest.mark.parametrize("name", ["none", "ultraep"])
def test_replay(benchmark, name):
    layout, loads = EPLayout(64, 256, 2), records()
    shape, rack = get_model("deepseek-v3-671b"), get_rack("paper-rack64")
    options = LayerOptions(tokens_per_rank=8192)

    def run():
        policy = get_policy(name, layout)
        times = []
        replay(
            loads,
            [PolicyReplay(name, policy, options.tile_rows)],
            lambda c: times.append(layer_times(shape, rack, c.stats, policy.price(), options)),
        )
        return sum(len(t.layer_s) for t in times)

    assert run() == RECORDS
    benchmark(run)
    benchmark.extra_info["records_per_s"] = round(RECORDS / benchmark.stats["median"])
