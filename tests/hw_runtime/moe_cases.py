"""Small stacks of MoE blocks with replayed routing in pipeline order, and a dense reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from hw_runtime.fabrics import open_fabric
from hw_runtime.manager import Balance, Manager
from hw_runtime.moe import MoEBlock
from ultraep_sim.planning import EPLayout

HIDDEN, FFN, TOP_K = 24, 16, 3
# Forward and backward of two micro-batches: as the last and as the first stage of 1F1B does it.
LAST_STAGE = (("F", 0), ("B", 0), ("F", 1), ("B", 1))
FIRST_STAGE = (("F", 0), ("F", 1), ("B", 0), ("B", 1))


@dataclass
class Case:
    """A stack with inputs, targets and routing for every micro-batch."""

    layout: EPLayout
    blocks: list[MoEBlock]
    x: list[list[torch.Tensor]]  # [micro-batch][rank]
    target: list[torch.Tensor]
    ids: list[list[list[torch.Tensor]]]  # [micro-batch][layer][rank]


def make_case(
    seed: int,
    dtype: torch.dtype,
    *,
    layout: EPLayout | None = None,
    layers: int = 3,
    tokens: int = 40,
    skew: float = 0.15,
    micro_batches: int = 2,
) -> Case:
    """Draw weights, tokens (one rank has none) and skewed routing with experts that stay empty."""
    layout = layout or EPLayout(4, 10, 2)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    torch.manual_seed(seed)
    blocks = [MoEBlock(layout, HIDDEN, FFN, TOP_K, dtype=dtype) for _ in range(layers)]
    x, target, ids = [], [], []
    for _ in range(micro_batches):
        sizes = rng.integers(1, tokens, layout.num_ranks)
        sizes[rng.integers(layout.num_ranks)] = 0
        x.append([torch.randn(int(n), HIDDEN).to(dtype) for n in sizes])
        target.append(torch.randn(int(sizes.sum()), HIDDEN))
        ids.append([_routing(rng, sizes, layout, skew) for _ in range(layers)])
    return Case(layout, blocks, x, target, ids)


def _routing(
    rng: np.random.Generator, sizes: np.ndarray, layout: EPLayout, skew: float
) -> list[torch.Tensor]:
    share = rng.dirichlet(np.full(layout.num_experts, skew)) + 1e-12
    share[rng.integers(layout.num_experts)] = 0  # one expert is surely empty
    share /= share.sum()
    return [
        torch.tensor(
            np.array(
                [rng.choice(layout.num_experts, TOP_K, replace=False, p=share) for _ in range(n)]
            ).reshape(n, TOP_K),
            dtype=torch.int64,
        )
        for n in sizes
    ]


def open_manager(case: Case, *, sets: int = 1, gradient_dtype: str = "fp32", **balance: Any) -> Any:
    """Open the host fabric for a case's experts, with a manager on it."""
    geometry = case.blocks[0].experts.geometry(sets=sets, gradient_dtype=gradient_dtype)
    return Manager(open_fabric("host", geometry, seed=1), Balance(**balance))


def run(case: Case, manager: Manager | None, schedule: Any = FIRST_STAGE) -> dict[str, Any]:
    """Run a schedule; return losses, gradients, and the replicas that were opened."""
    losses: dict[int, torch.Tensor] = {}
    inputs: dict[int, list[torch.Tensor]] = {}
    replicas = 0
    for block in case.blocks:
        block.balance_with(manager)
        block.router.weight.grad = None
        for total in block.experts.main_grads:
            total.zero_()
    for step, m in schedule:
        if step == "F":
            inputs[m] = [one.clone().requires_grad_() for one in case.x[m]]
            hidden = inputs[m]
            for block, ids in zip(case.blocks, case.ids[m], strict=True):
                out = block(hidden, micro_batch=m, ids=ids)
                hidden = [a + b for a, b in zip(hidden, out, strict=True)]
                replicas += block.placement.plan.num_replicas if block.placement else 0
            losses[m] = _loss(torch.cat(hidden).float(), case.target[m])
        else:
            losses[m].backward()
    if manager:
        manager.finish()
    return {
        "loss": torch.stack([losses[m].detach() for m in sorted(losses)]),
        "x": torch.cat([one.grad for m in sorted(inputs) for one in inputs[m]]),
        "router": torch.stack([block.router.weight.grad for block in case.blocks]),
        "experts": torch.stack([torch.cat(block.experts.main_grads) for block in case.blocks]),
        "replicas": replicas,
    }


def _loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Project on the target; over the sum of magnitudes, so that it does not cancel to zero."""
    terms = out * target
    return terms.sum() / terms.detach().abs().sum()


def dense(case: Case) -> dict[str, torch.Tensor]:
    """Compute the same in float64 with plain autograd, token by token and expert by expert."""
    weights = [
        torch.cat([w.detach().double() for w in block.experts.weights]).requires_grad_()
        for block in case.blocks
    ]
    routers = [block.router.weight.detach().double().requires_grad_() for block in case.blocks]
    losses, inputs = [], []
    for m in range(len(case.x)):
        x = torch.cat(case.x[m]).double().requires_grad_()
        inputs.append(x)
        hidden = x
        for at in range(len(case.blocks)):
            ids = torch.cat(case.ids[m][at])
            hidden = hidden + _dense_layer(hidden, routers[at], weights[at], ids)
        losses.append(_loss(hidden, case.target[m]))
    torch.stack(losses).sum().backward()
    return {
        "loss": torch.stack(losses).detach(),
        "x": torch.cat([x.grad for x in inputs]),
        "router": torch.stack([r.grad for r in routers]),
        "experts": torch.stack([w.grad for w in weights]),
    }


def _dense_layer(
    x: torch.Tensor, router: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    chosen = torch.softmax(x @ router.t(), dim=-1).gather(1, ids)
    chosen = chosen / chosen.sum(-1, keepdim=True)
    cut = 2 * HIDDEN * FFN
    out = torch.zeros_like(x)
    for e in range(len(weights)):
        token, j = torch.nonzero(ids == e, as_tuple=True)
        gate, up = (x[token] @ weights[e, :cut].view(HIDDEN, 2 * FFN)).chunk(2, dim=-1)
        y = (F.silu(gate) * up) @ weights[e, cut:].view(FFN, HIDDEN)
        out = out.index_add(0, token, chosen[token, j].unsqueeze(1) * y)
    return out


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, over the largest magnitude."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max())
