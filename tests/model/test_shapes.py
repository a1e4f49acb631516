from dataclasses import replace

import numpy as np
import pytest

from ultraep_sim.errors import ProfileError
from ultraep_sim.model import MODELS, AttentionShape, ModelShape, get_model
from ultraep_sim.model.attention import visible_keys

# Published sizes, in billions of parameters.
SIZES = {
    "glm-4.5-air-106b": 106,
    "glm-4.7-358b": 355,
    "qwen3-235b": 235,
    "qwen3-30b": 30.5,
    "deepseek-v3-671b": 671,
    "kimi-k2": 1026,
    "gpt-oss-120b": 117,
    "mixtral-8x22b": 141,
}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_add_up_to_the_published_size(name: str) -> None:
    assert get_model(name).params / 1e9 == pytest.approx(SIZES[name], rel=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_shape_survives_a_round_trip_through_plain_values(name: str) -> None:
    shape = get_model(name)
    assert ModelShape.from_dict(shape.to_dict()) == shape


def test_qwen3_expert_is_36_mib_and_a_rank_does_2_47_tflop() -> None:
    qwen = get_model("qwen3-235b")
    assert qwen.expert_bytes("bf16") == 36 * 2**20
    assert 8192 * qwen.top_k == 65_536
    assert 65_536 * qwen.flops_per_pair == pytest.approx(2.47e12, rel=0.002)


def test_expert_bytes_follow_the_dtype() -> None:
    qwen = get_model("qwen3-235b")
    assert qwen.expert_bytes("fp8") == pytest.approx(18 * 2**20, rel=1e-3)
    assert qwen.expert_bytes("fp4") == qwen.expert_params * (0.5 + 1 / 16)
    with pytest.raises(ProfileError, match="unknown dtype"):
        qwen.expert_bytes("fp16")


def test_deepseek_attention_by_hand() -> None:
    a = get_model("deepseek-v3-671b").attention
    query = 7168 * 1536 + 1536 * 128 * 192
    latent = 7168 * (512 + 64) + 512 * 128 * (128 + 128)
    assert a.projection_params(7168) == query + latent + 128 * 128 * 7168
    assert (a.qk_dim, a.value_dim, a.cache_elements) == (192, 128, 576)


def test_gqa_projections_by_hand() -> None:
    a = AttentionShape(heads=4, kv_heads=2, head_dim=8)
    assert a.projection_params(16) == 16 * (4 + 2 + 2) * 8 + 4 * 8 * 16


@pytest.mark.parametrize(("window", "length"), [(3, 7), (4, 4), (9, 5), (1, 6)])
def test_mean_context_counts_visible_keys(window: int, length: int) -> None:
    full = sum(range(1, length + 1)) / length
    near = sum(min(i, window) for i in range(1, length + 1)) / length
    assert AttentionShape(1, 1, 8).mean_context(length) == pytest.approx(full)
    every = AttentionShape(1, 1, 8, window=window, window_every=1)
    assert every.mean_context(length) == pytest.approx(near)
    alternate = AttentionShape(1, 1, 8, window=window, window_every=2)
    assert alternate.mean_context(length) == pytest.approx((full + near) / 2)


def test_unknown_model_lists_the_known() -> None:
    with pytest.raises(ProfileError, match=r"unknown model \(got 'gpt-5'\).*qwen3-235b"):
        get_model("gpt-5")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"hidden": 0}, "hidden is an integer"),
        ({"layers": 2.5}, "layers is an integer"),
        ({"top_k": True}, "top_k is an integer"),
        ({"top_k": 200}, "exceeds the 128 experts"),
        ({"dense_layers": 94}, "no MoE layer"),
        ({"dense_layers": 1}, "without a width"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, object], problem: str) -> None:
    with pytest.raises(ProfileError, match=problem):
        replace(get_model("qwen3-235b"), **change)  # type: ignore[arg-type]


def test_inline_shapes_are_checked_by_name() -> None:
    plain = get_model("qwen3-235b").to_dict()
    with pytest.raises(ProfileError, match=r"unknown field \(got 'experts'\)"):
        ModelShape.from_dict(plain | {"experts": 3})
    with pytest.raises(ProfileError, match=r"attention: unknown field \(got 'kv'\)"):
        ModelShape.from_dict(plain | {"attention": plain["attention"] | {"kv": 3}})
    with pytest.raises(ProfileError, match=r"missing .*'hidden'"):
        ModelShape.from_dict({k: v for k, v in plain.items() if k != "hidden"})
    with pytest.raises(ProfileError, match="no AttentionShape"):
        ModelShape.from_dict(plain | {"attention": 3})


@pytest.mark.parametrize(
    "bad",
    [
        {"heads": 3, "kv_heads": 2, "head_dim": 8},
        {"heads": 4, "kv_heads": 2, "head_dim": 8, "window": 5},
        {"heads": 4, "kv_heads": 4, "head_dim": 8, "kind": "mla"},
        {"heads": 4, "kv_heads": 4, "head_dim": 8, "kind": "linear"},
    ],
)
def test_impossible_attention_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ProfileError):
        AttentionShape(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [0, 1, 4, 64])
@pytest.mark.parametrize(("start", "count"), [(0, 1), (0, 7), (3, 5), (4, 4), (100, 9)])
def test_visible_keys_by_counting(window: int, start: int, count: int) -> None:
    seen = sum(min(window or 10**9, start + i + 1) for i in range(count))
    assert visible_keys(start, count, window) == seen
    both = visible_keys(np.array([start, 0]), np.array([count, 1]), window)
    assert both.tolist() == [seen, 1]


def test_kinds_of_layers_share_all_layers() -> None:
    assert AttentionShape(1, 1, 8).layer_kinds == ((1.0, 0),)
    assert AttentionShape(1, 1, 8, window=4, window_every=1).layer_kinds == ((1.0, 4),)
    kinds = AttentionShape(1, 1, 8, window=4, window_every=6).layer_kinds
    assert kinds == ((1 / 6, 4), (1 - 1 / 6, 0))
