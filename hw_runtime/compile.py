"""Kernels from source: NVRTC through `cuda.core`, and a cache of cubins on disk.

NVRTC is a library and needs neither a GPU nor a driver, so every kernel can be compiled for every
architecture on any machine. The package brings no CUDA headers: a kernel includes only its own
``.cuh`` files, and those are pasted in here, with ``#line`` so that a message names file and line.

A cached cubin is found by the digest of everything that shapes it: source, architecture, options,
compiler version. It is written under another name and renamed, so a reader never sees half a file,
and it carries its own digest, so a damaged one is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, metadata
from pathlib import Path

from hw_runtime.errors import MissingHardwareError
from ultraep_sim.errors import InputError, UltraEPSimError

KERNELS = Path(__file__).parent / "kernels"
ARCHITECTURES = ("sm_90", "sm_100", "sm_103")
CACHE_VARIABLE = "HW_RUNTIME_CACHE"

_OPTIONS = ("-std=c++17", "-lineinfo", "--ptxas-options=-v")  # what ProgramOptions below says
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+(["<])([^">]+)[">].*$', re.MULTILINE)
_ENTRY = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)'
)
_FORMAT = 1


class CompileError(UltraEPSimError):
    """A kernel does not compile; the message holds the compiler's log."""


@dataclass(frozen=True)
class Resources:
    """What one kernel takes of a multiprocessor, as the assembler reports it.

    Attributes
    ----------
    kernel : str
    registers : int
        Registers a thread.
    shared_bytes : int
        Static shared memory a block; dynamic shared memory comes on top.
    stack_bytes, spill_bytes : int
        Local memory a thread, and how much of it holds spilled registers.
    """

    kernel: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_bytes: int


@dataclass(frozen=True)
class Cubin:
    """One kernel family compiled for one architecture.

    Attributes
    ----------
    family, arch : str
    code : bytes
    log : str
        What the compiler and the assembler printed.
    cached : bool
        Whether it came from the disk.
    """

    family: str
    arch: str
    code: bytes
    log: str
    cached: bool

    @property
    def resources(self) -> list[Resources]:
        """Registers and memory of each kernel in it, by name."""
        return _resources(self.log)


def families(kernels: Path = KERNELS) -> list[str]:
    """Names of the kernel files, without suffix, sorted."""
    return sorted(path.stem for path in kernels.glob("*.cu"))


def signatures(source: str) -> dict[str, list[str]]:
    """Find the kernels a source defines (``extern "C" __global__ void``).

    Parameters
    ----------
    source : str

    Returns
    -------
    dict of str to list of str
        By name, each argument as it is declared (``const int* loads``).
    """
    return {
        name: [" ".join(one.split()) for one in arguments.split(",")]
        for name, arguments in _ENTRY.findall(source)
    }


def inline(
    family: str, *, kernels: Path = KERNELS, replace: Mapping[str, str] | None = None
) -> str:
    """Return a kernel file with its own includes pasted in, each once.

    Parameters
    ----------
    family : str
        File name without ``.cu``.
    kernels : Path
        Directory of the sources.
    replace : mapping of str to str, optional
        Texts to use instead of included files, by file name; tests run kernels on the host with it.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If a file does not exist, or one includes a header that is not ours.
    """
    return _paste(f"{family}.cu", kernels, dict(replace or {}), set())


def _paste(name: str, kernels: Path, replace: dict[str, str], seen: set[str]) -> str:
    seen.add(name)
    path = kernels / name
    if name not in replace and not path.is_file():
        raise InputError(
            "no such kernel file", file=path, remedy=f"there are {', '.join(families(kernels))}"
        )
    text = replace[name] if name in replace else path.read_text(encoding="utf-8")
    if name in replace:
        return f'#line 1 "{name}"\n{text}\n'

    def substitute(found: re.Match[str]) -> str:
        quote, included = found.groups()
        line = text.count("\n", 0, found.start()) + 1
        if quote == "<":
            raise InputError(
                "a kernel includes only its own .cuh files",
                file=path,
                place=f"line {line}",
                value=included,
                remedy="the NVRTC package brings no headers",
            )
        body = "" if included in seen else _paste(included, kernels, replace, seen)
        return f'{body}\n#line {line + 1} "{name}"'

    return f'#line 1 "{name}"\n{_INCLUDE.sub(substitute, text)}'


