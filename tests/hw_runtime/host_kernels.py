"""Run the GPU kernels on the host: the same sources, with fibers for threads (shim/ptx.h)."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw_runtime.compile import inline, signatures

SHIM = Path(__file__).parent / "shim"
COMPILER = shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(
    COMPILER is None, reason="no C++ compiler: kernels cannot be run on the host"
)


class HostKernels:
    """The kernels of one family as host functions.

    ``kernels.launch(name, blocks, threads, shared_bytes, *arguments, order=seed)``: arrays are
    passed by address, numbers as they are; ``order`` seeds the order in which threads run.
    """

    def __init__(self, family: str) -> None:
        assert COMPILER is not None
        source = inline(family, replace={"ptx.cuh": (SHIM / "ptx.h").read_text()})
        self._types = signatures(source)
        glue = [source]
        for name, declared in self._types.items():
            names = ", ".join(re.findall(r"\w+$", one)[0] for one in declared)
            glue.append(
                f'extern "C" int host_{name}(u32 blocks, u32 threads, u32 shared, u32 order, '
                f"{', '.join(declared)}) {{\n  return shim::launch(blocks, threads, shared, order, "
                f"[=] {{ {name}({names}); }});\n}}"
            )
        self._library = ctypes.CDLL(str(_build(family, "\n".join(glue))))

    def launch(
        self, name: str, blocks: int, threads: int, shared: int, *arguments: Any, order: int = 0
    ) -> None:
        declared = self._types[name]
        assert len(arguments) == len(declared), f"{name} takes {len(declared)} arguments"
        values: list[Any] = [ctypes.c_uint32(x) for x in (blocks, threads, shared, order)]
        for kind, value in zip(declared, arguments, strict=True):
            if "*" in kind:
                values.append(ctypes.c_void_p(_address(kind, value)))
            elif kind.startswith(("i64", "u64")):
                values.append(ctypes.c_int64(value))
            else:
                values.append(ctypes.c_int32(ctypes.c_uint32(value & 0xFFFFFFFF).value))
        result = getattr(self._library, f"host_{name}")(*values)
        assert result == 0, f"{name}: " + (
            "threads wait for each other for ever" if result == 1 else "too much shared memory"
        )


def _address(kind: str, value: Any) -> int:
    """Address of an array or tensor; its words must be as wide as the kernel's."""
    if value is None:
        return 0
    word = kind.replace("const ", "").split("*")[0].strip()
    width = {"i64": 8, "u64": 8, "int": 4, "u32": 4, "u16": 2, "short": 2, "u8": 1}[word]
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous, kind
        assert value.itemsize == width, f"{kind}: {value.dtype}"
        return value.ctypes.data
    assert value.is_contiguous(), kind
    assert value.element_size() == width, f"{kind}: {value.dtype}"
    return int(value.data_ptr())


@lru_cache
def host_kernels(family: str) -> HostKernels:
    """Compile a family for the host, once a process."""
    return HostKernels(family)


def _build(family: str, source: str) -> Path:
    """Compile to a shared library; kept by digest, so that parallel test workers share it."""
    flags = ["-std=c++17", "-O2", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-fPIC", "-shared"]
    text = "\0".join([*flags, source])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"hw-runtime-host-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{family}-{digest}.so"
    if not library.exists():
        made = folder / f"{family}-{digest}-{os.getpid()}.so"
        file = made.with_suffix(".cpp")
        file.write_text(source)
        command = [str(COMPILER), *flags, str(file), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]
        file.unlink()
        made.replace(library)
    return library


class HostOrder:
    """`Kernels` for a front end: a family on the host, its threads in the order of a seed."""

    def __init__(self, family: str, order: int = 0) -> None:
        self._kernels, self._order = host_kernels(family), order

    def launch(self, name: str, blocks: int, threads: int, shared: int, *arguments: Any) -> None:
        self._kernels.launch(name, blocks, threads, shared, *arguments, order=self._order)
