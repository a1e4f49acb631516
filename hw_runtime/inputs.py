"""What tensors handed to the manager must be, and their way to a fabric and back without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ultraep_sim.errors import InputError

ID_DTYPES = (torch.int16, torch.int32, torch.int64)


def as_tensor(array: Any) -> torch.Tensor:
    """See a fabric's array as a tensor; uint16 on the host is bf16."""
    if isinstance(array, torch.Tensor):
        return array
    if array.dtype == np.uint16:
        return torch.from_numpy(array).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_fabric(tensor: torch.Tensor) -> Any:
    """See a CPU tensor as the host fabric takes it: numpy, bf16 as uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return tensor.numpy()


def check_ids(
    topk_ids: Sequence[torch.Tensor], ranks: Sequence[int], device: torch.device
) -> list[NDArray[np.integer]]:
    """Check the top-k ids of the local ranks and return them as numpy.

    Their range is checked where they are counted.

    Raises
    ------
    InputError
        Another number of ranks, or a tensor of the wrong dtype, shape, device or memory order.
    """
    if len(topk_ids) != len(ranks):
        raise InputError(
            "no ids for every local rank", place="topk_ids", value=len(topk_ids),
            remedy=f"give a list of {len(ranks)} tensors [tokens, k]",
        )  # fmt: skip
    out = []
    for at, ids in enumerate(topk_ids):
        place = f"topk_ids[{at}]"
        _require_tensor(place, ids, ID_DTYPES, device)
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise InputError(
                "ids need shape [tokens, k]", place=place, value=tuple(ids.shape),
                remedy="give the k experts of each token in a row",
            )  # fmt: skip
        out.append(ids.detach().cpu().numpy())
    return out


def check_rows(
    name: str,
    tensors: Sequence[torch.Tensor | None],
    rows: NDArray[np.int64],
    ranks: Sequence[int],
    device: torch.device,
    length: int,
    *,
    dtypes: tuple[torch.dtype, ...] | None = None,
) -> None:
    """Check one matrix of main experts for every local rank.

    Parameters
    ----------
    name : str
        For the errors.
    tensors : sequence, one entry a rank
    rows : ndarray of int64, shape [ranks]
        Main experts of each rank.
    ranks : sequence of int
        Local ranks.
    device : torch.device
    length : int
        Of a row: bytes where any dtype will do, else elements.
    dtypes : tuple of torch.dtype, optional

    Raises
    ------
    InputError
    """
    if len(tensors) != len(rows):
        raise InputError(
            "no entry for every rank of the group", place=name, value=len(tensors),
            remedy=f"give {len(rows)}, None for ranks of other processes",
        )  # fmt: skip
    for rank in ranks:
        tensor = tensors[rank]
        place = f"{name}[{rank}]"
        _require_tensor(place, tensor, dtypes, device)
        assert tensor is not None  # noqa: S101 - for mypy; _require_tensor refused it
        unit = tensor.dtype.itemsize if dtypes is None else 1
        if tensor.ndim != 2 or tensor.shape[0] != rows[rank] or tensor.shape[1] * unit != length:
            what = f"{length} {'bytes' if dtypes is None else 'elements'} a row"
            raise InputError(
                "wrong shape", place=place, value=tuple(tensor.shape),
                remedy=f"give [{rows[rank]}, ...] with {what}",
            )  # fmt: skip


def _require_tensor(
    place: str, tensor: object, dtypes: tuple[torch.dtype, ...] | None, device: torch.device
) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise InputError(
            "not a tensor", place=place, value=type(tensor).__name__, remedy="give a torch.Tensor"
        )
    if dtypes is not None and tensor.dtype not in dtypes:
        names = ", ".join(str(one).removeprefix("torch.") for one in dtypes)
        raise InputError(
            "wrong dtype", place=place, value=str(tensor.dtype), remedy=f"give one of {names}"
        )
    if tensor.device.type != device.type or (
        device.index is not None and tensor.device.index != device.index
    ):
        raise InputError(
            "wrong device", place=place, value=str(tensor.device), remedy=f"move it to {device}"
        )
    if not tensor.is_contiguous():
        raise InputError(
            "not contiguous", place=place, value=tensor.stride(), remedy="call .contiguous()"
        )
