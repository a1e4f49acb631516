"""A small byte-level mixture-of-experts transformer whose routing we record.

It is made to have a *router that behaves*, not to model language well: eight MoE layers,
128 experts, top-8, width 64 train at a few seconds a step on one CPU core. Routers follow
the two published families:

``"aux"``
    Softmax scores, the top-k of them, renormalised; GShard/Switch auxiliary loss
    (Lepikhin et al. 2020, Fedus et al. 2021): ``E * sum_i f_i P_i`` over the micro-batch.
``"bias"``
    DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): sigmoid scores, a bias per expert that
    takes part in the selection only and moves by the sign of the load error after every
    step, and a small balance loss inside each sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

VOCABULARY = 256  # bytes


@dataclass(frozen=True)
class TinyMoEConfig:
    """Shape and balancing rule of the model.

    Parameters
    ----------
    layers, experts, top_k, width, heads, expert_width, sequence : int
        Every layer is an MoE layer. ``sequence`` is the longest sequence in bytes.
    balance : {"aux", "bias"}
        Which router family, see the module.
    balance_coefficient : float
        Weight of the balance loss (over the batch for "aux", in each sequence for "bias").
    bias_step : float
        Step of the selection bias ("bias" only).
    """

    layers: int = 8
    experts: int = 128
    top_k: int = 8
    width: int = 64
    heads: int = 4
    expert_width: int = 32
    sequence: int = 128
    balance: str = "aux"
    balance_coefficient: float = 1e-2
    bias_step: float = 1e-3


class _GroupedLinear(torch.autograd.Function):
    """``y[rows of e] = x[rows of e] @ w[e]`` for rows sorted by expert.

    One fused node instead of one slice per expert in the autograd graph: the backward of
    a slice of ``w`` would fill a whole zero tensor for each of the experts.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w: torch.Tensor, bounds: list[tuple[int, int]]
    ) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        ctx.bounds = bounds
        y = x.new_empty(x.shape[0], w.shape[2])
        for e, (a, b) in enumerate(bounds):
            if b > a:
                torch.mm(x[a:b], w[e], out=y[a:b])
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, w = ctx.saved_tensors
        dx, dw = torch.empty_like(x), torch.zeros_like(w)
        for e, (a, b) in enumerate(ctx.bounds):
            if b > a:
                torch.mm(dy[a:b], w[e].t(), out=dx[a:b])
                torch.mm(x[a:b].t(), dy[a:b], out=dw[e])
        return dx, dw, None


def _grouped(x: torch.Tensor, w: torch.Tensor, bounds: list[tuple[int, int]]) -> torch.Tensor:
    # torch declares Function.apply without types.
    return cast(torch.Tensor, _GroupedLinear.apply(x, w, bounds))  # type: ignore[no-untyped-call]


