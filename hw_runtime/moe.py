"""An example MoE block: router, dispatch, grouped GEMM, combine, with balancing on or off.

All ranks of the EP group live in this process, as on the ``host`` and ``virtual`` fabrics: a rank
is a slice of one buffer, and dispatch and combine are permutations. What moves weights, routes
tokens and reduces gradients is the `Manager`, which is the same with one process a rank; a block
for that puts an all-to-all where this one permutes.

Balancing changes neither the router nor the loss: the same tokens meet the same weights, only on
other ranks, so results differ by the rounding of other sum orders and by nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from ultraep_sim.errors import InputError
from ultraep_sim.planning import EPLayout

from .autograd import Dispatch, ExpertFunction, Undispatch
from .fabrics import Geometry
from .grouped import check_expert
from .manager import Manager
from .placement import Placement


class Router(nn.Module):
    """Top-k softmax router, in fp32; every rank has the same one.

    Parameters
    ----------
    hidden, num_experts, top_k : int
    """

    def __init__(self, hidden: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise InputError(
                "out of range", place="top_k", value=top_k, remedy=f"give 1 to {num_experts}"
            )
        self.top_k = top_k
        self.weight = nn.Parameter(torch.empty(num_experts, hidden))
        nn.init.normal_(self.weight, std=hidden**-0.5)

    def forward(
        self, x: torch.Tensor, ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose experts.

        Parameters
        ----------
        x : tensor, shape [tokens, hidden]
        ids : tensor of int64, shape [tokens, k], optional
            Replay this choice; probabilities are still the router's.

        Returns
        -------
        probabilities : tensor of float32, shape [tokens, k]
            Renormalised over the k.
        ids : tensor of int64, shape [tokens, k]
        """
        scores = torch.softmax(F.linear(x.float(), self.weight), dim=-1)
        if ids is None:
            ids = scores.detach().topk(self.top_k, dim=-1).indices
        chosen = scores.gather(1, ids)
        return chosen / chosen.sum(-1, keepdim=True), ids


