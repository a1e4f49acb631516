import pytest

from ultraep_sim.compute.attention import attention_time, core_flops, dense_time
from ultraep_sim.compute.dense import gate_time, shared_expert_time
from ultraep_sim.model import MODELS, AttentionShape, ModelShape, get_model, get_rack

GPU = (
    get_rack("paper-rack64")
    .with_overrides(
        {
            "gpu": {
                "dense_forward_TFLOPs": 100,
                "dense_backward_TFLOPs": 50,
                "attention_forward_TFLOPs": 80,
                "attention_backward_TFLOPs": 40,
                "hbm_achieved_TBps": 2,
            }
        }
    )
    .gpu
)
TOY = ModelShape(
    "toy", layers=2, hidden=64, expert_ffn=32, num_experts=8, top_k=2, shared_experts=2,
    attention=AttentionShape(heads=4, kv_heads=2, head_dim=16),
)  # fmt: skip


def test_core_counts_visible_scores_only() -> None:
    # 3 tokens, context 1 + 2 + 3 = 6 scores a head; 2 x 16 for q.k and 2 x 16 for p.v.
    assert core_flops(TOY, 3, 3) == 6 * 4 * (2 * 16 + 2 * 16)


def test_mla_core_uses_both_widths() -> None:
    v3 = get_model("deepseek-v3-671b")
    assert core_flops(v3, 1, 1) == 2 * 128 * (192 + 128)


def test_forward_by_hand() -> None:
    params = 64 * (4 + 2 + 2) * 16 + 4 * 16 * 64
    tokens, length = 1000, 9
    projections = max(2 * params * tokens / 100e12, params * 2 / 2e12)
    core = 2 * tokens * 5 * 4 * 32 / 80e12
    elementwise = tokens * (10 * 64 + 2 * 6 * 16) * 2 / 2e12
    got = attention_time(TOY, GPU, tokens, length)
    assert got == pytest.approx(projections + core + elementwise)


def test_backward_by_hand() -> None:
    params = 64 * (4 + 2 + 2) * 16 + 4 * 16 * 64
    tokens, length = 1000, 9
    projections = 2 * 2 * params * tokens / 50e12
    core = 2.5 * 2 * tokens * 5 * 4 * 32 / 40e12
    elementwise = 2 * tokens * (10 * 64 + 2 * 6 * 16) * 2 / 2e12
    got = attention_time(TOY, GPU, tokens, length, "backward")
    assert got == pytest.approx(projections + core + elementwise)


def test_few_tokens_read_the_weights_anyway() -> None:
    assert dense_time(1e9, GPU, 1, "forward") == pytest.approx(2e9 / 2e12)
    assert dense_time(1e9, GPU, 0, "forward") == 0
    assert dense_time(0, GPU, 5, "forward") == 0


def test_gate_and_shared_experts_by_hand() -> None:
    tokens = 4096
    logits = 3 * tokens * 8 * 4 / 2e12
    assert gate_time(TOY, GPU, tokens) == pytest.approx(2 * 64 * 8 * tokens / 100e12 + logits)
    shared = 2 * (2 * 3 * 64 * 32) * tokens / 100e12
    assert shared_expert_time(TOY, GPU, tokens) == pytest.approx(shared)
    assert shared_expert_time(TOY, GPU, tokens, "backward") == pytest.approx(4 * shared)
    assert shared_expert_time(get_model("qwen3-235b"), GPU, tokens) == 0


@pytest.mark.parametrize("name", MODELS)
def test_longer_sequences_and_backward_take_longer(name: str) -> None:
    shape, gpu = get_model(name), get_rack("gb200-nvl72").gpu
    times = [attention_time(shape, gpu, 4096, length) for length in (128, 1024, 8192)]
    assert times == sorted(times)
    assert times[0] < times[2]
    assert attention_time(shape, gpu, 4096, 1024, "backward") > times[1]


def test_sliding_window_halves_what_grows_with_length() -> None:
    oss, gpu = get_model("gpt-oss-120b"), get_rack("gb200-nvl72").gpu
    growth = attention_time(oss, gpu, 1024, 1 << 20) - attention_time(oss, gpu, 1024, 1 << 19)
    full_growth = 2 * 1024 * (1 << 18) * 64 * 128 / gpu.rate("attention", "forward")
    assert growth == pytest.approx(full_growth / 2, rel=1e-3)