class TopKRouter(nn.Module):
    """Choose ``top_k`` experts for every token.

    ``forward(x[T, width])`` returns ``(weights[T, k] float32, experts[T, k] int64,
    scores[T, E] float32)``: the ids are those the layer computes with.
    """

    selection_bias: torch.Tensor

    def __init__(self, config: TinyMoEConfig) -> None:
        super().__init__()
        self.config = config
        self.top_k = config.top_k
        self.num_experts = config.experts
        self.weight = nn.Parameter(torch.empty(config.experts, config.width))
        self.register_buffer("selection_bias", torch.zeros(config.experts))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score, select, renormalise."""
        logits = F.linear(x.float(), self.weight)
        if self.config.balance == "bias":
            scores = torch.sigmoid(logits)
            experts = (scores.detach() + self.selection_bias).topk(self.top_k, dim=-1).indices
        else:
            scores = torch.softmax(logits, dim=-1)
            experts = scores.detach().topk(self.top_k, dim=-1).indices
        weights = scores.gather(1, experts)
        return weights / weights.sum(-1, keepdim=True), experts, scores


class MoELayer(nn.Module):
    """Route, sort the pairs by expert, compute, and sum back."""

    def __init__(self, config: TinyMoEConfig) -> None:
        super().__init__()
        self.config = config
        self.router = TopKRouter(config)
        shape = (config.experts, config.width, config.expert_width)
        self.w_in = nn.Parameter(torch.empty(shape[0], shape[1], 2 * shape[2]))
        self.w_out = nn.Parameter(torch.empty(shape[0], shape[2], shape[1]))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the layer's output [B, S, width] and its balance loss (a scalar)."""
        batch, length, width = x.shape
        flat = x.reshape(-1, width)
        weights, experts, scores = self.router(flat)
        k, E = self.config.top_k, self.config.experts
        order = experts.reshape(-1).argsort(stable=True)
        ends = torch.bincount(experts.reshape(-1), minlength=E).cumsum(0).tolist()
        bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        gate, up = _grouped(flat[order // k], self.w_in, bounds).chunk(2, dim=-1)
        y = _grouped(F.silu(gate) * up, self.w_out, bounds)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel())
        out = torch.bmm(weights.unsqueeze(1), y[back].view(-1, k, width)).squeeze(1)
        return out.view(batch, length, width), self._balance_loss(experts, scores, batch)

    def _balance_loss(
        self, experts: torch.Tensor, scores: torch.Tensor, batch: int
    ) -> torch.Tensor:
        E = self.config.experts
        groups = batch if self.config.balance == "bias" else 1
        owner = torch.arange(groups).repeat_interleave(experts.numel() // groups)
        counts = torch.bincount(owner * E + experts.reshape(-1), minlength=groups * E)
        share = counts.view(groups, E).float() / (experts.numel() // groups)
        if self.config.balance == "bias":
            scores = scores / scores.sum(-1, keepdim=True)
        mean = scores.view(groups, -1, E).mean(1)
        return E * (share * mean).sum(-1).mean()


class Block(nn.Module):
    """Causal attention, then the MoE layer, both pre-normed."""

    def __init__(self, config: TinyMoEConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_attention = nn.RMSNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.norm_moe = nn.RMSNorm(config.width)
        self.moe = MoELayer(config)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden states [B, S, width] and the MoE layer's balance loss."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        y, loss = self.moe(self.norm_moe(x))
        return x + y, loss


class TinyMoE(nn.Module):
    """Byte-level language model; see the module for what it is for."""

    def __init__(self, config: TinyMoEConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(VOCABULARY, config.width)
        self.position = nn.Embedding(config.sequence, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width)
        self.head = nn.Linear(config.width, VOCABULARY, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "norm" in name:
                    continue
                std = 0.02
                if name.endswith((".out.weight", ".w_out")):
                    std /= (2 * config.layers) ** 0.5  # keep the residual stream's variance
                elif name.startswith(("embed", "position")):
                    std = 0.5  # comparable with what a trained embedding grows to
                elif name.endswith((".w_in", ".qkv.weight")):
                    std = config.width**-0.5
                parameter.normal_(0.0, std, generator=generator)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, S, 256] and the mean balance loss of the layers, for bytes [B, S]."""
        x = self.embed(tokens) + self.position.weight[: tokens.shape[1]]
        balance = x.new_zeros(())
        for block in self.blocks:
            x, loss = block(x)
            balance = balance + loss
        return self.head(self.norm(x)), balance / len(self.blocks)

    def routers(self) -> list[TopKRouter]:
        """Return the routers in layer order."""
        return [cast(Block, block).moe.router for block in self.blocks]

    @torch.no_grad()
    def update_selection_bias(self, counts: torch.Tensor) -> None:
        """Move each bias by ``bias_step`` towards balance; ``counts`` is int [layers, E]."""
        if self.config.balance != "bias":
            return
        for router, load in zip(self.routers(), counts.float(), strict=True):
            router.selection_bias += self.config.bias_step * torch.sign(load.mean() - load)
