"""A small recorded-looking trace and a scenario over it, in a temporary folder."""

import numpy as np
import pytest

from ultraep_sim.trace import Trace, TraceMeta

SCENARIO = """\
name: small
model: {preset: qwen3-30b, num_experts: 16, top_k: 2}
rack: paper-rack64
ep: {ranks: 8, slots_per_rank: 1}
workload: {trace: small.parquet, tokens_per_rank: 512, sequence_length: 512}
policies: [none, {name: eplb, cadence_steps: 2}, eplb_plus, ultraep, ideal]
"""


def small_trace(steps=12, layers=2, seed=0):
    """Skewed routing with a fixed profile a layer: 8 sources x 64 tokens, 16 experts, top-2."""
    rng = np.random.default_rng(seed)
    meta = TraceMeta(
        model="drawn for a test",
        num_experts=16,
        top_k=2,
        num_layers=layers,
        source_ranks=8,
        tokens_per_rank=64,
        phase="training",
        recorded="drawn by numpy",
        synthetic=True,
    )
    weight = rng.dirichlet(np.full(16, 0.7), layers)
    records = []
    for step in range(steps):
        for layer in range(layers):
            keys = rng.gumbel(size=(8, 64, 16)) + np.log(weight[layer])
            chosen = np.argsort(-keys, axis=-1)[..., :2]
            loads = np.zeros((8, 16), np.int32)
            for source in range(8):
                loads[source] = np.bincount(chosen[source].ravel(), minlength=16)
            records.append((step, 0, layer, loads))
    return Trace.from_records(meta, records)


@pytest.fixture
def small(tmp_path):
    """Return a function that writes the scenario (with overrides) and loads it."""
    from ultraep_sim.scenario import load_scenario

    small_trace().write(tmp_path / "small.parquet")

    def make(*sets, text=SCENARIO):
        (tmp_path / "small.yaml").write_text(text)
        return load_scenario(tmp_path / "small.yaml", sets)

    return make
