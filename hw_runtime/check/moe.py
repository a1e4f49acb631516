"""Loss and gradients of the MoE block with balancing equal those without, within rounding.

Balancing computes the same products on other ranks; only the order in which a weight gradient is
summed changes. fp32: 16 units in the last place of the largest element, for sums of some hundred
terms. bf16: a weight gradient is rounded once for each instance before it is added in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from ultraep_sim.planning import EPLayout

from . import cases
from .suite import Case, Context, Mismatch

HIDDEN, FFN, TOP_K, TOKENS = 24, 16, 3, 48
TOLERANCE = {"float32": 16 * 2.0**-23, "bfloat16": 2.0**-7}


def suite(context: Context) -> Iterator[Case]:
    """Yield a case for each dtype that grouped products take; all ranks are in one process."""
    if context.fabric in ("ipc", "symm"):
        return
    from ..grouped import CPU_DTYPES, CUDA_DTYPES

    allowed = {str(one) for one in (CPU_DTYPES if context.fabric == "host" else CUDA_DTYPES)}
    for dtype in (one for one in TOLERANCE if f"torch.{one}" in allowed):
        for policy in ("ultraep", "mosaic"):
            yield f"{dtype}, {policy}", partial(_compare, context, dtype, policy)


def _compare(context: Context, dtype: str, policy: str) -> tuple[int, str]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny products: threads that wait for each other take all the time
    try:
        return _compare_runs(context, dtype, policy)
    finally:
        torch.set_num_threads(threads)


def _compare_runs(context: Context, dtype: str, policy: str) -> tuple[int, str]:
    import torch

    from ..manager import Balance, Manager
    from ..moe import MoEBlock

    layout = EPLayout(6, 12, 2)
    device = "cpu" if context.fabric == "host" else context.device
    torch.manual_seed(context.seed)
    block = MoEBlock(layout, HIDDEN, FFN, TOP_K, dtype=getattr(torch, dtype), device=device)
    rng = cases.stream(context.seed, 10)
    x = [torch.randn(TOKENS, HIDDEN).to(device, getattr(torch, dtype)) for _ in range(6)]
    ids = [torch.from_numpy(skewed_ids(rng, layout.num_experts)).to(device) for _ in range(6)]
    target = torch.randn(6 * TOKENS, HIDDEN).to(device)
    want = _run(block, None, x, ids, target)
    with context.open(block.experts.geometry(), 0) as fabric:
        manager = Manager(fabric, Balance(policy=policy))  # type: ignore[arg-type]  # one of two
        got = _run(block, manager, x, ids, target)
        fabric.synchronize()
    if block.placement is None or block.placement.plan.num_replicas == 0:
        raise Mismatch("nothing was balanced")
    for name, value in want.items():
        apart = float((got[name] - value).abs().max() / value.abs().max())
        if not apart <= TOLERANCE[dtype]:
            raise Mismatch(f"{name} differs by {apart:.3g} of its largest element")
    checked = sum(value.numel() for value in want.values())
    return checked, f"numbers within {TOLERANCE[dtype]:.2g} of those without balancing"


def skewed_ids(rng: np.random.Generator, experts: int) -> Any:
    """Draw the top-k experts of every token, int64 [tokens, k], some experts much liked."""
    share = np.random.default_rng(7).dirichlet(np.full(experts, 0.3)) + 1e-9
    share /= share.sum()
    rows = [rng.choice(experts, TOP_K, replace=False, p=share) for _ in range(TOKENS)]
    return np.asarray(rows, np.int64)


def _run(block: Any, manager: Any, x: list[Any], ids: list[Any], target: Any) -> dict[str, Any]:
    """Run forward and backward; return loss and gradients in float64."""
    import torch

    block.balance_with(manager)
    block.router.weight.grad = None
    for total in block.experts.main_grads:
        total.zero_()
    inputs = [one.clone().requires_grad_() for one in x]
    terms = torch.cat(block(inputs, ids=ids)).float() * target
    loss = terms.sum() / terms.detach().abs().sum()
    loss.backward()
    if manager is not None:
        manager.finish()
    found = {
        "loss": loss.detach().reshape(1),
        "gradient of the input": torch.cat([one.grad for one in inputs]),
        "gradient of the router": block.router.weight.grad,
        "gradient of the experts": torch.cat(block.experts.main_grads),
    }
    return {name: value.detach().double().clone() for name, value in found.items()}
