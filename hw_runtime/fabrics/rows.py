"""What main weights and gradients handed to a GPU fabric must be; tensors, but no torch import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ultraep_sim.errors import InputError

_GRADIENTS = {"torch.float32": "fp32", "torch.bfloat16": "bf16"}


def check_count(mains: Sequence[Any], ranks: int) -> None:
    """Refuse anything but one entry a rank."""
    if len(mains) != ranks:
        raise InputError(
            "no entry for every rank", place="mains", value=len(mains),
            remedy=f"give {ranks}, None for ranks of other processes",
        )  # fmt: skip


def check_bytes(mains: Sequence[Any], local_ranks: Sequence[int]) -> None:
    """Refuse weights that are not uint8."""
    for r in local_ranks[: len(mains)]:
        if str(mains[r].dtype) != "torch.uint8":
            raise InputError(
                "weights are bytes to a fabric", place=f"mains[{r}]", value=str(mains[r].dtype),
                remedy="give tensor.view(torch.uint8)",
            )  # fmt: skip


def check_rows(rows: Any, rank: int, shape: tuple[int, int], device: Any) -> None:
    """Refuse a matrix of another shape, on another kind of device, or with scattered rows."""
    if tuple(rows.shape) != shape or rows.device.type != device.type:
        raise InputError(
            "main weights or gradients do not fit", place=f"mains[{rank}]",
            value=f"{rows.dtype} {tuple(rows.shape)} on {rows.device}",
            remedy=f"give {list(shape)} on {device}",
        )  # fmt: skip
    if shape[1] > 1 and shape[0] and rows.stride(1) != 1:
        raise InputError(
            "rows are not contiguous", place=f"mains[{rank}]", value=tuple(rows.stride()),
            remedy="give tensor.contiguous()",
        )  # fmt: skip


def gradient_dtype(main: Any) -> str:
    """Return "fp32" or "bf16", as kernels are named.

    Raises
    ------
    InputError
        Another dtype.
    """
    name = str(main.dtype)
    if name not in _GRADIENTS:
        raise InputError(
            "gradients are float32 or bfloat16",
            place="mains",
            value=name,
            remedy="cast them before",
        )
    return _GRADIENTS[name]
