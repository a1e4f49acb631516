from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ultraep_sim.engine.options import LayerOptions
from ultraep_sim.errors import ProfileError, ScenarioError
from ultraep_sim.model import get_model
from ultraep_sim.policies import get_policy
from ultraep_sim.scenario import Scenario
from ultraep_sim.serving.kv import kv_bytes, kv_bytes_per_token, kv_capacity

OPTIONS = LayerOptions(1)


def served(model: str = "qwen3-235b", ranks: int = 64, **serving: Any) -> Scenario:
    requests = {
        "arrivals": {"rate_per_s": 1.0},
        "lengths": {"mean": 2000.0},
        "routing": {"imbalance": 3.0},
    }
    return Scenario.model_validate(
        {
            "name": "served",
            "model": model,
            "rack": "h100-nvl8",
            "ep": {"ranks": ranks, "slots_per_rank": 2},
            "workload": {"requests": requests},
            "serving": serving,
            "policies": ["none"],
        }
    )


def capacity(
    scenario: Scenario, name: str = "none", pairs: float = 1e5, options: LayerOptions = OPTIONS
) -> float:
    return kv_capacity(scenario, get_policy(name, scenario.layout), options, pairs)


def test_bytes_of_a_token_by_hand() -> None:
    assert kv_bytes_per_token(get_model("qwen3-235b")) == 94 * 2 * 4 * 128 * 2
    assert kv_bytes_per_token(get_model("deepseek-v3-671b")) == 61 * (512 + 64) * 2
    scaled = 94 * 2 * 4 * 128 * (1 + 4 / 128)
    assert kv_bytes_per_token(get_model("qwen3-235b"), "fp8") == scaled


def test_layers_with_a_window_keep_no_more_than_it() -> None:
    """gpt-oss: 18 layers keep 128 tokens, 18 keep all."""
    row = 2 * 8 * 64 * 2
    got = kv_bytes(get_model("gpt-oss-120b"), np.array([1, 128, 1000]))
    assert got.tolist() == [36 * row, 36 * 128 * row, 18 * (128 + 1000) * row]
    qwen = get_model("qwen3-235b")
    tokens = np.array([3, 70_000])
    assert kv_bytes(qwen, tokens).tolist() == (tokens * kv_bytes_per_token(qwen)).tolist()


def test_capacity_by_hand() -> None:
    """What two experts a layer, everything else and one step leave of 80 GB."""
    shape, pairs = get_model("qwen3-235b"), 60_000
    weights = 2 * (94 * 2 * shape.expert_params + shape.other_params)
    a = 64 * 256 + 4 * 256
    layer = 4096 * (2 * (4 * 4096 + a) + 4 * 128)
    moved = pairs * (4096 * 2 + 3 * 1536 * 2 + 2 * 4096 * 2)
    assert capacity(served(), pairs=pairs) == pytest.approx(80e9 - weights - layer - moved)


def test_slots_cost_one_set_or_one_a_layer() -> None:
    scenario = served()
    none, ours, eplb = (capacity(scenario, name) for name in ("none", "ultraep", "eplb"))
    slots = 2 * scenario.model.expert_bytes("bf16")
    assert none - ours == pytest.approx(slots)
    assert none - eplb == pytest.approx(94 * slots)
    assert none - capacity(scenario, "predictive") == pytest.approx(2 * slots)  # sent ahead


def test_a_larger_step_or_a_hotter_rank_leaves_less() -> None:
    assert capacity(served(token_budget=8192)) < capacity(served(token_budget=4096))
    assert capacity(served(), pairs=2e5) < capacity(served(), pairs=1e5)


def test_phase_and_tokens_are_the_servers_whatever_the_options_say() -> None:
    training = LayerOptions(9999, phase="training", recompute="full")
    assert capacity(served(), options=training) > 0
    prefill = LayerOptions(4096, phase="prefill", recompute="none")
    assert capacity(served(), options=LayerOptions(9999)) == capacity(served(), options=prefill)


@pytest.mark.parametrize("ranks", [1, 8])
def test_what_leaves_no_room_is_named(ranks: int) -> None:
    """On one GPU the weights do not fit; on eight, EPLB's slots are what is too much."""
    with pytest.raises(
        ProfileError,
        match=r"^eplb: needs .* GB of a GPU's 80.0 GB \(expert weights .* GB, .*\), which leaves "
        r"no room for the 0\.79 GB of KV cache of one step's 4096 tokens; lower serving",
    ):
        capacity(served(ranks=ranks), "eplb")
    if ranks == 8:
        assert capacity(served(ranks=8)) > 0


def test_the_last_step_that_fits() -> None:
    """A cache in fp8 is half as large, so a step that is too large in bf16 may fit."""
    scenario = served(ranks=8)
    room = capacity(scenario)
    needed = float(kv_bytes(scenario.model, np.array(4096)))
    assert needed < room
    per_pair = 4096 * 2 + 3 * 1536 * 2 + 2 * 4096 * 2
    pairs = 1e5 + (room - 0.75 * needed) / per_pair
    with pytest.raises(ProfileError, match="leaves no room"):
        capacity(scenario, pairs=pairs)
    assert capacity(served(ranks=8, kv_dtype="fp8"), pairs=pairs) == pytest.approx(0.75 * needed)


def test_a_scenario_that_serves_nothing_is_refused() -> None:
    trained = Scenario.model_validate(
        {
            "name": "trained",
            "model": "qwen3-235b",
            "rack": "h100-nvl8",
            "ep": {"ranks": 8, "slots_per_rank": 0},
            "workload": {"synthetic": {"imbalance": 2.0}, "tokens_per_rank": 64},
            "policies": ["none"],
        }
    )
    with pytest.raises(ScenarioError, match=r"^serving: the scenario serves nothing; add workload"):
        capacity(trained)
