"""The shape of a Mixture-of-Experts model: everything its time and memory depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ultraep_sim.errors import ProfileError
from ultraep_sim.model.attention import AttentionShape, check_count
from ultraep_sim.model.dtypes import weight_bytes


def _take(cls: type, owner: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the keys of a mapping against the fields of `cls`."""
    known = [f.name for f in fields(cls)]
    for key in values:
        if key not in known:
            raise ProfileError(
                "unknown field", place=owner, value=key, remedy=f"one of {', '.join(known)}"
            )
    return dict(values)


@dataclass(frozen=True)
class ModelShape:
    """Shape of a Mixture-of-Experts transformer.

    Parameters
    ----------
    name : str
        Preset or user-given name.
    layers, dense_layers : int
        All layers, and how many of them (the first) have a dense feed-forward network.
    hidden, expert_ffn : int
        H and I: an expert has 3 H I parameters (gate, up, down).
    num_experts, top_k, shared_experts : int
        Routed experts, experts per token, experts every token visits (each of width `expert_ffn`).
    dense_ffn, vocabulary : int
        Width of the dense layers' network (0 where there is none); rows of the embedding.
    attention : AttentionShape
        Attention of a layer.
    routing_groups, top_groups : int
        Group-limited routing: top-k within the best `top_groups` of `routing_groups` groups;
        0 where the router knows no groups.

    Raises
    ------
    ProfileError
        A field that is no count, or counts that contradict each other.
    """

    name: str
    layers: int
    hidden: int
    expert_ffn: int
    num_experts: int
    top_k: int
    attention: AttentionShape
    dense_layers: int = 0
    shared_experts: int = 0
    dense_ffn: int = 0
    vocabulary: int = 0
    routing_groups: int = 0
    top_groups: int = 0

    def __post_init__(self) -> None:
        place = f"model {self.name}"
        for name in ("layers", "hidden", "expert_ffn", "num_experts", "top_k"):
            check_count(place, name, getattr(self, name), 1)
        for name in ("dense_layers", "shared_experts", "dense_ffn", "vocabulary"):
            check_count(place, name, getattr(self, name), 0)
        for name in ("routing_groups", "top_groups"):
            check_count(place, name, getattr(self, name), 0)
        if not isinstance(self.attention, AttentionShape):
            raise ProfileError(
                "attention is no AttentionShape",
                place=place,
                value=self.attention,
                remedy="use ModelShape.from_dict for a plain mapping",
            )
        if self.top_k > self.num_experts:
            raise ProfileError(
                f"top_k exceeds the {self.num_experts} experts",
                place=place,
                value=self.top_k,
                remedy="lower top_k or raise experts",
            )
        if self.dense_layers >= self.layers:
            raise ProfileError(
                f"no MoE layer is left of {self.layers}",
                place=place,
                value=self.dense_layers,
                remedy="lower dense_layers",
            )
        if self.dense_layers and not self.dense_ffn:
            raise ProfileError(
                "dense layers without a width",
                place=place,
                value=self.dense_ffn,
                remedy="give dense_ffn",
            )

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers

    @property
    def expert_params(self) -> int:
        """Parameters of one routed expert: 3 H I."""
        return 3 * self.hidden * self.expert_ffn

    @property
    def flops_per_pair(self) -> int:
        """Floating-point operations of one (token, expert) pair, forward: 6 H I."""
        return 2 * self.expert_params

    @property
    def other_params(self) -> int:
        """Parameters outside the routed experts, embedding and head included."""
        h = self.hidden
        per_layer = self.attention.projection_params(h) + 2 * h
        moe = self.moe_layers * (h * self.num_experts + self.shared_experts * self.expert_params)
        dense = self.dense_layers * 3 * h * self.dense_ffn
        return self.layers * per_layer + moe + dense + 2 * self.vocabulary * h

    @property
    def params(self) -> int:
        """All parameters."""
        return self.moe_layers * self.num_experts * self.expert_params + self.other_params

    def expert_bytes(self, dtype: str) -> float:
        """Bytes of one expert's weights, block scales included."""
        return self.expert_params * weight_bytes(dtype)

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping for the resolved scenario; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelShape:
        """Build a shape from a plain mapping of field names.

        Raises
        ------
        ProfileError
            Unknown or missing field, or an impossible value.
        """
        given = _take(cls, "model", values)
        if isinstance(given.get("attention"), Mapping):
            attention = _take(AttentionShape, "attention", given["attention"])
            given["attention"] = _build(AttentionShape, "attention", attention)
        shape = _build(cls, "model", given)
        assert isinstance(shape, cls)  # noqa: S101  # narrows the type for the checker
        return shape


