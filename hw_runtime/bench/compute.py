"""Rows of computation: grouped products by tokens per expert, and the block's ranks one by one."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ultraep_sim.planning import EPLayout

from ..autograd import parts, silu_mul
from ..fabrics import open_fabric
from ..grouped import grouped_rows
from ..manager import POLICIES, Balance, Manager
from ..moe import Experts, MoEBlock
from . import fp8
from .routing import SLOTS, draw_ids, shares
from .rows import BlockRow, GemmRow, Row, Timing
from .setting import Setting
from .timing import rotation

DTYPES = {"cuda": ("bf16", torch.bfloat16), "cpu": ("fp32", torch.float32)}
"""A CPU without bf16 units takes hundreds of times as long for it, which says nothing."""
MAX_BUFFERS = 4


def gemm_rows(setting: Setting) -> Iterator[Row]:
    """Gate, up, SiLU and down of one rank, every expert with the same load, and Zipf loads.

    On a GPU that has them, fp8 products too; where not, stderr says why.
    """
    missing = fp8.why_not(setting.device)
    if missing:
        print(f"gemm: no fp8 rows: {missing}", file=sys.stderr)
    for hidden, ffn in setting.sizes.shapes:
        for experts in setting.sizes.experts_per_rank:
            for tokens in setting.sizes.tokens_per_expert:
                for distribution in ("balanced", "skewed"):
                    yield _gemm(setting, (hidden, ffn), experts, tokens, distribution)
                    if not missing:
                        yield _gemm(
                            setting, (hidden, ffn), experts, tokens, distribution, in_fp8=True
                        )


def _gemm(
    setting: Setting, shape: tuple[int, int], experts: int, tokens: int, distribution: str,
    *, in_fp8: bool = False,
) -> GemmRow:  # fmt: skip
    (hidden, ffn), (name, dtype) = shape, DTYPES[setting.device.type]
    total = experts * tokens
    sizes = np.full(experts, tokens)
    if distribution == "skewed":
        sizes = setting.stream(4, experts).multinomial(
            total, shares(setting.stream(5, experts), experts)
        )
    width = 1 if in_fp8 else dtype.itemsize
    count = min(MAX_BUFFERS, rotation(experts * 3 * width * hidden * ffn, setting.device))
    layout = EPLayout(1, experts, 0)
    held = [Experts(layout, hidden, ffn, dtype=dtype, device=setting.device) for _ in range(count)]
    pairs = [one.split(one.weights[0].detach()) for one in held]
    x = torch.randn(total, hidden, device=setting.device).to(dtype)
    groups = torch.from_numpy(sizes.astype(np.int32)).to(setting.device)
    if in_fp8:
        rows = fp8.quantize(x)
        small = [(fp8.quantize(first.mT), fp8.quantize(down.mT)) for first, down in pairs]
        time = setting.clock.replay(lambda i: fp8.experts(rows, *small[i % count], groups))
    else:
        time = setting.clock.replay(lambda i: _experts(x, *pairs[i % count], groups))
    flops = 6 * hidden * ffn * total
    return GemmRow(
        time,
        [int(n) for n in sizes],
        "fp8" if in_fp8 else name,
        experts,
        hidden,
        ffn,
        float(tokens),
        distribution,
        flops / time.median_us / 1e6,
    )


def block_rows(setting: Setting) -> Iterator[Row]:
    """One block's experts on every virtual rank, without balancing and with each policy."""
    sizes = setting.sizes
    layout = EPLayout(sizes.block_ranks, sizes.block_experts, SLOTS)
    hidden, ffn = sizes.shapes[0]
    _, dtype = DTYPES[setting.device.type]
    rng = setting.stream(6)
    share = shares(rng, layout.num_experts)
    ids = [
        torch.from_numpy(draw_ids(rng, share, sizes.block_tokens, sizes.top_k)).to(setting.device)
        for _ in range(layout.num_ranks)
    ]
    block = MoEBlock(layout, hidden, ffn, sizes.top_k, dtype=dtype, device=setting.device)
    yield _block(setting, block, ids, None, "none")
    for policy in POLICIES:
        with open_fabric(setting.fabric, block.experts.geometry()) as fabric:
            manager = Manager(fabric, Balance(policy))  # type: ignore[arg-type]  # one of POLICIES
            yield _block(setting, block, ids, manager, policy)


def _block(
    setting: Setting,
    block: MoEBlock,
    ids: list[torch.Tensor],
    manager: Manager | None,
    policy: str,
) -> BlockRow:
    sizes, layout = setting.sizes, block.layout
    block.balance_with(manager)
    with torch.no_grad():
        _, counts = block.route(ids, 0)
        slots = manager.acquire(block.placement) if manager and block.placement else None
        times = _rank_times(setting, block.experts, slots, counts)
        if manager and block.placement:
            manager.release(block.placement)
    pairs = counts.sum(1).numpy()
    busiest = max(times, key=lambda time: time.median_us)
    return BlockRow(
        busiest, manager is not None, policy,
        [time.median_us for time in times], counts.tolist(),
        layout.num_ranks, layout.num_experts,
        layout.slots_per_rank if manager else 0, block.experts.hidden, block.experts.ffn,
        sizes.block_tokens, sizes.top_k, DTYPES[setting.device.type][0], _imbalance(pairs),
    )  # fmt: skip


def _rank_times(
    setting: Setting, experts: Experts, slots: list[torch.Tensor] | None, counts: torch.Tensor
) -> list[Timing]:
    """Time every rank alone, as it would run on a GPU of its own."""
    listed = parts(experts, slots, counts)
    per_rank = len(listed) // experts.layout.num_ranks
    x = torch.randn(int(counts.sum()), experts.hidden, device=setting.device).to(experts.dtype)
    out = []
    for rank in range(experts.layout.num_ranks):
        mine = listed[rank * per_rank : (rank + 1) * per_rank]

        def work(
            _: int, mine: list[tuple[slice, tuple[torch.Tensor, torch.Tensor], torch.Tensor]] = mine
        ) -> None:
            for rows, (first, down), groups in mine:
                _experts(x[rows], first, down, groups)

        out.append(setting.clock.replay(work))
    return out


def _experts(
    x: torch.Tensor, first: torch.Tensor, down: torch.Tensor, groups: torch.Tensor
) -> torch.Tensor:
    with torch.no_grad():
        return grouped_rows(silu_mul(grouped_rows(x, first, groups)), down, groups)


def _imbalance(pairs: NDArray[np.integer]) -> float:
    return float(pairs.max() * len(pairs) / pairs.sum())
