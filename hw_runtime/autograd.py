"""Autograd functions of the MoE block: tokens there and back, and experts with replicas.

All three work on all ranks of a process at once: rows of rank after rank, and inside a rank of
its mains, then of its slots (the order of physical experts, `reroute.Instances`).

The gradients of expert weights do not go through autograd. As in Megatron-LM they are accumulated
in a buffer beside the weights (``main_grad``), which lets the reduction of replica gradients run
while the backward pass of attention does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from .grouped import grouped_outer, grouped_rows

if TYPE_CHECKING:
    from .manager import Manager
    from .moe import Experts
    from .placement import Placement


class Dispatch(torch.autograd.Function):
    """Copy every token to the places of its k pairs; backward sums the k gradients in order."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, order: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        """Give row ``i`` the token of pair ``order[i]``.

        Parameters
        ----------
        x : tensor, shape [tokens, hidden]
        order, back : tensor of int64, shape [tokens * k]
            A permutation of the pairs (token-major) and its inverse.
        """
        k = max(1, order.shape[0] // max(1, x.shape[0]))
        ctx.save_for_backward(back)
        ctx.shape = (x.shape[0], k, x.shape[1])
        return x[order // k]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Gather, then add in fp32 over k: no atomics, the same bits on every run."""
        (back,) = ctx.saved_tensors
        rows = grad[back].view(ctx.shape)
        return rows.sum(1, dtype=torch.float32).to(grad.dtype), None, None


class Undispatch(torch.autograd.Function):
    """Bring rows back to the order of pairs; the transpose is a gather too."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, order: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        """Give pair ``p`` the row ``back[p]``."""
        ctx.save_for_backward(order)
        return y[back]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Gather."""
        (order,) = ctx.saved_tensors
        return grad[order], None, None


class ExpertFunction(torch.autograd.Function):
    """Gate, up, SiLU, down for all rows, with weights from mains and from slots."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        experts: Experts,
        counts: torch.Tensor,
        manager: Manager | None,
        placement: Placement | None,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        """Compute all rows.

        Parameters
        ----------
        x : tensor, shape [rows, hidden]
        experts : Experts
        counts : tensor of int32, shape [ranks, physical experts of a rank], on the CPU
            Rows of each physical expert.
        manager, placement : optional
            Where replicas are; `weight_sync` has been called.
        *weights : tensors
            Parameters of ``experts``, so that autograd knows of them.
        """
        slots = manager.acquire(placement) if manager and placement else None
        y = torch.empty_like(x)
        gate_up = x.new_empty(x.shape[0], 2 * experts.ffn)
        for rows, (first, down), sizes in parts(experts, slots, counts):
            gate_up[rows] = grouped_rows(x[rows], first, sizes)
            y[rows] = grouped_rows(silu_mul(gate_up[rows]), down, sizes)
        if manager and placement:
            manager.release(placement)
        ctx.save_for_backward(x, gate_up, *weights)  # refuses weights changed before backward
        ctx.experts, ctx.counts, ctx.manager, ctx.placement = experts, counts, manager, placement
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Restore the slots, compute both gradients, reduce those of replicas to their mains."""
        x, gate_up, *weights = ctx.saved_tensors
        experts, manager, placement = ctx.experts, ctx.manager, ctx.placement
        slots = gradients = None
        if placement is not None:
            manager.weight_sync(placement, weights)
            slots = manager.acquire(placement)
            gradients = manager.gradient_slots(placement)
        grad = grad.contiguous()
        dx = torch.empty_like(x)
        into = _gradient_parts(experts, gradients)
        for (rows, (first, down), sizes), add in zip(
            parts(experts, slots, ctx.counts), into, strict=True
        ):
            part = gate_up[rows]
            dgate_up = _silu_mul_backward(part, grouped_rows(grad[rows], down.mT, sizes))
            dx[rows] = grouped_rows(dgate_up, first.mT, sizes)
            add(
                grouped_outer(x[rows], dgate_up, sizes),
                grouped_outer(silu_mul(part), grad[rows], sizes),
            )
        if placement is not None:
            manager.release(placement)
            manager.grad_reduce(placement, experts.main_grads)
        return dx, None, None, None, None, *(None for _ in weights)


def parts(
    experts: Experts, slots: list[torch.Tensor] | None, counts: torch.Tensor
) -> list[tuple[slice, tuple[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """List (rows, weights, sizes): one grouped product for a rank's mains, one for its slots.

    Shared slots cannot be contiguous with the mains of each layer, hence two; without slots a rank
    has one entry, else two.
    """
    out = []
    begin = 0
    room = int(experts.layout.mains_per_rank.max())
    for rank, held in enumerate(experts.layout.mains_per_rank.tolist()):
        groups = [(experts.weights[rank], counts[rank, :held])]
        if slots is not None:
            flat = slots[rank].view(experts.dtype)
            groups.append((flat, counts[rank, room:]))
        for flat, sizes in groups:
            end = begin + int(sizes.sum())
            out.append((slice(begin, end), experts.split(flat), sizes.to(flat.device)))
            begin = end
    return out


def _gradient_parts(experts: Experts, gradients: list[torch.Tensor] | None) -> list[Any]:
    """Say for every part of `parts` where its weight gradients go."""
    out = []
    for rank, main in enumerate(experts.main_grads):
        out.append(_adder(experts, main, accumulate=True))
        if gradients is not None:
            out.append(_adder(experts, gradients[rank], accumulate=False))
    return out


def _adder(experts: Experts, flat: torch.Tensor, *, accumulate: bool) -> Any:
    first, down = experts.split(flat)

    def add(d_first: torch.Tensor, d_down: torch.Tensor) -> None:
        if accumulate:
            first.add_(d_first)
            down.add_(d_down)
        else:  # zero since the last reduction; idle slots get the zero of an empty group
            first.copy_(d_first)
            down.copy_(d_down)

    return add


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """SiLU of the first half of the columns, times the second."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _silu_mul_backward(gate_up: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Differentiate `silu_mul`, in fp32 at least, rounded once."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    wide = grad.float()
    sigmoid = torch.sigmoid(gate)
    d_gate = wide * up * sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat((d_gate, wide * gate * sigmoid), dim=-1).to(grad.dtype)
