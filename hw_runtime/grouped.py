"""Grouped matrix products: rows sorted by expert, one call for all experts of a buffer.

``torch.nn.functional.grouped_mm`` (torch 2.13) takes bf16, fp16 and fp32 on the CPU, bf16 on CUDA
from SM 8.0 on; no fp64 anywhere. Every stride must be a multiple of 16 bytes, so row lengths are
multiples of 8 elements (bf16, fp16) or 4 (fp32), and the ends of the groups are int32. Rows behind
the last end are not written, so the last end must be the number of rows. The weights of the groups
may be a view with any such stride between them, which is what lets one slot hold gate, up and down
of one expert side by side.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from ultraep_sim.errors import InputError

CPU_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CUDA_DTYPES = (torch.bfloat16,)
ALIGN_BYTES = 16


def check_expert(hidden: int, ffn: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse an expert that `grouped_mm` cannot compute.

    Raises
    ------
    InputError
    """
    allowed = CUDA_DTYPES if device.type == "cuda" else CPU_DTYPES
    if dtype not in allowed:
        names = ", ".join(str(one).removeprefix("torch.") for one in allowed)
        raise InputError(
            f"grouped_mm does not take this dtype on {device.type}",
            place="dtype", value=str(dtype), remedy=f"give {names}",
        )  # fmt: skip
    step = ALIGN_BYTES // dtype.itemsize
    for name, value in (("hidden", hidden), ("ffn", ffn)):
        if isinstance(value, bool) or not isinstance(value, int) or value < step or value % step:
            raise InputError(
                "rows are not whole multiples of 16 bytes",
                place=name, value=value, remedy=f"give a multiple of {step}",
            )  # fmt: skip


def grouped_rows(x: torch.Tensor, weight: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Multiply the rows of each group with its matrix.

    Parameters
    ----------
    x : tensor, shape [rows, A]
        Sorted by group.
    weight : tensor, shape [groups, A, B]
    counts : tensor of int32, shape [groups]
        Rows of each group; they sum to ``rows``.

    Returns
    -------
    tensor, shape [rows, B]
    """
    if x.shape[0] == 0 or weight.shape[0] == 0:
        return x.new_empty(x.shape[0], weight.shape[2])
    return F.grouped_mm(x, weight, offs=_ends(counts))


def grouped_outer(x: torch.Tensor, y: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Multiply, for each group, ``x`` transposed with ``y``: the gradient of the weights.

    Parameters
    ----------
    x, y : tensor, shape [rows, A] and [rows, B]
    counts : tensor of int32, shape [groups]

    Returns
    -------
    tensor, shape [groups, A, B]
        Zero for a group without rows.
    """
    shape = (counts.shape[0], x.shape[1], y.shape[1])
    if x.shape[0] == 0 or shape[0] == 0:
        return x.new_zeros(shape)
    out = F.grouped_mm(x.t(), y, offs=_ends(counts))
    # Nothing says what grouped_mm leaves in the result of an empty group.
    return out.masked_fill_((counts == 0)[:, None, None], 0)


def _ends(counts: torch.Tensor) -> torch.Tensor:
    return counts.cumsum(0, dtype=torch.int32)
