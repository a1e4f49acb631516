"""The cache of cubins, the pasting of includes, and what a failed compilation says."""

import importlib.util
from pathlib import Path

import pytest

from hw_runtime import compile as hw_compile
from hw_runtime.__main__ import main
from hw_runtime.compile import CompileError, cache_directory, compile_family, inline, signatures
from hw_runtime.errors import MissingHardwareError
from ultraep_sim.errors import InputError

needs_nvrtc = pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None, reason="cuda-core is not installed"
)

GOOD = 'extern "C" __global__ void add(int* a) { a[threadIdx.x] += one(); }\n'


@pytest.fixture
def kernels(tmp_path):
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "one.cuh").write_text("#pragma once\n__device__ int one() { return 1; }\n")
    (folder / "good.cu").write_text('#include "one.cuh"\n#include "one.cuh"\n' + GOOD)
    return folder


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


@needs_nvrtc
def test_second_compilation_comes_from_the_disk(kernels, tmp_path):
    cache = tmp_path / "cache"
    first = compile_family("good", "sm_90", kernels=kernels, cache=cache)
    again = compile_family("good", "sm_90", kernels=kernels, cache=cache)
    assert (first.cached, again.cached) == (False, True)
    assert (first.code, first.resources) == (again.code, again.resources)
    assert len(files(cache)) == 1  # nothing temporary is left


@needs_nvrtc
def test_source_included_file_arch_and_compiler_make_the_key(kernels, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def cached(arch="sm_90"):
        return compile_family("good", arch, kernels=kernels, cache=cache).cached

    assert not cached()
    assert not cached("sm_100")
    (kernels / "one.cuh").write_text("__device__ int one() { return 2; }\n")
    assert not cached()
    assert cached()
    monkeypatch.setattr(hw_compile, "toolkit", lambda: "nvrtc 99.0")
    assert not cached()
    assert len(files(cache)) == 4


@needs_nvrtc
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "not json"])
def test_damaged_entry_is_compiled_again(kernels, tmp_path, damage):
    cache = tmp_path / "cache"
    good = compile_family("good", "sm_90", kernels=kernels, cache=cache)
    (path,) = files(cache)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-100] ^= 1
    path.write_bytes(
        {"cut": data[: len(data) // 2], "flip": data, "empty": b"", "not json": b"[1]\nx"}[damage]
    )
    mended = compile_family("good", "sm_90", kernels=kernels, cache=cache)
    assert not mended.cached
    assert mended.code == good.code
    assert compile_family("good", "sm_90", kernels=kernels, cache=cache).cached


@needs_nvrtc
def test_cache_that_cannot_be_written_is_not_used(kernels, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    made = compile_family("good", "sm_90", kernels=kernels, cache=blocked / "cache")
    assert made.code
    assert not made.cached


@needs_nvrtc
@pytest.mark.parametrize(
    ("broken", "place"), [("good.cu", r"good.cu\(4\)"), ("one.cuh", "one.cuh")]
)
def test_log_names_file_and_line(kernels, tmp_path, broken, place):
    path = kernels / broken
    path.write_text(path.read_text() + "__device__ int bad() { return missing; }\n")
    expected = place if broken == "good.cu" else r"one.cuh\(3\)"
    with pytest.raises(CompileError, match=rf"{expected}: error: .*missing"):
        compile_family("good", "sm_90", kernels=kernels, cache=tmp_path)


def test_includes_are_pasted_once_with_their_lines(kernels):
    text = inline("good", kernels=kernels)
    assert text.count("int one()") == 1
    assert '#line 1 "one.cuh"' in text
    assert '#line 2 "good.cu"' in text
    assert signatures(text) == {"add": ["int* a"]}
    swapped = inline("good", kernels=kernels, replace={"one.cuh": "int one();"})
    assert "return 1" not in swapped


def test_foreign_headers_are_refused(kernels):
    (kernels / "bad.cu").write_text("\n#include <cuda_bf16.h>\n")
    with pytest.raises(InputError, match=r"bad.cu: line 2: a kernel includes only its own"):
        inline("bad", kernels=kernels)
    with pytest.raises(InputError, match="no such kernel file; there are bad, good"):
        inline("worse", kernels=kernels)


def test_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("HW_RUNTIME_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "ultraep-sim" / "cubin"
    monkeypatch.setenv("HW_RUNTIME_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"


def test_without_the_compiler_one_sentence_says_so(monkeypatch, capsys):
    def missing():
        raise MissingHardwareError("compiling kernels needs the packages cuda-core, ...")

    monkeypatch.setattr(hw_compile, "toolkit", missing)
    assert main(["compile"]) == 1
    assert capsys.readouterr().err == (
        "error: compiling kernels needs the packages cuda-core, ...\n"
    )


def test_missing_package_is_named(monkeypatch):
    hw_compile.toolkit.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "cuda.core", None)
    try:
        with pytest.raises(MissingHardwareError, match="needs the packages cuda-core, cuda-bind"):
            hw_compile.toolkit()
    finally:
        hw_compile.toolkit.cache_clear()
