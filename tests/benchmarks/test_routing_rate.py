"""Cost of drawing the loads of one layer and step: EP64, 160 requests, 4096 tokens a rank.

The baseline is the expectation alone, as NumPy adds it up. Read `us_per_call`: us a layer.
"""

import numpy as np
import pytest

from tests.serving.batches import full_batch, make_routing
from ultraep_sim.model import get_model


@pytest.mark.parametrize("model", ["qwen3-235b", "deepseek-v3-671b"])
@pytest.mark.parametrize("draw", ["baseline: expectation", "expected", "tokens"])
def test_draw(benchmark, model, draw):
    shape = get_model(model)
    benchmark.group = f"routing: EP64, {shape.num_experts} experts, one layer"
    benchmark.param = draw
    routing = make_routing(shape=shape, draw=draw if draw[0] != "b" else "expected")
    batch = full_batch(np.random.default_rng(0))
    call = routing.expected if draw[0] == "b" else lambda b: routing.loads_all(3, b)
    benchmark(call, batch)
    benchmark.extra_info["us_per_call"] = round(
        benchmark.stats["median"] * 1e6 / len(routing.layers), 1
    )
