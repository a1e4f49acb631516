"""Load compiled kernels on a GPU and launch them on torch's current stream.

Launching copies nothing and waits for nothing, so a sequence of launches can be captured in a CUDA
graph.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch

from hw_runtime.compile import compile_family, inline, signatures
from hw_runtime.errors import MissingHardwareError
from ultraep_sim.errors import InputError


class Kernels(Protocol):
    """The kernels of one family, ready to be launched."""

    def launch(self, name: str, blocks: int, threads: int, shared: int, *arguments: Any) -> None:
        """Launch one kernel; tensors are passed by address, numbers as the kernel declares them."""


def open_kernels(family: str, device: torch.device) -> Kernels | None:
    """Return the kernels of a family for a device; None on the CPU, which runs the host backend.

    Raises
    ------
    MissingHardwareError
        If a GPU is asked for that is not there.
    InputError
        If the device is neither a CPU nor a CUDA device.
    """
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        raise InputError("no such backend", place="device", value=str(device), remedy="cpu or cuda")
    if not torch.cuda.is_available():
        raise MissingHardwareError(f"{device} was asked for, and this machine has no CUDA device")
    index = torch.cuda.current_device() if device.index is None else device.index
    return _load(family, index)


@lru_cache(maxsize=64)
def _load(family: str, index: int) -> GpuKernels:
    return GpuKernels(family, index)


class GpuKernels:
    """One family on one GPU.

    Parameters
    ----------
    family : str
    index : int
        CUDA device.
    """

    def __init__(self, family: str, index: int) -> None:
        self._core = import_module("cuda.core")
        major, minor = torch.cuda.get_device_capability(index)
        cubin = compile_family(family, f"sm_{major}{minor}")
        self._types = signatures(inline(family))
        self._device = self._core.Device(index)
        self._device.set_current()
        self._object = self._core.ObjectCode.from_cubin(cubin.code, name=family)
        self._kernels = {name: self._object.get_kernel(name) for name in self._types}
        self._allowed: dict[str, int] = {}

    def launch(self, name: str, blocks: int, threads: int, shared: int, *arguments: Any) -> None:
        """Launch on torch's current stream of this device."""
        kernel = self._kernels[name]
        if shared > 48 * 1024 and self._allowed.get(name, 0) < shared:
            self._allow(kernel, shared)
            self._allowed[name] = shared
        handle = torch.cuda.current_stream(self._device.device_id).cuda_stream
        stream = self._core.Stream.from_handle(handle)
        config = self._core.LaunchConfig(grid=blocks, block=threads, shmem_size=shared)
        self._core.launch(stream, config, kernel, *pack(self._types[name], arguments))

    def _allow(self, kernel: Any, shared: int) -> None:
        """Raise the limit of dynamic shared memory: 48 KiB unless it is asked for."""
        driver = import_module("cuda.bindings.driver")
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        (error,) = driver.cuKernelSetAttribute(
            attribute, shared, kernel.handle, driver.CUdevice(self._device.device_id)
        )
        if int(error) != 0:
            raise MissingHardwareError(
                f"the device refuses {shared} bytes of shared memory a block"
            )


def pack(declared: list[str], arguments: tuple[Any, ...]) -> list[Any]:
    """Give every argument the width its declaration has.

    Parameters
    ----------
    declared : list of str
        As `signatures` finds them.
    arguments : tuple
        Tensors (or None) for pointers, ints for numbers.

    Returns
    -------
    list
        Addresses as int, numbers as NumPy scalars: what `cuda.core.launch` takes.
    """
    if len(declared) != len(arguments):
        raise TypeError(f"{len(arguments)} arguments for a kernel that takes {len(declared)}")
    numbers = {"int": np.int32, "u32": np.uint32, "i64": np.int64, "u64": np.uint64}
    packed: list[Any] = []
    for kind, value in zip(declared, arguments, strict=True):
        if "*" in kind:
            packed.append(0 if value is None else value.data_ptr())
        else:
            packed.append(numbers[kind.split()[0]](value))
    return packed
