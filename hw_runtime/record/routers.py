"""Find the routers of a mixture-of-experts model and read which experts they chose.

A router is recognised by what it is, not by a list of models: a module whose class name
says router or gate, with an integer ``top_k`` and a weight matrix [experts, hidden], whose
output holds one integer tensor [..., top_k]: the ids the layer computes with, after any
selection bias or group limit. That covers our own model and the Mixtral, Qwen3-MoE,
DeepSeek-V3, GLM-4.5 and OLMoE routers of transformers 5 (ids are the third output) and
DeepSeek's original gate (ids are the first). Mixtral, Qwen and OLMoE blocks of
transformers 4 have a plain linear layer as gate; there the ids are the top-k of its logits,
which is how those blocks choose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hw_runtime.record.errors import RecordError

_ROUTER_CLASS = re.compile(r"router|gate", re.IGNORECASE)
_LINEAR_GATE_BLOCKS = re.compile(r"^(Mixtral|Qwen2Moe|Qwen3Moe|Olmoe)SparseMoeBlock$")


@dataclass(frozen=True)
class Router:
    """One MoE layer's router.

    Parameters
    ----------
    name : str
        Module path in the model.
    module : torch.nn.Module
        The module to hook.
    num_experts, top_k : int
        What it chooses from, and how many for each token.
    returns_logits : bool
        True for a linear gate: its output is scores [tokens, experts], not ids.
    """

    name: str
    module: nn.Module
    num_experts: int
    top_k: int
    returns_logits: bool = False

    def chosen(self, output: Any) -> torch.Tensor:
        """Expert ids [tokens, top_k] (integer, on the model's device) from its output.

        Raises
        ------
        RecordError
            If the output does not hold exactly one tensor that can be the ids.
        """
        if self.returns_logits:
            if not isinstance(output, torch.Tensor) or output.shape[-1] != self.num_experts:
                raise self._not_understood(output)
            logits = output.detach().reshape(-1, self.num_experts).float()
            return torch.softmax(logits, dim=-1).topk(self.top_k, dim=-1).indices
        found = [t for t in _tensors(output) if _is_ids(t, self.top_k)]
        if len(found) != 1:
            raise self._not_understood(output)
        return found[0].detach().reshape(-1, self.top_k)

    def _not_understood(self, output: Any) -> RecordError:
        shown = ", ".join(f"{t.dtype} {list(t.shape)}" for t in _tensors(output))
        return RecordError(
            f"cannot tell the chosen experts from the output of {type(self.module).__name__}",
            place=self.name,
            value=shown or type(output).__name__,
            remedy=f"it must hold exactly one integer tensor [tokens, {self.top_k}]",
        )


def find_routers(model: nn.Module) -> list[Router]:
    """Return the routers of ``model`` in layer order.

    Raises
    ------
    RecordError
        If there is none, or if the layers differ in experts or top-k (a trace holds one
        shape).
    """
    found: list[Router] = []
    for name, module in model.named_modules():
        router = _router(name, module) or _linear_gate(name, module)
        if router is not None:
            found.append(router)
    if not found:
        raise RecordError(
            f"no mixture-of-experts layer found in {type(model).__name__}",
            remedy="a router is a module named *Router or *Gate with top_k and a weight "
            "[experts, hidden]; dense models have no routing to record",
        )
    shapes = {(r.num_experts, r.top_k) for r in found}
    if len(shapes) > 1:
        raise RecordError(
            "the MoE layers differ in (experts, top-k)",
            value=sorted(shapes),
            remedy="record them as separate traces",
        )
    return found


def _router(name: str, module: nn.Module) -> Router | None:
    top_k = getattr(module, "top_k", None)
    weight = getattr(module, "weight", None)
    if not _ROUTER_CLASS.search(type(module).__name__) or not isinstance(top_k, int):
        return None
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        return None
    # Sharded weights (FSDP, ZeRO-3) are empty or flat outside forward: prefer a declared number.
    declared = next(
        (
            value
            for key in ("num_experts", "n_routed_experts")
            if isinstance(value := getattr(module, key, None), int)
        ),
        weight.shape[0],
    )
    if not 1 <= top_k <= declared:
        return None
    return Router(name, module, declared, top_k)


def _linear_gate(name: str, module: nn.Module) -> Router | None:
    gate = getattr(module, "gate", None)
    top_k = getattr(module, "top_k", None)
    if not _LINEAR_GATE_BLOCKS.match(type(module).__name__):
        return None
    if not isinstance(gate, nn.Linear) or not isinstance(top_k, int):
        return None
    return Router(f"{name}.gate", gate, gate.out_features, top_k, returns_logits=True)


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)


def _is_ids(tensor: torch.Tensor, top_k: int) -> bool:
    whole = not tensor.is_floating_point() and not tensor.is_complex()
    return whole and tensor.dtype != torch.bool and tensor.dim() >= 2 and tensor.shape[-1] == top_k
