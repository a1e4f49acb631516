"""Rows of transfers between virtual ranks: plain copy, tile streaming, gradient reduction.

Virtual ranks share one GPU, so every byte that is stored has been loaded from the same memory: the
path is "hbm". The ceiling is torch's own copy, measured in the same run: it loads and stores each
byte once, so its traffic is twice its bytes. A stream with fan-out f loads each byte once and
stores it f times; a relay loads it again for every rank that forwards. What is compared is traffic.

The time of a stream contains making its task list on the device, as it does in a layer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ultraep_sim.fabric.tiles import TileList, plan_tiles
from ultraep_sim.planning import EPLayout, Plan

from ..check.cases import fanout_plan
from ..fabrics import Fabric, Geometry, open_fabric
from .rows import CopyRow, ReductionRow, Row, StreamRow
from .setting import MIB, Setting
from .timing import rotation

RANKS = 64
CEILING_BYTES = 256 * MIB
MIN_RELAY = 4


def copy_row(setting: Setting) -> CopyRow:
    """Measure the device's plain copy."""
    count = rotation(2 * CEILING_BYTES, setting.device)
    source = [_bytes(CEILING_BYTES, setting) for _ in range(count)]
    target = [torch.empty_like(one) for one in source]
    time = setting.clock.replay(lambda i: target[i % count].copy_(source[i % count]))
    return CopyRow(time, "hbm", CEILING_BYTES, CEILING_BYTES / time.median_us / 1e3)


def stream_rows(setting: Setting, ceiling: CopyRow) -> Iterator[Row]:
    """Stream one expert to 1 to 63 replicas, directly and through relays."""
    layout = EPLayout(RANKS, RANKS, 1)
    for expert_bytes in setting.sizes.expert_bytes:
        mains = [_bytes(expert_bytes, setting)[None] for _ in range(RANKS)]
        with open_fabric("virtual", Geometry(layout, expert_bytes)) as fabric:
            for fan_out in setting.sizes.fan_outs:
                for relay in (False, True):
                    if not relay or fan_out >= MIN_RELAY:
                        yield from _stream(setting, ceiling, fabric, mains, fan_out, relay)
        del mains


def _stream(
    setting: Setting,
    ceiling: CopyRow,
    fabric: Fabric,
    mains: list[torch.Tensor],
    fan_out: int,
    relay: bool,
) -> Iterator[Row]:
    geometry = fabric.geometry
    turns = min(RANKS, rotation(geometry.copy_bytes * (1 + fan_out), setting.device))
    plans = [fanout_plan(geometry.layout, fan_out, expert=e) for e in range(turns)]
    tiles = plan_tiles(plans[0], geometry.copy_bytes, relay=relay)
    if relay and not tiles.relayed:
        return  # the rule found no gain: it would be the direct row again
    made = [_on_device(plan, setting) for plan in plans]
    time = setting.clock.replay(
        lambda i: fabric.distribute_plan(*made[i % turns], mains, relay=relay)  # type: ignore[attr-defined]  # virtual
    )
    stored, loaded = traffic(tiles)
    yield StreamRow(
        time, "hbm", geometry.copy_bytes, fan_out, "relay" if relay else "direct", stored, loaded,
        stored / time.median_us / 1e3,
        (stored + loaded) / time.median_us / 1e3 / (2 * ceiling.GBps),
    )  # fmt: skip


def _on_device(plan: Plan, setting: Setting) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bring a plan's replicas to the device: expert, rank, and how many."""
    words = (
        plan.expert[plan.is_replica],
        plan.rank[plan.is_replica],
        np.array([plan.num_replicas]),
    )
    expert, rank, count = (
        torch.from_numpy(word.astype(np.int32)).to(setting.device) for word in words
    )
    return expert, rank, count


def traffic(tiles: TileList) -> tuple[int, int]:
    """Bytes that a task list stores, and that it loads."""
    return int(tiles.pair_bytes.sum()), int(tiles.tile_sizes[tiles.entry_tile].sum())


def reduction_rows(setting: Setting, ceiling: CopyRow) -> Iterator[Row]:
    """Reduce the gradient of one expert, by replicas and by multiprocessors."""
    sizes = setting.sizes
    if not sizes.replicas:
        return
    layout = EPLayout(max(sizes.replicas) + 1, max(sizes.replicas) + 1, 1)
    elements = sizes.gradient_bytes // 4
    for dtype, width in (("fp32", 4), ("bf16", 2)):
        turns = rotation(2 * elements * width, setting.device)  # of the fewest bytes, one replica
        geometry = Geometry(layout, 16, elements, dtype, turns)  # type: ignore[arg-type]  # a literal
        weights = [_bytes(16, setting)[None] for _ in range(layout.num_ranks)]
        mains = [
            torch.zeros(1, elements, dtype=torch.float32, device=setting.device)
            for _ in range(layout.num_ranks)
        ]
        with open_fabric("virtual", geometry) as fabric:
            for replicas in sizes.replicas:
                for which in range(turns):  # lists the reduction of another expert in each set
                    plan = fanout_plan(layout, replicas, expert=which % layout.num_ranks)
                    fabric.distribute_plan(*_on_device(plan, setting), weights, which)  # type: ignore[attr-defined]  # virtual
                for sms in sizes.sms:
                    yield _reduce(setting, ceiling, fabric, mains, (dtype, width), replicas, sms)
        del mains


def _reduce(
    setting: Setting,
    ceiling: CopyRow,
    fabric: Fabric,
    mains: list[torch.Tensor],
    kind: tuple[str, int],
    replicas: int,
    sms: int | None,
) -> ReductionRow:
    geometry, (dtype, width) = fabric.geometry, kind
    size = geometry.gradient_elements * width
    turns = geometry.sets
    time = setting.clock.replay(
        lambda i: fabric.reduce_plan(mains, i % turns, sms=sms)  # type: ignore[attr-defined]  # virtual
    )
    # The main is read and written once, a replica read once and zeroed once.
    moved = 2 * (geometry.gradient_elements * 4 + replicas * size)
    return ReductionRow(
        time, "hbm", size, dtype, replicas, sms, moved,
        replicas * size / time.median_us / 1e3,
        moved / time.median_us / 1e3 / (2 * ceiling.GBps),
    )  # fmt: skip


def _bytes(count: int, setting: Setting) -> torch.Tensor:
    values = np.arange(251, dtype=np.uint8)
    return torch.from_numpy(np.resize(values, count)).to(setting.device)
