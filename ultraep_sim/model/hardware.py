"""Rack presets. Every number says where it comes from; ranges where it is soft.

The kernel rates of the public GPUs come from the tables of aiconfigurator-core 0.12.0 (Apache-2.0),
bf16, balanced loads, cutlass grouped GEMM with at least 256 rows an expert. The law of
`compute.gemm` fits them with 8 % (Blackwell) to 18 % (Hopper) median error; the tables time
inference operators, so permutation and final scaling are inside t0 and c. Nobody publishes
backward tables: those rates are assumptions with wide ranges.
"""

from __future__ import annotations

from ultraep_sim.errors import ProfileError
from ultraep_sim.model.profiles import GpuProfile, RackProfile
from ultraep_sim.model.provenance import Quantity, assumed, datasheet, fitted, published

__all__ = ["GPUS", "RACKS", "GpuProfile", "RackProfile", "get_rack"]

_TABLES = "aiconfigurator-core 0.12.0"
_IDEAL = "ideal rows of the paper's layer breakdown (Qwen3-235B, EP64)"
_DISTRIBUTION = "UltraEP weight-distribution measurements (arXiv 2606.04101 and its README)"

# The one published backward rate is 0.874 of the forward rate (1.145 / 1.31 PFLOP/s).
_BACKWARD = 1.145 / 1.31


def _backward(forward: Quantity, ratio: float, low: float, high: float, why: str) -> Quantity:
    v = forward.value
    return assumed(v * ratio, forward.unit, why, v * low, v * high)


def _gpu(
    name: str,
    *,
    sms: int,
    peak: tuple[float, float, float | None],
    hbm: tuple[float, float, float],
    expert: tuple[float, float, float],
    launch_us: float,
    pair_ns: float,
    dense: tuple[float, float, float],
    attention: tuple[float, float, float],
    speedup: tuple[tuple[float, float, float], tuple[float, float, float] | None],
) -> GpuProfile:
    """Build a public GPU: nominal figures, then (value, low, high) from the kernel tables."""
    sheet = f"NVIDIA {name.upper()} datasheet, dense"
    ratio = f"achieved over bf16, expert GEMMs of {_TABLES}, median and 10-90 % band"
    expert_q = fitted(expert[0], "TFLOP/s", f"moe_perf of {_TABLES}", *expert[1:])
    dense_q = published(
        dense[0], "TFLOP/s", f"gemm_perf of {_TABLES}, 8192 rows, median", *dense[1:]
    )
    attention_q = published(
        attention[0], "TFLOP/s", f"context_attention_perf of {_TABLES}, 8192 tokens", *attention[1:]
    )
    fp4 = speedup[1]
    return GpuProfile(
        name=name,
        sms=datasheet(sms, "1", f"NVIDIA {name.upper()} datasheet"),
        bf16_TFLOPs=datasheet(peak[0], "TFLOP/s", sheet),
        fp8_TFLOPs=datasheet(peak[1], "TFLOP/s", sheet),
        fp4_TFLOPs=None if peak[2] is None else datasheet(peak[2], "TFLOP/s", sheet),
        hbm_TBps=datasheet(hbm[0], "TB/s", sheet),
        hbm_GB=datasheet(hbm[1], "GB", sheet),
        hbm_achieved_TBps=fitted(
            hbm[2], "TB/s", f"weight-bound rows of moe_perf, {_TABLES}", 0.6 * hbm[0], 0.95 * hbm[0]
        ),
        expert_forward_TFLOPs=expert_q,
        expert_backward_TFLOPs=_backward(
            expert_q, _BACKWARD, 0.7, 1.0, "forward x 0.874, the paper's backward over forward"
        ),
        expert_launch_us=fitted(
            launch_us, "us", f"moe_perf of {_TABLES}", 0.3 * launch_us, 2 * launch_us
        ),
        expert_pair_ns=fitted(
            pair_ns, "ns", f"moe_perf of {_TABLES}, at hidden 4096", 0.5 * pair_ns, 1.5 * pair_ns
        ),
        dense_forward_TFLOPs=dense_q,
        dense_backward_TFLOPs=_backward(
            dense_q, 0.95, 0.8, 1.0, "dgrad and wgrad near the forward rate"
        ),
        attention_forward_TFLOPs=attention_q,
        attention_backward_TFLOPs=_backward(
            attention_q, 0.75, 0.55, 0.9, "FlashAttention backward over forward"
        ),
        fp8_speedup=published(speedup[0][0], "1", ratio, *speedup[0][1:]),
        fp4_speedup=None if fp4 is None else published(fp4[0], "1", ratio, *fp4[1:]),
    )


