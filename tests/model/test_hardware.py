from dataclasses import fields

import pytest

from ultraep_sim.errors import ProfileError
from ultraep_sim.model import RACKS, get_rack
from ultraep_sim.model.hardware import GPUS
from ultraep_sim.model.provenance import Quantity


@pytest.mark.parametrize("name", RACKS)
def test_every_number_is_a_quantity_with_a_source(name: str) -> None:
    rack = get_rack(name)
    for profile in (rack, rack.gpu):
        values = {f.name: getattr(profile, f.name) for f in fields(profile)}
        bare = {k for k, v in values.items() if not isinstance(v, Quantity)}
        assert bare - {"name", "gpu"} <= {"fp4_TFLOPs", "fp4_speedup"}
        assert all(values[k] is None for k in bare - {"name", "gpu"})
        assert all(v.source for k, v in values.items() if k not in bare)


@pytest.mark.parametrize("name", RACKS)
def test_achieved_never_exceeds_nominal(name: str) -> None:
    rack = get_rack(name)
    assert rack.alltoall_forward_GBps.si <= rack.scale_up_GBps.si
    assert rack.stream_GBps.si <= rack.scale_up_GBps.si
    assert rack.scale_out_achieved_GBps.si <= rack.scale_out_Gbps.si
    assert rack.gpu.hbm_achieved_TBps.si <= rack.gpu.hbm_TBps.si
    for kernel in ("expert", "dense", "attention"):
        for direction in ("forward", "backward"):
            assert rack.gpu.rate(kernel, direction) < rack.gpu.bf16_TFLOPs.si


def test_nominal_figures_are_those_of_the_datasheets() -> None:
    assert [get_rack(n).domain_size for n in RACKS] == [8, 8, 8, 72, 72, 64]
    assert [g.bf16_TFLOPs.value for g in GPUS.values()] == [989, 989, 2250, 2500, 2500, 2500]
    assert get_rack("gb300-nvl72").gpu.fp4_TFLOPs.value == 15000
    assert get_rack("h200-nvl8").gpu.hbm_GB.value == 141


def test_paper_rack_carries_the_published_transfers() -> None:
    rack = get_rack("paper-rack64")
    copy = 36 * 2**20
    assert copy / rack.stream_rate == pytest.approx(51.5e-6)
    assert rack.stream_GBps.provenance == "published"
    assert rack.alltoall_forward_GBps.provenance == "fitted"
    # Elsewhere the same figures are a guess with a range.
    assert get_rack("gb200-nvl72").stream_GBps.provenance == "assumed"


def test_a_lower_nominal_figure_caps_the_achieved_one() -> None:
    rack = get_rack("paper-rack64").with_overrides(
        {"scale_up_GBps": 100, "scale_out_Gbps": 80, "gpu": {"hbm_TBps": 1, "bf16_TFLOPs": 500}}
    )
    assert rack.stream_rate == rack.alltoall_rate("forward") == rack.migrate_rate == 100e9
    assert rack.scale_out_rate == 10e9
    assert rack.gpu.memory_rate == 1e12
    assert rack.gpu.rate("expert", "forward") == 500e12


def test_dtypes_raise_the_rate_up_to_the_peak() -> None:
    gpu = get_rack("gb200-nvl72").gpu
    bf16, fp8, fp4 = (gpu.rate("expert", "forward", d) for d in ("bf16", "fp8", "fp4"))
    assert bf16 < fp8 < fp4
    assert fp8 == pytest.approx(1.56 * bf16)
    with pytest.raises(ProfileError, match="h100: this GPU has no fp4 units"):
        get_rack("h100-nvl8").gpu.rate("expert", "forward", "fp4")
    with pytest.raises(ProfileError, match="unknown dtype"):
        gpu.rate("expert", "forward", "int8")


def test_gradient_reduction_follows_its_sms_up_to_the_link() -> None:
    rack = get_rack("paper-rack64")
    assert rack.grad_reduce_rate() == pytest.approx(175e9)
    assert rack.grad_reduce_rate(84) == pytest.approx(350e9)
    fast = rack.with_overrides({"stream_GBps": 200})
    assert fast.grad_reduce_rate(84) == 200e9
    for sms in (0, 149):
        with pytest.raises(ProfileError, match="has 148 SMs"):
            rack.grad_reduce_rate(sms)


def test_overrides_nest_and_are_listed() -> None:
    rack = get_rack("gb300-nvl72").with_overrides(
        {"gpu.hbm_GB": 100, "gpu": {"sms": 120}, "domain": 36}
    )
    assert rack.overrides() == {"gpu.hbm_GB": 100.0, "gpu.sms": 120.0, "domain": 36.0}
    assert rack.domain_size == 36
    assert rack.to_dict()["gpu"]["hbm_GB"]["source"] == "scenario override"
    assert get_rack("gb300-nvl72").overrides() == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"scale_up": 3}, r"scale_up: no such number.*scale_up_GBps"),
        ({"gpu.hbm": 3}, r"gpu\.hbm: no such number"),
        ({"gpu": 3}, r"gpu: a GPU is overridden number by number"),
        ({"name": "mine"}, "name: no such number"),
        ({"stream_GBps": 0}, "rate or size of zero"),
        ({"stream_GBps": -1}, r"stream_GBps: a quantity is finite"),
        ({"stream_GBps": "fast"}, r"stream_GBps: not a number \(got 'fast'\); give .* GB/s"),
        ({"domain": 3.5}, "not a whole number"),
        ({"gpu": {"hbm_GB": None}}, r"gpu\.hbm_GB: not a number"),
    ],
)
def test_bad_overrides_name_the_place(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        get_rack("gb200-nvl72").with_overrides(overrides)


def test_unknown_rack_lists_the_known() -> None:
    with pytest.raises(ProfileError, match=r"unknown rack \(got 'dgx'\).*paper-rack64"):
        get_rack("dgx")
