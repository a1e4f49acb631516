"""Grouped products in fp8 (e4m3, row-wise scales), for the rows of `bench` only.

``torch._scaled_grouped_mm`` multiplies rows [tokens, K] with column-major weights [groups, K, N];
torch says so in no stable interface yet, so it is tried once on a tiny product before it is used.
It has not run on a GPU here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..autograd import silu_mul

DTYPE = torch.float8_e4m3fn
MIN_CAPABILITY = (9, 0)
"""Tensor cores of sm_89 have fp8 as well, but no grouped product."""


class Scaled(NamedTuple):
    """fp8 values and the fp32 scale of each row (the last axis)."""

    values: torch.Tensor
    scale: torch.Tensor


def why_not(device: torch.device) -> str | None:
    """Say in a clause what keeps fp8 products from running on a device; None if they do."""
    if device.type != "cuda":
        return "fp8 products need a CUDA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return f"compute capability {capability[0]}.{capability[1]} has no grouped fp8 products"
    if not hasattr(torch, "_scaled_grouped_mm"):
        return f"torch {torch.__version__} has no _scaled_grouped_mm"
    return _trial(device)


def _trial(device: torch.device) -> str | None:
    """Multiply something small; what a build or a device refuses comes out here."""
    x, weight = torch.ones(32, 64, device=device), torch.ones(2, 32, 64, device=device)
    try:
        out = product(quantize(x), quantize(weight), _ends(torch.full((2,), 16, device=device)))
        right = bool(torch.isclose(out.float(), torch.full_like(out.float(), 64.0)).all())
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        return f"_scaled_grouped_mm refuses a small product: {str(error).splitlines()[0]}"
    return None if right else "_scaled_grouped_mm gives wrong numbers for a small product"


def quantize(rows: torch.Tensor) -> Scaled:
    """Scale every row of [..., rows, K] so that its largest element is the largest of e4m3."""
    wide = rows.float()
    largest = wide.abs().amax(dim=-1).clamp(min=1e-12)
    scale = largest / torch.finfo(DTYPE).max
    return Scaled((wide / scale[..., None]).to(DTYPE).contiguous(), scale)


def product(x: Scaled, weight: Scaled, ends: torch.Tensor) -> torch.Tensor:
    """Multiply grouped rows [rows, K] with weights [groups, N, K], bf16 [rows, N]."""
    multiply: Any = torch._scaled_grouped_mm  # guarded by why_not
    out: torch.Tensor = multiply(
        x.values, weight.values.mT, x.scale, weight.scale,
        offs=ends, out_dtype=torch.bfloat16, use_fast_accum=True,
    )  # fmt: skip
    return out


def experts(x: Scaled, first: Scaled, down: Scaled, groups: torch.Tensor) -> torch.Tensor:
    """Gate, up, SiLU and down of rows sorted by group; ``groups`` are int32 rows of each."""
    ends = _ends(groups)
    return product(quantize(silu_mul(product(x, first, ends))), down, ends)


def _ends(groups: torch.Tensor) -> torch.Tensor:
    return groups.cumsum(0, dtype=torch.int32)