class Experts(nn.Module):
    """Main weights of all ranks, one row an expert: gate and up side by side, then down.

    Parameters
    ----------
    layout : EPLayout
    hidden, ffn : int
        Rows must be whole multiples of 16 bytes, see `grouped`.
    dtype : torch.dtype
    device : torch.device or str

    Attributes
    ----------
    weights : ParameterList, one [mains, 3 * hidden * ffn] a rank
        Experts of a rank in ascending order.
    main_grads : list of float32 tensors like ``weights``
        Where backward accumulates; see `hand_out_gradients`.
    """

    def __init__(
        self,
        layout: EPLayout,
        hidden: int,
        ffn: int,
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        device = torch.device(device)
        check_expert(hidden, ffn, dtype, device)
        self.layout, self.hidden, self.ffn, self.dtype = layout, hidden, ffn, dtype
        self.weights = nn.ParameterList()
        self.main_grads: list[torch.Tensor] = []
        for mains in layout.mains_per_rank.tolist():
            flat = torch.empty(mains, self.elements, dtype=dtype, device=device)
            first, down = self.split(flat)
            nn.init.normal_(first, std=hidden**-0.5)
            nn.init.normal_(down, std=ffn**-0.5)
            self.weights.append(nn.Parameter(flat))
            self.main_grads.append(torch.zeros_like(flat, dtype=torch.float32))

    @property
    def elements(self) -> int:
        """Parameters of one expert."""
        return 3 * self.hidden * self.ffn

    def geometry(self, *, sets: int = 1, gradient_dtype: str = "fp32") -> Geometry:
        """Say what slots for these experts need: hand it to `open_fabric`."""
        return Geometry(
            self.layout,
            self.elements * self.dtype.itemsize,
            self.elements,
            gradient_dtype,  # type: ignore[arg-type]  # Geometry refuses others
            sets,
        )

    def split(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """View rows of experts as matrices [n, hidden, 2 * ffn] and [n, ffn, hidden]."""
        cut = 2 * self.hidden * self.ffn
        return (
            flat[:, :cut].view(-1, self.hidden, 2 * self.ffn),
            flat[:, cut:].view(-1, self.ffn, self.hidden),
        )

    @torch.no_grad()
    def hand_out_gradients(self) -> None:
        """Add what was accumulated to ``weights[...].grad`` and start from zero again.

        Call `Manager.finish` before.
        """
        for weight, total in zip(self.weights, self.main_grads, strict=True):
            grad = total.to(weight.dtype)
            weight.grad = grad if weight.grad is None else weight.grad.add_(grad)
            total.zero_()


class MoEBlock(nn.Module):
    """One MoE layer of a group whose ranks all live in this process.

    Parameters
    ----------
    layout : EPLayout
    hidden, ffn, top_k : int
    dtype : torch.dtype
    manager : Manager, optional
        Balance with it; shared by all layers. None leaves every expert at home.
    device : torch.device or str

    Attributes
    ----------
    placement : Placement or None
        That of the last forward pass.
    """

    def __init__(
        self,
        layout: EPLayout,
        hidden: int,
        ffn: int,
        top_k: int,
        *,
        dtype: torch.dtype = torch.bfloat16,
        manager: Manager | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.layout = layout
        self.router = Router(hidden, layout.num_experts, top_k).to(device)
        self.experts = Experts(layout, hidden, ffn, dtype=dtype, device=device)
        self.placement: Placement | None = None
        self.manager: Manager | None = None
        self.balance_with(manager)

    def balance_with(self, manager: Manager | None) -> None:
        """Switch balancing on with a manager, or off with None.

        Raises
        ------
        InputError
            A manager of another group or of slots for other experts.
        """
        if manager is not None:
            geometry, experts = manager.fabric.geometry, self.experts
            if geometry.layout != self.layout or len(manager.ranks) != self.layout.num_ranks:
                raise InputError(
                    "the block runs all ranks of its layout in this process", place="manager",
                    value=f"{len(manager.ranks)} of {geometry.layout.num_ranks} ranks",
                    remedy="use the host or virtual fabric, opened for the block's layout",
                )  # fmt: skip
            if geometry.copy_bytes != experts.elements * experts.dtype.itemsize:
                raise InputError(
                    "the slots are for other experts", place="geometry.copy_bytes",
                    value=geometry.copy_bytes, remedy="open the fabric with Experts.geometry()",
                )  # fmt: skip
        self.manager = manager

    def forward(
        self,
        x: Sequence[torch.Tensor],
        *,
        micro_batch: int = 0,
        ids: Sequence[torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """Run the block.

        Parameters
        ----------
        x : sequence of tensors, each [tokens of the rank, hidden], one a rank
            A rank may have none.
        micro_batch : int
            Chooses the set of slots.
        ids : sequence of int64 tensors, each [tokens, k], optional
            Replay these choices.

        Returns
        -------
        list of tensors like ``x``

        Raises
        ------
        InputError
            Wrong number of ranks, dtype or shape; no token at all.
        """
        self._check(x)
        tokens = [len(one) for one in x]
        flat = torch.cat(list(x))
        replay = None if ids is None else torch.cat(list(ids))
        probabilities, chosen = self.router(flat, replay)
        per_rank = [one.contiguous() for one in chosen.split(tokens)]
        physical, counts = self.route(per_rank, micro_batch)
        order = torch.argsort(physical.reshape(-1), stable=True)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel(), device=order.device)
        # torch declares Function.apply without types.
        sent = cast(torch.Tensor, Dispatch.apply(flat, order, back))  # type: ignore[no-untyped-call]
        done = cast(
            torch.Tensor,
            ExpertFunction.apply(  # type: ignore[no-untyped-call]
                sent, self.experts, counts, self.manager, self.placement, *self.experts.weights
            ),
        )
        rows = cast(torch.Tensor, Undispatch.apply(done, order, back))  # type: ignore[no-untyped-call]
        rows = rows.view(*chosen.shape, flat.shape[1]).float()
        out = (probabilities.unsqueeze(-1) * rows).sum(1).to(flat.dtype)
        return list(out.split(tokens))

    def route(self, ids: list[torch.Tensor], micro_batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Route the tokens of all ranks, and start the weights they need.

        Parameters
        ----------
        ids : list of int tensors, each [tokens, k], one a rank
        micro_batch : int

        Returns
        -------
        physical : int tensor, shape [tokens of all ranks, k]
        counts : int32 tensor, shape [ranks, physical experts of a rank], on the CPU
            Rows of every physical expert.
        """
        if self.manager is None:
            self.placement = None
            return self._route_home(torch.cat(ids))
        placement = self.manager.update_placement(ids, micro_batch=micro_batch)
        self.manager.weight_sync(placement, list(self.experts.weights))
        physical = torch.cat(self.manager.reroute(placement, ids))
        table = placement.table
        counts = torch.zeros(table.num_physical, dtype=torch.int32)
        counts[torch.from_numpy(table.physical).long()] = torch.from_numpy(
            placement.plan.quota
        ).int()
        self.placement = placement
        return physical, counts.view(table.num_ranks, table.per_rank)

    def _route_home(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        layout = self.layout
        room = int(layout.mains_per_rank.max())
        row = Geometry(layout, 1).main_row
        physical = torch.from_numpy(layout.home * room + row).to(ids.device)[ids]
        counts = torch.bincount(physical.reshape(-1), minlength=layout.num_ranks * room)
        return physical, counts.int().cpu().view(layout.num_ranks, room)

    def _check(self, x: Sequence[torch.Tensor]) -> None:
        experts = self.experts
        if len(x) != self.layout.num_ranks:
            raise InputError(
                "no tokens for every rank", place="x", value=len(x),
                remedy=f"give {self.layout.num_ranks} tensors, empty ones for idle ranks",
            )  # fmt: skip
        for rank, one in enumerate(x):
            if one.ndim != 2 or one.shape[1] != experts.hidden or one.dtype != experts.dtype:
                raise InputError(
                    "tokens do not fit the experts", place=f"x[{rank}]",
                    value=f"{one.dtype} {tuple(one.shape)}",
                    remedy=f"give {experts.dtype} [tokens, {experts.hidden}]",
                )  # fmt: skip
        if not any(len(one) for one in x):
            raise InputError(
                "no rank has a token", place="x", value=0,
                remedy="skip the layer for an empty micro-batch",
            )  # fmt: skip