_H100 = _gpu(
    "h100",
    sms=132,
    peak=(989, 1979, None),
    hbm=(3.35, 80, 2.8),
    expert=(770, 555, 850),
    launch_us=118,
    pair_ns=14,
    dense=(762, 730, 868),
    attention=(532, 500, 672),
    speedup=((1.7, 1.05, 1.84), None),
)
_H200 = _gpu(
    "h200",
    sms=132,
    peak=(989, 1979, None),
    hbm=(4.8, 141, 4.0),
    expert=(814, 670, 850),
    launch_us=110,
    pair_ns=9.5,
    dense=(763, 715, 840),
    attention=(535, 500, 671),
    speedup=((1.72, 0.98, 1.89), None),
)
_B200 = _gpu(
    "b200",
    sms=148,
    peak=(2250, 4500, 9000),
    hbm=(8, 180, 6.7),
    expert=(1764, 1356, 1820),
    launch_us=70,
    pair_ns=9.1,
    dense=(1511, 1437, 1758),
    attention=(1105, 1000, 1653),
    speedup=((1.61, 0.97, 1.88), (1.98, 1.03, 3.23)),
)
_GB200 = _gpu(
    "gb200",
    sms=148,
    peak=(2500, 5000, 10000),
    hbm=(8, 186, 7.3),
    expert=(2034, 1556, 2087),
    launch_us=60,
    pair_ns=10.8,
    dense=(1667, 1480, 2025),
    attention=(1157, 1000, 1511),
    speedup=((1.56, 0.98, 1.73), (1.97, 1.01, 2.91)),
)
_GB300 = _gpu(
    "gb300",
    sms=148,
    peak=(2500, 5000, 15000),
    hbm=(8, 288, 7.2),
    expert=(2126, 1565, 2145),
    launch_us=60,
    pair_ns=10.7,
    dense=(1892, 1803, 2146),
    attention=(1492, 1300, 1864),
    speedup=((1.61, 0.95, 1.74), (1.96, 1.02, 2.3)),
)

_UNNAMED = "the paper does not name its GPU; its link and server counts fit a GB200 or GB300"

# One published forward row fixes one constant, so t0 and c are inside the fitted rate.
_PAPER_GPU = GpuProfile(
    name="paper-gpu",
    sms=assumed(148, "1", _UNNAMED, 132, 160),
    bf16_TFLOPs=assumed(2500, "TFLOP/s", _UNNAMED, 2250, 2500),
    fp8_TFLOPs=assumed(5000, "TFLOP/s", _UNNAMED, 4500, 5000),
    fp4_TFLOPs=assumed(10000, "TFLOP/s", _UNNAMED, 9000, 15000),
    hbm_TBps=assumed(8, "TB/s", _UNNAMED, 8, 8),
    hbm_GB=assumed(186, "GB", _UNNAMED, 180, 288),
    hbm_achieved_TBps=assumed(7.3, "TB/s", "as gb200", 5.0, 7.6),
    expert_forward_TFLOPs=fitted(1310, "TFLOP/s", f"2.47 TFLOP in 1.89 ms, {_IDEAL}"),
    expert_backward_TFLOPs=fitted(1145, "TFLOP/s", f"4.95 TFLOP in 4.32 ms, {_IDEAL}"),
    expert_launch_us=assumed(0, "us", "inside the fitted rate", 0, 60),
    expert_pair_ns=assumed(0, "ns", "inside the fitted rate", 0, 10.8),
    dense_forward_TFLOPs=assumed(1667, "TFLOP/s", "as gb200", 1310, 2025),
    dense_backward_TFLOPs=assumed(1584, "TFLOP/s", "as gb200", 1145, 2025),
    attention_forward_TFLOPs=assumed(1157, "TFLOP/s", "as gb200", 900, 1511),
    attention_backward_TFLOPs=assumed(868, "TFLOP/s", "as gb200", 600, 1360),
    fp8_speedup=assumed(1.56, "1", "as gb200", 0.98, 1.73),
    fp4_speedup=assumed(1.97, "1", "as gb200", 1.01, 2.91),
)

GPUS: dict[str, GpuProfile] = {g.name: g for g in (_H100, _H200, _B200, _GB200, _GB300, _PAPER_GPU)}

# 8 us + 51.5 us for each 36 MiB copy on the busiest sender.
_STREAM_GBPS = 36 * 2**20 / 51.5e-6 / 1e9
_LINK_GBPS = 900.0  # the link those transfers were measured on


def _elsewhere(quantity: Quantity, factor: float, low: float, high: float) -> Quantity:
    """Carry a figure of the paper's rack to another one: an assumption, `low` to `high` of it."""
    v = quantity.value * factor
    source = f"as on the paper's rack, scaled by the link: {quantity.source}"
    return assumed(v, quantity.unit, source, low * v, high * v)


def _transfers(link: Quantity, paper: bool) -> dict[str, Quantity]:
    """Weight streaming, bulk migration and gradient reduction."""
    known = {
        "stream_GBps": published(
            _STREAM_GBPS, "GB/s", f"51.5 us per 36 MiB copy, {_DISTRIBUTION}", 706, 750
        ),
        "migrate_GBps": fitted(170, "GB/s", f"send/recv rows, {_DISTRIBUTION}", 120, 250),
        "grad_reduce_GBps": published(
            175, "GB/s", "1.9-2.4 ms for 4-6 copies of 72 MiB on 42 SMs, UltraEP report", 160, 190
        ),
        "stream_base_us": published(8, "us", _DISTRIBUTION),
        "relay_us": published(15, "us", _DISTRIBUTION),
        "grad_reduce_sms": published(42, "1", "SM budget of that measurement"),
        "migrate_base_us": assumed(50, "us", "launch of grouped sends and receives", 20, 200),
    }
    if paper:
        return known
    share = link.value / _LINK_GBPS
    # Gradient reduction is bound by its SMs, not by the link, so it is not scaled.
    factor = {"stream_GBps": share, "migrate_GBps": share}
    return {name: _elsewhere(q, factor.get(name, 1.0), 0.7, 1.25) for name, q in known.items()}


