from __future__ import annotations

import numpy as np
import pytest

from ultraep_sim.compute.attention import attention_time
from ultraep_sim.compute.dense import gate_time, shared_expert_time
from ultraep_sim.compute.model_flops import forward_flops, step_flops
from ultraep_sim.compute.outside import (
    LOGIT_PASSES,
    dense_layer_time,
    embedding_time,
    head_time,
    optimizer_time,
    outside_time,
)
from ultraep_sim.model import AttentionShape, ModelShape, get_model, get_rack

GPU = get_rack("h100-nvl8").gpu
TOY = ModelShape(
    "toy", layers=2, hidden=64, expert_ffn=32, num_experts=4, top_k=2,
    attention=AttentionShape(4, 4, 16), dense_layers=1, shared_experts=1, dense_ffn=128,
    vocabulary=1000,
)  # fmt: skip


def test_model_flops_by_hand() -> None:
    """One token, no context to speak of: two per weight it meets."""
    projections = 4 * 64 * 64
    expert = 3 * 64 * 32
    weights = 2 * projections + (3 * expert + 64 * 4) + 3 * 64 * 128 + 1000 * 64
    core = 2 * 2 * 1 * 4 * (16 + 16)  # two layers, one position that sees itself
    assert forward_flops(TOY, 1, 1) == pytest.approx(2 * weights + core)
    assert step_flops(TOY, 5, 1) == pytest.approx(15 * (2 * weights + core))


@pytest.mark.parametrize(
    ("model", "active"), [("qwen3-235b", 22e9), ("deepseek-v3-671b", 37e9), ("kimi-k2", 32e9)]
)
def test_flops_match_the_published_active_parameters(model, active) -> None:  # type: ignore[no-untyped-def]
    """Six per active parameter and token, within what embedding and attention core make of it."""
    per_token = step_flops(get_model(model), 1, 1)
    assert per_token == pytest.approx(6 * active, rel=0.05)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_times_grow_with_tokens(direction) -> None:  # type: ignore[no-untyped-def]
    shape = get_model("deepseek-v3-671b")
    short = dense_layer_time(shape, GPU, 1024, 4096, direction)
    assert short > attention_time(shape, GPU, 1024, 4096, direction)
    assert dense_layer_time(shape, GPU, 8192, 4096, direction) == pytest.approx(8 * short, rel=0.05)
    assert head_time(shape, GPU, 8192, direction) > 7 * head_time(shape, GPU, 1024, direction)


def test_no_vocabulary_no_head() -> None:
    bare = ModelShape("bare", 2, 64, 32, 4, 2, AttentionShape(4, 4, 16))
    assert head_time(bare, GPU, 100) == 0.0
    assert embedding_time(bare, GPU, 100) == 0.0


def test_an_adam_step_is_bound_by_memory() -> None:
    assert optimizer_time(GPU, 1e9) == pytest.approx(30e9 / GPU.memory_rate)


def test_outside_a_prefill_step_by_hand() -> None:
    """Rank 0 ends two prompts, rank 1 none, rank 2 idles."""
    tokens, finishing = np.array([100, 7, 0]), np.array([2, 0, 0])
    attention = np.array([3e-6, 1e-6, 0.0])
    got = outside_time(TOY, GPU, tokens, finishing, attention)
    rate, hbm = GPU.rate("dense", "forward"), GPU.memory_rate
    network, table = 3 * 64 * 128, 1000 * 64
    for r, n in enumerate((100, 7)):
        ffn = max(2 * network * n / rate, 2 * network / hbm)
        embedding = 2 * n * 64 * 2 / hbm
        head = max(4 * table / rate, 2 * table / hbm) + 2 * 1000 * 4 / hbm if r == 0 else 0.0
        assert got[r] == pytest.approx(attention[r] + ffn + embedding + head)
    assert got[2] == 0


def test_prefill_outside_is_the_forward_without_its_loss() -> None:
    """Every token finishing: what training computes there, but for the passes over the logits."""
    shape, n = get_model("deepseek-v3-671b"), 512
    attention = attention_time(shape, GPU, n, n)
    whole = shape.dense_layers * dense_layer_time(shape, GPU, n, n)
    whole += embedding_time(shape, GPU, n) + head_time(shape, GPU, n)
    logits = n * shape.vocabulary * 4 / GPU.memory_rate
    got = outside_time(shape, GPU, np.array([n]), np.array([n]), np.array([attention]))
    assert got[0] == pytest.approx(whole - (LOGIT_PASSES.si - 1) * logits)


def test_kernel_laws_take_one_rank_or_all() -> None:
    shape, tokens = get_model("glm-4.7-358b"), np.array([0, 1, 300, 4096])
    for law in (gate_time, shared_expert_time, embedding_time):
        each = [law(shape, GPU, int(n)) for n in tokens]
        assert all(type(seconds) is float for seconds in each)
        assert law(shape, GPU, tokens).tolist() == each
