"""Every kernel compiles for every architecture, on any machine: NVRTC needs no GPU."""

import json

import pytest

pytest.importorskip("cuda.core", reason="cuda-core is not installed: kernels are not compiled")

from hw_runtime.__main__ import main
from hw_runtime.compile import ARCHITECTURES, compile_family, families, inline, signatures


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("family", families())
def test_every_kernel_compiles(family, arch):
    cubin = compile_family(family, arch)
    assert cubin.code[:4] == b"\x7fELF"
    kernels = signatures(inline(family))
    assert kernels
    assert {one.kernel for one in cubin.resources} == set(kernels)
    for one in cubin.resources:
        assert 0 < one.registers <= 255
        assert one.spill_bytes < 256, f"{one.kernel} spills registers"


def test_command_compiles_and_reports(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HW_RUNTIME_CACHE", str(tmp_path))
    family = families()[0]
    monkeypatch.setattr("hw_runtime.compile_command.families", lambda: [family])
    assert main(["compile", "--arch", "sm_90", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["compile", "--arch", "sm_90", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [row["cached"] for row in first["cubins"] + again["cubins"]] == [False, True]
    assert first["cubins"][0]["bytes"] == again["cubins"][0]["bytes"] > 0
    assert first["cubins"][0]["kernels"] == again["cubins"][0]["kernels"] != []
    assert main(["compile", "--arch", "sm_90"]) == 0
    assert f"{family} sm_90: " in capsys.readouterr().out


def test_command_refuses_an_unknown_architecture(capsys):
    assert main(["compile", "--arch", "sm_75"]) == 2
    assert "unknown architecture (got 'sm_75')" in capsys.readouterr().err
