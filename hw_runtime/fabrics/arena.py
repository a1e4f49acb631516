"""What GPU fabrics need before any transfer: a GPU, and a plan of a rank's memory."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from ultraep_sim.errors import InputError

from ..errors import MissingHardwareError
from .base import ALIGN, GRADIENT_BYTES, Geometry

CHANNELS = 2
"""Barriers that may be under way at once: of the transfers, and of the reductions beside them."""
RESIDENT = 4
"""Blocks of a reduction that an SM holds: 256 threads of at most 64 registers; to be tuned."""


def require_cuda() -> Any:
    """Return torch where it has a CUDA device.

    Raises
    ------
    MissingHardwareError
        In one sentence, what is missing.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise MissingHardwareError("the GPU fabrics need torch with CUDA, not installed") from error
    if not torch.cuda.is_available():
        raise MissingHardwareError("this machine has no CUDA device that torch can use")
    major, minor = torch.cuda.get_device_capability()
    if major < 9:
        raise MissingHardwareError(
            f"the CUDA device has capability {major}.{minor}, and bulk copies need 9.0 or newer"
        )
    return torch


@dataclass(frozen=True)
class Arena:
    """Where the parts of a rank's arena begin, in bytes."""

    slot_stride: int
    gradient_stride: int
    slots: int
    gradients: int
    ready: int
    arrived: int
    total: int
    slot_set: int
    gradient_set: int
    ready_set: int
    arrived_set: int
    loads: int

    @classmethod
    def of(cls, g: Geometry) -> Arena:
        """Lay the parts out one behind another, aligned."""
        held = g.layout.slots_per_rank
        width = g.gradient_elements * GRADIENT_BYTES[g.gradient_dtype]
        gradient_stride = _up(width)
        slot_set, gradient_set = held * g.slot_stride, held * gradient_stride
        ready_set = _up(held * g.chunks_per_copy * 8)
        gradients = g.sets * slot_set
        ready = gradients + g.sets * gradient_set
        arrived = ready + g.sets * ready_set
        arrived_set = _up(g.layout.num_ranks * 8)
        loads = arrived + CHANNELS * arrived_set
        total = loads + _up(g.layout.num_ranks * g.layout.num_experts * 4)
        return cls(
            g.slot_stride, gradient_stride, 0, gradients, ready, arrived, total,
            slot_set, gradient_set, ready_set, arrived_set, loads,
        )  # fmt: skip


def _up(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def sm_budget(torch: Any, device: Any, sms: int | None) -> int:
    """Return the thread blocks of a reduction: the SMs asked for, at most those there are.

    A budget gets one block an SM, so that it leaves the others alone. Without one every SM gets as
    many as its registers hold, to have more reads under way.

    Raises
    ------
    InputError
        Fewer than one.
    """
    there = 4  # the CPU, in tests
    if device.type == "cuda":
        there = int(torch.cuda.get_device_properties(device).multi_processor_count)
    if sms is not None and sms < 1:
        raise InputError("no SM", place="sms", value=sms, remedy="give 1 or more")
    return RESIDENT * there if sms is None else min(sms, there)
