"""Replay real recorded routing (third-party data, not in this repository) end to end."""

import numpy as np
import pytest

from tests.trace import shared_routing
from ultraep_sim.engine.replay import PolicyReplay, replay
from ultraep_sim.planning import EPLayout
from ultraep_sim.policies import get_policy

NAMES = ("none", "eplb_plus", "ultraep", "ideal")
PER_TOKEN = ["deepseek-v2-lite_esft_law", "deepseek-v2-lite_esft_summary"]
PER_TOKEN += ["gpt-oss-20b_token_examples"]


def imbalances(trace, ranks, slots=2):
    """Mean rank imbalance of each policy over the whole trace; every plan is validated."""
    layout = EPLayout(ranks, trace.meta.num_experts, slots)
    found = {name: [] for name in NAMES}

    class Checked:
        def __init__(self, name):
            self._policy = get_policy(name, layout)

        def __getattr__(self, attribute):
            return getattr(self._policy, attribute)

        def plan(self, loads, state):
            plan = self._policy.plan(loads, state)
            plan.validate(loads)
            return plan

    def keep(chunk):
        pairs = chunk.stats.pairs
        found[chunk.label].append(pairs.max(axis=1) / pairs.mean(axis=1))

    replays = [PolicyReplay(name, Checked(name), 128) for name in NAMES]
    replay(trace.with_sources(ranks), replays, keep)
    return {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", PER_TOKEN)
def test_real_per_token_routing(name):
    trace = shared_routing.per_token_trace(name)
    found = imbalances(trace, ranks=8)
    assert found["none"] > 1.15  # real routers are never balanced
    assert found["ultraep"] <= 1.03
    assert found["ideal"] <= found["ultraep"] <= found["eplb_plus"] <= found["none"]


@pytest.mark.shared_data
@pytest.mark.parametrize("ranks", [8, 16, 64])
def test_real_olmoe_domains(ranks):
    found = imbalances(shared_routing.olmoe_trace(), ranks)
    assert found["none"] > 1.1
    assert found["ultraep"] <= 1.02
    assert found["ultraep"] < found["none"]
