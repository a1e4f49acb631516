"""Block and bench on the virtual fabric, its kernels compiled for the CPU: no GPU has run them."""

from functools import partial

import torch
from host_kernels import needs_compiler
from moe_cases import distance, make_case, run
from test_fabric_device import HostKernels, virtual

from hw_runtime.bench import transfers
from hw_runtime.bench.rows import CopyRow, Timing
from hw_runtime.bench.setting import TINY, Setting
from hw_runtime.bench.timing import Clock
from hw_runtime.fabrics import Geometry, open_fabric
from hw_runtime.manager import Manager
from ultraep_sim.fabric.tiles import plan_tiles


@needs_compiler
def test_the_block_is_the_same_bits_on_host_and_virtual():
    case = make_case(1, torch.float32, layers=1, tokens=12)
    experts = case.blocks[0].experts
    host = run(case, Manager(open_fabric("host", experts.geometry())))
    geometry = Geometry(
        case.layout, experts.elements * 4, experts.elements, tile_bytes=1024, chunk_tiles=2
    )
    other = run(case, Manager(virtual(geometry)))
    assert host["replicas"] > 0
    for name in ("loss", "x", "router", "experts"):
        assert torch.equal(host[name], other[name]), (name, distance(other[name], host[name]))


@needs_compiler
def test_transfers_are_timed_with_lists_made_by_kernels(monkeypatch):
    small = {"tile_bytes": 512, "chunk_tiles": 2}  # the shim has little shared memory
    monkeypatch.setattr(transfers, "RANKS", 12)
    monkeypatch.setattr(transfers, "Geometry", partial(Geometry, **small))
    monkeypatch.setattr(transfers, "plan_tiles", partial(plan_tiles, **small))
    monkeypatch.setattr(
        transfers, "open_fabric", lambda name, g: open_fabric(name, g, load=HostKernels)
    )
    sizes = TINY.__class__(
        **{**vars(TINY), "expert_bytes": (5000,), "fan_outs": (1, 9), "gradient_bytes": 400}
    )
    device = torch.device("cpu")
    setting = Setting("virtual", device, Clock(device, 1, 0), sizes, 0)
    ceiling = CopyRow(Timing(1, 1, 1, 1, "host_clock"), "hbm", 1000, 1.0)
    streams = list(transfers.stream_rows(setting, ceiling))
    assert [(row.fan_out, row.transport) for row in streams] == [
        (1, "direct"), (9, "direct"), (9, "relay"),
    ]  # fmt: skip
    assert [row.stored_bytes for row in streams] == [5000, 45000, 45000]
    assert [row.loaded_bytes for row in streams] == [5000, 5000, 20000]
    reductions = list(transfers.reduction_rows(setting, ceiling))
    assert [(row.dtype, row.replicas) for row in reductions] == [
        ("fp32", 1), ("fp32", 2), ("bf16", 1), ("bf16", 2),
    ]  # fmt: skip
    assert reductions[0].moved_bytes == 2 * (400 + 400)