def _rack(
    name: str,
    gpu: GpuProfile,
    *,
    domain: Quantity,
    link: Quantity,
    alltoall: tuple[Quantity, Quantity],
    floor: Quantity,
    nic: Quantity,
    paper: bool = False,
) -> RackProfile:
    """Complete a rack with its way out and its transfers."""
    nic_GBps = nic.value / 8
    return RackProfile(
        name=name,
        gpu=gpu,
        domain=domain,
        scale_up_GBps=link,
        alltoall_forward_GBps=alltoall[0],
        alltoall_backward_GBps=alltoall[1],
        alltoall_floor_us=floor,
        scale_out_Gbps=nic,
        scale_out_achieved_GBps=assumed(
            0.85 * nic_GBps, "GB/s", "85 % of the NIC rate", 0.5 * nic_GBps, 0.95 * nic_GBps
        ),
        scale_out_floor_us=assumed(25, "us", "RDMA write 3-5 us plus kernel and flags", 10, 60),
        **_transfers(link, paper),
    )


def _nvl8(gpu: GpuProfile, link: float, alltoall: Quantity) -> RackProfile:
    name = gpu.name.upper()
    return _rack(
        f"{gpu.name}-nvl8",
        gpu,
        domain=datasheet(8, "1", f"NVIDIA HGX {name}"),
        link=datasheet(link, "GB/s", f"NVIDIA HGX {name}, one direction"),
        alltoall=(alltoall, alltoall),
        floor=published(10, "us", f"smallest 8-GPU all-to-all of nccl_perf, {_TABLES}", 7, 16),
        nic=datasheet(400, "Gb/s", f"NVIDIA DGX {name}, one NIC a GPU"),
    )


def _nvl72(gpu: GpuProfile, nic: float) -> RackProfile:
    name = gpu.name.upper()
    alltoall = published(720, "GB/s", "all-to-all libraries on NVL72, 670-790 GB/s", 670, 790)
    return _rack(
        f"{gpu.name}-nvl72",
        gpu,
        domain=datasheet(72, "1", f"NVIDIA {name} NVL72"),
        link=datasheet(900, "GB/s", f"NVIDIA {name} NVL72, one direction"),
        alltoall=(alltoall, alltoall),
        floor=assumed(14, "us", "as paper-rack64", 8, 30),
        nic=datasheet(nic, "Gb/s", f"NVIDIA {name} NVL72, one NIC a GPU"),
    )


def _paper_rack() -> RackProfile:
    paper = "arXiv 2606.04101"
    both_ways = f"537 MB each way, {_IDEAL}"
    return _rack(
        "paper-rack64",
        _PAPER_GPU,
        domain=published(64, "1", f"{paper}: 64 GPUs in 16 servers"),
        link=published(900, "GB/s", f"{paper}: 706-715 GB/s of 900 GB/s links"),
        alltoall=(
            fitted(640, "GB/s", f"dispatch and combine in 1.68 ms, {both_ways}"),
            fitted(663, "GB/s", f"dispatch and combine in 1.62 ms, {both_ways}"),
        ),
        # 1/64 of the pairs stay on their rank; the 537 MB count them, which leaves 13-14 us for
        # the floor in the forward and in the backward row alike.
        floor=assumed(14, "us", "what the rates leave when local pairs cost nothing", 8, 30),
        nic=assumed(800, "Gb/s", f"{paper}: scale-up is 8-10 times scale-out", 720, 900),
        paper=True,
    )


RACKS: dict[str, RackProfile] = {
    rack.name: rack
    for rack in (
        _nvl8(_H100, 450, published(380, "GB/s", "all-to-all libraries, 370-390", 370, 390)),
        _nvl8(_H200, 450, published(375, "GB/s", "all-to-all libraries on H200", 360, 390)),
        _nvl8(
            _B200, 900, assumed(640, "GB/s", "between 8-GPU NCCL (560) and NVL72 (720)", 530, 790)
        ),
        _nvl72(_GB200, 400),
        _nvl72(_GB300, 800),
        _paper_rack(),
    )
}


def get_rack(name: str) -> RackProfile:
    """Return a rack preset by name.

    Raises
    ------
    ProfileError
        No such preset; the message lists them.
    """
    try:
        return RACKS[name]
    except (KeyError, TypeError):
        raise ProfileError(
            "unknown rack", value=name, remedy=f"one of {', '.join(RACKS)}"
        ) from None
