"""Reroute where the tokens are: kernels on a GPU, `hw_runtime.reroute` on the CPU.

Both give the same integers. Splitting the loads over instances needs the load matrix and is the
same on every rank; choosing the instance of every token needs the rank's own row of it.
"""

from __future__ import annotations

import numpy as np
import torch

from hw_runtime.counting import CHUNK_PAIRS, CHUNK_TOKENS, THREADS, Counts
from hw_runtime.launch import Kernels, open_kernels
from hw_runtime.planner import DevicePlan
from hw_runtime.reroute import choose_dense, choose_topk
from hw_runtime.tensors import check_device_loads, check_ids, check_tensor
from ultraep_sim.errors import InputError
from ultraep_sim.planning.layout import EPLayout
from ultraep_sim.planning.reroute import split_tokens

SPLIT_THREADS = 128
_NAMES = {torch.int16: "i16", torch.int32: "i32", torch.int64: "i64"}
_WIDTHS = {torch.float32: 32, torch.bfloat16: 16, torch.float16: 16}


class Rerouter:
    """Reroute bound to a layout and a device.

    Parameters
    ----------
    layout : EPLayout
    device : torch.device or str
    kernels : Kernels, optional
        Used instead of the device's; tests run the kernels on the host with it.

    Attributes
    ----------
    mains_room, per_rank : int
        Physical experts of a rank: first its mains, then, from ``mains_room`` on, its slots.
    """

    def __init__(
        self,
        layout: EPLayout,
        *,
        device: torch.device | str = "cpu",
        kernels: Kernels | None = None,
    ) -> None:
        self.layout = layout
        self.device = torch.device(device)
        self._kernels = kernels or open_kernels("reroute", self.device)
        self.mains_room = int(layout.mains_per_rank.max())
        self.per_rank = self.mains_room + layout.slots_per_rank
        order = np.argsort(layout.home, kind="stable")
        start = np.concatenate(([0], np.cumsum(layout.mains_per_rank)))
        row = np.empty(layout.num_experts, np.int32)
        row[order] = np.arange(layout.num_experts) - start[layout.home[order]]
        self._main_row = torch.tensor(row, device=self.device)

    @property
    def num_physical(self) -> int:
        """Physical experts of the group, idle ones included."""
        return self.layout.num_ranks * self.per_rank

    def split(
        self, loads: torch.Tensor, plan: DevicePlan, record: int = 0, *, locality: bool = True
    ) -> torch.Tensor:
        """Split every source's tokens over the instances, both sums exact.

        Parameters
        ----------
        loads : int32 tensor [sources, experts]
            What the plan was made for; with one row locality does not apply.
        plan : DevicePlan
        record : int
        locality : bool
            A source's own instance first.

        Returns
        -------
        int32 tensor [sources, experts + ranks x slots]
            One column an instance; only the first ``plan.offsets[record, -1]`` mean anything.
        """
        layout = self.layout
        given = check_device_loads(loads, layout.num_ranks, layout.num_experts, self.device)[0]
        offsets, rank, _, quota = self._table(plan, record)
        sources, columns = given.shape[0], len(rank)
        locality = locality and sources > 1
        out = torch.empty((sources, columns), dtype=torch.int32, device=self.device)
        if self._kernels is None:
            count = int(offsets[-1])
            out[:, :count] = torch.from_numpy(
                split_tokens(
                    given.numpy().astype(np.int64), offsets.numpy().astype(np.int64),
                    rank.numpy()[:count], quota.numpy()[:count].astype(np.int64),
                    locality=locality,
                ).astype(np.int32)
            )  # fmt: skip
            return out
        self._kernels.launch(
            "reroute_split", layout.num_experts, SPLIT_THREADS,
            12 * (sources + layout.num_ranks),
            given, sources, layout.num_experts, offsets, rank, quota, int(locality), columns, out,
        )  # fmt: skip
        return out

    def topk(
        self,
        ids: torch.Tensor,
        counts: Counts,
        plan: DevicePlan,
        split: torch.Tensor,
        record: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose the instance of every (token, expert) pair of one source.

        Parameters
        ----------
        ids : int16, int32 or int64 tensor [tokens, k]
        counts : Counts
            Of these ids, from `LoadCounter.topk`.
        plan : DevicePlan
        split : int32 tensor [experts + ranks x slots]
            This source's row of `split`.
        record : int

        Returns
        -------
        instance : int32 tensor [tokens, k]
            Index into the plan's instances; -1 for padding and ids out of range.
        physical : tensor like ``ids``
            ``rank x per_rank + row``, what dispatch takes; -1 likewise.
        """
        found = check_ids(ids, self.layout.num_experts, self.device)
        if found.dtype == torch.int16 and self.num_physical > 2**15:
            raise InputError(
                "int16 cannot name every physical expert", place="topk_ids",
                value=self.num_physical, remedy="give int32 ids",
            )  # fmt: skip
        offsets, rank, slot, _ = self._table(plan, record)
        self._check_split(split, len(rank))
        instance = torch.empty(found.shape, dtype=torch.int32, device=self.device)
        physical = torch.empty_like(found)
        if self._kernels is None:
            flat = found.reshape(-1)
            valid = flat >= 0
            chosen = choose_topk(
                flat[valid].numpy()[:, None], *_numpy(offsets, split, int(offsets[-1]))
            )
            instance.fill_(-1)
            instance.view(-1)[valid] = torch.from_numpy(chosen[:, 0])
            physical.copy_(self._physical(found, instance, rank, slot))
            return instance, physical
        chunks = len(counts.before)
        experts = self.layout.num_experts
        self._kernels.launch(
            f"reroute_topk_{_NAMES[found.dtype]}", chunks, THREADS, THREADS // 32 * experts * 2,
            found, found.numel(), CHUNK_PAIRS, experts, counts.before, counts.totals, split,
            offsets, rank, slot, self._main_row, self.mains_room, self.per_rank,
            instance, physical,
        )  # fmt: skip
        return instance, physical

    def dense(
        self,
        chosen: torch.Tensor,
        counts: Counts,
        plan: DevicePlan,
        split: torch.Tensor,
        record: int = 0,
    ) -> torch.Tensor:
        """Choose the instance of every cell of a routing map, int32 [tokens, experts], -1 for none.

        Parameters are those of `topk`, with ``chosen`` a bool tensor [tokens, experts].
        """
        experts = self.layout.num_experts
        found = check_tensor(
            chosen, "chosen", dtypes=(torch.bool,), shape=(None, experts), device=self.device
        )
        offsets, rank, _, _ = self._table(plan, record)
        self._check_split(split, len(rank))
        if self._kernels is None:
            made = choose_dense(found.numpy(), *_numpy(offsets, split, int(offsets[-1])))
            return torch.from_numpy(made)
        instance = torch.empty(found.shape, dtype=torch.int32, device=self.device)
        self._kernels.launch(
            "reroute_dense", len(counts.before), THREADS, 0,
            found, found.shape[0], CHUNK_TOKENS, experts, counts.before, counts.totals, split,
            offsets, instance,
        )  # fmt: skip
        return instance

    def spread(
        self, values: torch.Tensor, instance: torch.Tensor, plan: DevicePlan, record: int = 0
    ) -> torch.Tensor:
        """Move values [tokens, experts] to the columns of their physical experts, else zero.

        Parameters
        ----------
        values : float32, bfloat16 or float16 tensor [tokens, experts]
        instance : int32 tensor [tokens, experts]
            From `dense`.
        plan : DevicePlan
        record : int

        Returns
        -------
        tensor [tokens, physical experts]
        """
        return self._move("spread", values, instance, plan, record)

    def gather(
        self, grad: torch.Tensor, instance: torch.Tensor, plan: DevicePlan, record: int = 0
    ) -> torch.Tensor:
        """Gather the gradient of `spread` back to [tokens, experts]: no sums, so no rounding."""
        return self._move("gather", grad, instance, plan, record)

    def _move(
        self, way: str, given: torch.Tensor, instance: torch.Tensor, plan: DevicePlan, record: int
    ) -> torch.Tensor:
        experts, columns = self.layout.num_experts, self.num_physical
        source, target = (experts, columns) if way == "spread" else (columns, experts)
        found = check_tensor(
            given, "values" if way == "spread" else "grad", dtypes=tuple(_WIDTHS),
            shape=(None, source), device=self.device,
        )  # fmt: skip
        tokens = len(found)
        check_tensor(
            instance, "instance", dtypes=(torch.int32,), shape=(tokens, experts), device=self.device
        )
        offsets, rank, slot, _ = self._table(plan, record)
        if self._kernels is None or tokens == 0:
            out = torch.zeros((tokens, target), dtype=found.dtype, device=self.device)
            if tokens == 0:
                return out
            token, expert = (instance >= 0).nonzero(as_tuple=True)
            every = torch.arange(experts).expand(tokens, experts)
            column = self._physical(every, instance, rank, slot)[token, expert].long()
            if way == "spread":
                out[token, column] = found[token, expert]
            else:
                out[token, expert] = found[token, column]
            return out
        out = torch.empty((tokens, target), dtype=found.dtype, device=self.device)
        self._kernels.launch(
            f"reroute_{way}_{_WIDTHS[found.dtype]}", tokens, THREADS, 0,
            found, instance, experts, columns, offsets, rank, slot, self._main_row,
            self.mains_room, self.per_rank, out,
        )  # fmt: skip
        return out

    def _table(self, plan: DevicePlan, record: int) -> tuple[torch.Tensor, ...]:
        if plan.layout != self.layout:
            raise InputError("made for another layout", place="plan", value=str(plan.layout))
        parts = (plan.offsets, plan.instance_rank, plan.instance_slot, plan.instance_quota)
        return tuple(part[record] for part in parts)

    def _check_split(self, split: torch.Tensor, columns: int) -> None:
        check_tensor(split, "split", dtypes=(torch.int32,), shape=(columns,), device=self.device)

    def _physical(
        self, expert: torch.Tensor, instance: torch.Tensor, rank: torch.Tensor, slot: torch.Tensor
    ) -> torch.Tensor:
        """Physical number of every chosen instance, -1 where there is none; host backend only."""
        at = instance.clamp(min=0).long()
        main = self._main_row[expert.clamp(min=0).long()]
        row = torch.where(slot[at] < 0, main, self.mains_room + slot[at])
        return torch.where(instance >= 0, rank[at] * self.per_rank + row, -1)


def _numpy(offsets: torch.Tensor, split: torch.Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    return offsets.numpy().astype(np.int64), split.numpy()[:count].astype(np.int64)