def cache_directory() -> Path:
    """Where cubins are kept: ``HW_RUNTIME_CACHE``, else the user's cache of this package."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ultraep-sim" / "cubin"


@lru_cache(maxsize=1)
def toolkit() -> str:
    """Return the version of NVRTC and of its package.

    Raises
    ------
    MissingHardwareError
        If it is not installed.
    """
    try:
        nvrtc = import_module("cuda.bindings.nvrtc")
        import_module("cuda.core")  # both are needed: ask now, for one message
        error, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as reason:
        raise MissingHardwareError(
            "compiling kernels needs the packages cuda-core, cuda-bindings and nvidia-cuda-nvrtc "
            f"(pip install 'ultraep-sim[hw]'): {str(reason).splitlines()[0]}"
        ) from reason
    if int(error) != 0:
        raise MissingHardwareError(f"NVRTC does not say its version: {error}")
    package = "unpackaged"
    with contextlib.suppress(metadata.PackageNotFoundError):
        package = metadata.version("nvidia-cuda-nvrtc")
    return f"nvrtc {major}.{minor} ({package})"


def compile_family(
    family: str, arch: str, *, kernels: Path = KERNELS, cache: Path | None = None
) -> Cubin:
    """Compile one kernel file, or take it from the cache.

    Parameters
    ----------
    family : str
    arch : str
        For example ``sm_90``.
    kernels : Path
        Directory of the sources.
    cache : Path, optional
        Where cubins are kept; default `cache_directory`. One that cannot be written is not used.

    Returns
    -------
    Cubin

    Raises
    ------
    MissingHardwareError
        If the compiler is not installed.
    CompileError
        If the source does not compile.
    """
    version = toolkit()
    source = inline(family, kernels=kernels)
    parts = (str(_FORMAT), version, arch, *_OPTIONS, family, source)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    path = (cache or cache_directory()) / f"{family}-{arch}-{key[:32]}.cubin"
    kept = _read(path, key)
    if kept is not None:
        return Cubin(family, arch, *kept, cached=True)
    code, log = _compile(family, arch, source)
    _write(path, key, code, log)
    return Cubin(family, arch, code, log, cached=False)


def _compile(family: str, arch: str, source: str) -> tuple[bytes, str]:
    core = import_module("cuda.core")
    log = io.StringIO()
    options = core.ProgramOptions(
        name=f"{family}.cu", arch=arch, std="c++17", lineinfo=True, ptxas_options=["-v"]
    )
    try:
        made = core.Program(source, "c++", options).compile("cubin", logs=log)
    except Exception as reason:
        # cuda.core raises classes of its own for a bad source and a bad option alike.
        raise CompileError(f"{family}.cu does not compile for {arch}: {reason}") from reason
    return bytes(made.code), log.getvalue()


def _read(path: Path, key: str) -> tuple[bytes, str] | None:
    """Read a cache entry: one line of JSON, then the cubin. None if absent or damaged."""
    try:
        head, _, code = path.read_bytes().partition(b"\n")
        about = json.loads(head)
        if about["key"] == key and about["sha256"] == hashlib.sha256(code).hexdigest():
            return code, str(about["log"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(path: Path, key: str, code: bytes, log: str) -> None:
    about = {"key": key, "sha256": hashlib.sha256(code).hexdigest(), "log": log}
    # A full or read-only disk costs a compilation the next time, nothing else.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(json.dumps(about).encode() + b"\n" + code)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise


def _resources(log: str) -> list[Resources]:
    found = []
    for part in re.split(r"Compiling entry function '", log)[1:]:
        numbers = {
            "registers": r"Used (\d+) registers",
            "shared_bytes": r"(\d+) bytes smem",
            "stack_bytes": r"(\d+) bytes stack frame",
            "spill_bytes": r"(\d+) bytes spill stores",
        }
        values = {}
        for name, pattern in numbers.items():
            match = re.search(pattern, part)
            values[name] = int(match.group(1)) if match else 0
        found.append(Resources(part.partition("'")[0], **values))
    return sorted(found, key=lambda r: r.kernel)
