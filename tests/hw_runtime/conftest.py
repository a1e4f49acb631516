"""Small models and a sink, shared by the recording tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")


class Sink:
    """Keeps what a recorder appends."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int, int, np.ndarray]] = []

    def append(self, step: int, micro_batch: int, layer: int, loads: np.ndarray) -> None:
        self.records.append((step, micro_batch, layer, loads.copy()))

    @property
    def keys(self) -> list[tuple[int, int, int]]:
        return [record[:3] for record in self.records]

    def loads(self, step: int = 0, micro_batch: int = 0) -> np.ndarray:
        return np.stack([r[3] for r in self.records if r[:2] == (step, micro_batch)])


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def new_sink() -> type[Sink]:
    return Sink


@pytest.fixture
def hf_model() -> Callable[..., Any]:
    return _hf_model


def _hf_model(family: str, seed: int = 0) -> Any:
    """Build a tiny randomly initialised model of a family, 8 experts top-2 (or 3)."""
    transformers = pytest.importorskip("transformers")
    common = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    grouped = {
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    }
    latent = {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
    }
    made = {
        "mixtral": ("Mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
        "qwen3_moe": (
            "Qwen3Moe",
            {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        ),
        "olmoe": ("Olmoe", {"num_experts": 8, "num_experts_per_tok": 2}),
        "deepseek_v3": ("DeepseekV3", {**grouped, **latent}),
        "glm4_moe": ("Glm4Moe", {**grouped, "head_dim": 8}),
    }
    prefix, extra = made[family]
    config = getattr(transformers, f"{prefix}Config")(**{**common, **extra})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{prefix}ForCausalLM")(config).eval()
    with torch.no_grad():
        for module in model.modules():
            name = type(module).__name__.lower()
            if "router" in name:  # spread the scores, and give the bias something to say
                module.weight.normal_(0.0, 0.5)
                bias = getattr(module, "e_score_correction_bias", None)
                if bias is not None:
                    bias.copy_(torch.linspace(-0.4, 0.4, bias.numel()))
    return model
