"""Checks of what callers hand in: dtype, shape, device, contiguity, range.

Everything that can be seen without reading the values is checked at once. Values are checked where
they are on the CPU; on a GPU that would mean waiting for it, so kernels count what is wrong and
`hw_runtime.planner.DevicePlan.check` and `hw_runtime.counting.Counts.check` report it later.
"""

from __future__ import annotations

import torch

from ultraep_sim.errors import InputError
from ultraep_sim.planning.loads import MAX_TOTAL

ID_TYPES = (torch.int16, torch.int32, torch.int64)
PADDING = -1
"""The id of a pair that goes nowhere."""


def check_tensor(
    tensor: object,
    name: str,
    *,
    dtypes: tuple[torch.dtype, ...],
    shape: tuple[int | None, ...],
    device: torch.device,
) -> torch.Tensor:
    """Check everything but the values of a tensor.

    Parameters
    ----------
    tensor : object
    name : str
        What the caller calls it.
    dtypes : tuple of torch.dtype
        Any of these.
    shape : tuple of int or None
        None for any length.
    device : torch.device
        Where it must be; an index of None stands for any.

    Returns
    -------
    torch.Tensor

    Raises
    ------
    InputError
        Naming the tensor, what is wrong, and the remedy.
    """
    if not isinstance(tensor, torch.Tensor):
        raise InputError("not a torch tensor", place=name, value=type(tensor).__name__)
    if tensor.dtype not in dtypes:
        wanted = " or ".join(_short(one) for one in dtypes)
        raise InputError(
            "wrong dtype", place=name, value=_short(tensor.dtype), remedy=f"give {wanted}"
        )
    fits = len(tensor.shape) == len(shape) and all(
        want is None or want == have for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise InputError(
            "wrong shape", place=name, value=tuple(tensor.shape), remedy=f"give [{wanted}]"
        )
    same = tensor.device.type == device.type and device.index in (None, tensor.device.index)
    if not same:
        raise InputError(
            "wrong device", place=name, value=str(tensor.device), remedy=f"move it to {device}"
        )
    if not tensor.is_contiguous():
        raise InputError(
            "not contiguous", place=name, value=tensor.stride(), remedy="call .contiguous()"
        )
    return tensor


def check_ids(ids: object, num_experts: int, device: torch.device) -> torch.Tensor:
    """Check top-k ids [tokens, k]; on the CPU their values too (`PADDING` or an expert).

    Zero tokens are fine: a rank may have none in a micro-batch.
    """
    found = check_tensor(ids, "topk_ids", dtypes=ID_TYPES, shape=(None, None), device=device)
    if found.dtype == torch.int16 and num_experts > 2**15:
        raise InputError("int16 cannot name every expert", place="topk_ids", value=num_experts)
    if found.device.type == "cpu" and found.numel():
        bad = (found < PADDING) | (found >= num_experts)
        if bool(bad.any()):
            row, column = (int(i) for i in bad.nonzero()[0])
            raise InputError(
                "expert id out of range",
                place=f"topk_ids[{row}, {column}]",
                value=int(found[row, column]),
                remedy=f"give 0 to {num_experts - 1}, or {PADDING} for padding",
            )
    return found


def check_device_loads(
    loads: object, num_ranks: int, num_experts: int, device: torch.device
) -> torch.Tensor:
    """Check int32 loads, [sources, experts] or [records, sources, experts]; return the latter.

    Sources are one row (unknown) or one a rank. On the CPU values are checked too.
    """
    if isinstance(loads, torch.Tensor) and loads.dim() == 2:
        loads = loads[None] if loads.is_contiguous() else loads
    rank = loads.dim() if isinstance(loads, torch.Tensor) else 3
    shape: tuple[int | None, ...] = (None,) * (rank - 1) + (num_experts,)
    found = check_tensor(loads, "loads", dtypes=(torch.int32,), shape=shape, device=device)
    if rank != 3 or found.shape[0] == 0 or found.shape[1] not in (1, num_ranks):
        raise InputError(
            "source rows do not fit the layout's ranks",
            place="loads",
            value=tuple(found.shape),
            remedy=f"give one row (source unknown) or {num_ranks}",
        )
    if found.device.type == "cpu":
        if int(found.min()) < 0:
            at = [int(i) for i in (found < 0).nonzero()[0]]
            raise InputError("a load is negative", place=f"loads{at}", value=int(found[tuple(at)]))
        total = found.sum(dim=(1, 2), dtype=torch.int64)
        if int(total.max()) > MAX_TOTAL:
            raise InputError(
                "the total load reaches 2^31",
                place=f"loads[{int(total.argmax())}]",
                value=int(total.max()),
                remedy=f"a record may hold {MAX_TOTAL} pairs; split the micro-batch",
            )
    return found


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
