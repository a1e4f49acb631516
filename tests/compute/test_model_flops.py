import pytest

from ultraep_sim.compute.model_flops import forward_flops, step_flops
from ultraep_sim.model import get_model


def test_one_token_by_hand():
    """Qwen3-235B: 2 operations a weight that a token meets, and the causal half of attention."""
    h, heads, kv, dim = 4096, 64, 4, 128
    weights = h * (heads + 2 * kv) * dim + heads * dim * h  # q, k, v; output
    weights += h * 128 + 8 * 3 * h * 1536  # gate; top-8 experts
    weights = 94 * weights + 151936 * h  # layers; head
    core = 94 * 2 * (8192 + 1) / 2 * heads * 2 * dim  # scores and weighted sum
    found = forward_flops(get_model("qwen3-235b"), 1, 8192)
    assert found == pytest.approx(2 * weights + core, rel=1e-12)


def test_dense_layers_and_shared_experts_count():
    shape = get_model("glm-4.5-air-106b")
    per_layer = shape.attention.projection_params(4096)
    experts = 9 * 3 * 4096 * 1408 + 4096 * 128
    weights = 46 * per_layer + 45 * experts + 3 * 4096 * 10944 + 151552 * 4096
    short = forward_flops(shape, 1, 1)  # one token attends to itself
    assert short == pytest.approx(2 * weights + 46 * 2 * 96 * 256, rel=1e-12)


def test_the_backward_is_twice_the_forward():
    shape = get_model("deepseek-v3-671b")
    assert step_flops(shape, 512, 4096) == 3 * 512 * forward_flops(shape, 1, 4096)


def test_published_throughput_is_below_the_peak_and_above_the_layers():
    """785 TFLOPS of a 2,500 TFLOP/s GPU; a step of Qwen3 takes longer than its 94 layers."""
    seconds = step_flops(get_model("qwen3-235b"), 8192, 8192) / 574.7e12
    assert 94 * 16.83e-3 < seconds < 2 * 94 * 16.83e-3
