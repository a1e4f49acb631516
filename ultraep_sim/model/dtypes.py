"""Bytes of an element in each number format, scale factors included."""

from __future__ import annotations

from typing import Literal, get_args

from ultraep_sim.errors import ProfileError

DType = Literal["bf16", "fp8", "fp4"]
DTYPES: tuple[str, ...] = get_args(DType)

# Activations carry one scale per token and block: fp32 per 128 elements in fp8 (the DeepSeek-V3
# recipe), fp8 per 16 elements in fp4 (NVFP4). Weights carry fp32 per 128 x 128 in fp8.
_ACTIVATION_BYTES = {"bf16": 2.0, "fp8": 1.0 + 4 / 128, "fp4": 0.5 + 1 / 16}
_WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0 + 4 / 128**2, "fp4": 0.5 + 1 / 16}

#: Gradients are accumulated in fp32 whatever the weights are.
GRADIENT_BYTES = 4.0


def _look_up(table: dict[str, float], dtype: str) -> float:
    try:
        return table[dtype]
    except KeyError:
        raise ProfileError(
            "unknown dtype", value=dtype, remedy=f"one of {', '.join(DTYPES)}"
        ) from None


def activation_bytes(dtype: str) -> float:
    """Bytes per activation element on the wire or in memory, block scales included."""
    return _look_up(_ACTIVATION_BYTES, dtype)


def weight_bytes(dtype: str) -> float:
    """Bytes per weight element, block scales included."""
    return _look_up(_WEIGHT_BYTES, dtype)