def _build(cls: type, owner: str, given: dict[str, Any]) -> Any:
    try:
        return cls(**given)
    except TypeError as error:
        # The keys were checked, so the only TypeError left is a missing argument.
        raise ProfileError(
            str(error).split(") ")[-1].removeprefix("__init__() "),
            place=owner,
            value=sorted(given),
            remedy="give every required field",
        ) from None


def _gqa(heads: int, kv_heads: int, dim: int, window: int = 0, every: int = 0) -> AttentionShape:
    return AttentionShape(heads, kv_heads, dim, window=window, window_every=every)


def _mla(heads: int) -> AttentionShape:
    return AttentionShape(
        heads, heads, 128, kind="mla", q_rank=1536, kv_rank=512, rope_dim=64, v_dim=128
    )


_PRESETS = (
    ModelShape(
        "glm-4.5-air-106b",
        layers=46,
        dense_layers=1,
        hidden=4096,
        expert_ffn=1408,
        num_experts=128,
        top_k=8,
        shared_experts=1,
        dense_ffn=10944,
        vocabulary=151552,
        attention=_gqa(96, 8, 128),
        routing_groups=1,
        top_groups=1,
    ),
    ModelShape(
        "glm-4.7-358b",
        layers=92,
        dense_layers=3,
        hidden=5120,
        expert_ffn=1536,
        num_experts=160,
        top_k=8,
        shared_experts=1,
        dense_ffn=12288,
        vocabulary=151552,
        attention=_gqa(96, 8, 128),
        routing_groups=1,
        top_groups=1,
    ),
    ModelShape(
        "qwen3-235b",
        layers=94,
        hidden=4096,
        expert_ffn=1536,
        num_experts=128,
        top_k=8,
        vocabulary=151936,
        attention=_gqa(64, 4, 128),
    ),
    ModelShape(
        "qwen3-30b",
        layers=48,
        hidden=2048,
        expert_ffn=768,
        num_experts=128,
        top_k=8,
        vocabulary=151936,
        attention=_gqa(32, 4, 128),
    ),
    ModelShape(
        "deepseek-v3-671b",
        layers=61,
        dense_layers=3,
        hidden=7168,
        expert_ffn=2048,
        num_experts=256,
        top_k=8,
        shared_experts=1,
        dense_ffn=18432,
        vocabulary=129280,
        attention=_mla(128),
        routing_groups=8,
        top_groups=4,
    ),
    ModelShape(
        "kimi-k2",
        layers=61,
        dense_layers=1,
        hidden=7168,
        expert_ffn=2048,
        num_experts=384,
        top_k=8,
        shared_experts=1,
        dense_ffn=18432,
        vocabulary=163840,
        attention=_mla(64),
        routing_groups=1,
        top_groups=1,
    ),
    ModelShape(
        "gpt-oss-120b",
        layers=36,
        hidden=2880,
        expert_ffn=2880,
        num_experts=128,
        top_k=4,
        vocabulary=201088,
        attention=_gqa(64, 8, 64, window=128, every=2),
    ),
    ModelShape(
        "mixtral-8x22b",
        layers=56,
        hidden=6144,
        expert_ffn=16384,
        num_experts=8,
        top_k=2,
        vocabulary=32000,
        attention=_gqa(48, 8, 128),
    ),
)

#: Every preset by name. Sources: the models' published configuration files.
MODELS: dict[str, ModelShape] = {shape.name: shape for shape in _PRESETS}


def get_model(name: str) -> ModelShape:
    """Return a preset by name.

    Raises
    ------
    ProfileError
        No such preset; the message lists them.
    """
    try:
        return MODELS[name]
    except (KeyError, TypeError):
        raise ProfileError(
            "unknown model", value=name, remedy=f"one of {', '.join(MODELS)}"
        ) from None
