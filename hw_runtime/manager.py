"""The manager: one object a process that plans, moves weights, routes tokens, reduces gradients.

All MoE layers share its slots. The fabric has ``sets`` of them, so that several micro-batches can
be between a `weight_sync` and a `release` at once; micro-batch ``m`` uses set ``m % sets``. A
`Placement` is what remains of a decision: a few arrays, kept for every layer and micro-batch whose
backward pass is still to come. The weights themselves are not kept: the backward pass calls
`weight_sync` again, which costs nothing where the set still holds them.

One layer, forward:

>>> placement = manager.update_placement(topk_ids)       # doctest: +SKIP
>>> manager.weight_sync(placement, mains)                # doctest: +SKIP
>>> routed = manager.reroute(placement, topk_ids)        # doctest: +SKIP
>>> slots = manager.acquire(placement)                   # doctest: +SKIP
>>> ...                                                  # dispatch, compute, combine
>>> manager.release(placement)                           # doctest: +SKIP

and backward: `weight_sync`, `acquire`, compute into `gradient_slots`, `release`, `grad_reduce`.

On a GPU fabric the plan is made where the ids are (`hw_runtime.path`), and neither ids nor counts
go through the host; what a placement says of its plan is copied when somebody asks. The host plans
where counts are handed in, and groups that are too large for the planner's kernel.

On a GPU transfers run on streams of their own; only `acquire`, `gradient_slots` and `finish` make
the current stream wait. On the host every call has done its work when it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ultraep_sim.errors import InputError, PolicyError
from ultraep_sim.planning import (
    EPLayout,
    MosaicOptions,
    MosaicSolver,
    Plan,
    QuotaOptions,
    QuotaSolver,
    check_loads,
)
from ultraep_sim.planning.assemble import plan_from_replicas

from .errors import FabricError
from .fabrics import Fabric
from .fabrics.device import DeviceFabric
from .inputs import as_tensor, check_ids, check_rows, to_fabric
from .lanes import Lane, mark
from .path import DevicePath
from .placement import Placement
from .reroute import choose_topk, count_topk

POLICIES = ("ultraep", "mosaic")


@dataclass(frozen=True)
class Balance:
    """How to balance.

    Parameters
    ----------
    policy : {"ultraep", "mosaic"}
        The published quota planner, or the one that opens fewer replicas.
    target : float
        Largest rank load asked for, as a multiple of the mean.
    min_quota : int
        Smallest quota of a replica, soft ("ultraep" only).
    relay : bool
        Send hot fan-outs through relays where that relieves the home.
    """

    policy: Literal["ultraep", "mosaic"] = "ultraep"
    target: float = 1.01
    min_quota: int = 0
    relay: bool = True

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise PolicyError(
                "the runtime has no such policy", place="policy", value=self.policy,
                remedy=f"give one of {', '.join(POLICIES)}",
            )  # fmt: skip
        QuotaOptions(self.target, self.min_quota)  # checks both

    @property
    def options(self) -> QuotaOptions | MosaicOptions:
        """The same for a planner."""
        if self.policy == "mosaic":
            return MosaicOptions(self.target)
        return QuotaOptions(self.target, self.min_quota)


@dataclass
class _Set:
    """What a set of slots holds now."""

    resident: Placement | None = None
    version: tuple[int, ...] = ()  # of the main weights it was copied from
    epoch: int = 0
    users: int = 0
    releases: int = 0
    reduced: Any = None  # event behind the last reduction of lists made on the device
    released: Any = None  # event of the last release


class Manager:
    """See the module.

    Parameters
    ----------
    fabric : Fabric
        Open; it owns the slots and says which layout they are for.
    balance : Balance, optional

    Raises
    ------
    InputError
        A layout without redundant slots.
    """

    def __init__(self, fabric: Fabric, balance: Balance | None = None) -> None:
        self.fabric = fabric
        self.balance = balance or Balance()
        self.layout: EPLayout = fabric.geometry.layout
        if self.layout.slots_per_rank == 0:
            raise InputError(
                "nowhere to put a replica", place="layout.slots_per_rank", value=0,
                remedy="give 1 or more, or leave balancing off",
            )  # fmt: skip
        self.ranks = fabric.local_ranks
        slots = fabric.slots(self.ranks[0])
        self.device = as_tensor(slots).device
        self._as_fabric = to_fabric if isinstance(slots, np.ndarray) else torch.Tensor.detach
        self._path = device_path(fabric, self.balance)
        self._quota = QuotaSolver(self.layout)
        self._mosaic = MosaicSolver(self.layout)
        self._sets = [_Set() for _ in range(fabric.geometry.sets)]
        self._weights = Lane(self.device)
        self._reduction = Lane(self.device)

    # -- plan ----------------------------------------------------------------------------------

    def update_placement(
        self,
        topk_ids: Sequence[torch.Tensor] | None = None,
        *,
        counts: torch.Tensor | NDArray[np.integer] | None = None,
        micro_batch: int = 0,
    ) -> Placement:
        """Plan on the exact load; collective.

        Parameters
        ----------
        topk_ids : sequence of int tensors, each [tokens, k], one a local rank
            Experts of every token. Give these or ``counts``.
        counts : int array, shape [ranks, experts]
            Tokens of every source rank for every expert, where they have been exchanged already.
        micro_batch : int
            Chooses the set of slots.

        Returns
        -------
        Placement

        Raises
        ------
        InputError
            Wrong dtype, shape, device or memory order; an id out of range; no token at all.
        """
        if (topk_ids is None) == (counts is None):
            raise InputError(
                "give either topk_ids or counts", place="update_placement",
                remedy="topk_ids of the local ranks, or counts [ranks, experts] of all",
            )  # fmt: skip
        whole = isinstance(micro_batch, int) and not isinstance(micro_batch, bool)
        if not whole or micro_batch < 0:
            raise InputError("not a whole number from 0 up", place="micro_batch", value=micro_batch)
        geometry = self.fabric.geometry
        which = micro_batch % geometry.sets
        releases = self._sets[which].releases if topk_ids is not None else -1
        if topk_ids is not None and self._path is not None:
            made = self._path.plan(topk_ids, self._path.empty())
            made = replace(made, loads=made.loads.clone())
            return Placement(geometry, self.balance.relay, which, None, made, releases)
        if topk_ids is not None:
            loads = self.exchange(topk_ids)
        else:
            loads = counts.cpu().numpy() if isinstance(counts, torch.Tensor) else np.asarray(counts)
        matrix = check_loads(loads, self.layout)
        if matrix.shape[0] != self.layout.num_ranks:
            raise InputError(
                "loads of unknown sources cannot be rerouted", place="counts.shape",
                value=tuple(matrix.shape), remedy=f"give {self.layout.num_ranks} rows",
            )  # fmt: skip
        if not matrix.any():
            raise InputError(
                "no rank has a token", place="counts", value=0,
                remedy="skip the layer for an empty micro-batch",
            )  # fmt: skip
        plan = self._solve(matrix)
        return Placement(geometry, self.balance.relay, which, plan, None, releases)

    def exchange(self, topk_ids: Sequence[torch.Tensor]) -> NDArray[np.int32]:
        """Count the local tokens of each expert and gather all ranks' counts; collective.

        Returns
        -------
        ndarray of int32, shape [ranks, experts]
        """
        ids = check_ids(topk_ids, self.ranks, self.device)
        local = np.stack([count_topk(one, self.layout.num_experts) for one in ids])
        if len(self.ranks) == self.layout.num_ranks:
            return local
        return _all_gather(local, self.layout.num_ranks, self.device)

    def _solve(self, matrix: NDArray[np.int64]) -> Plan:
        total, options = matrix.sum(axis=0), self.balance
        wanted = options.options
        if isinstance(wanted, MosaicOptions):
            solution = self._mosaic.solve(total, wanted)
        else:
            solution = self._quota.solve(total, wanted)
        return plan_from_replicas(
            self.layout, matrix, solution.expert, solution.rank, solution.quota,
            tau=solution.tau, policy=options.policy,
        )  # fmt: skip

    # -- weights -------------------------------------------------------------------------------

    def weight_sync(self, placement: Placement, mains: Sequence[torch.Tensor | None]) -> None:
        """Start to bring a placement's replica weights into its set of slots; collective.

        Nothing is moved where the set still holds them, copied from the same weights.

        Parameters
        ----------
        placement : Placement
        mains : sequence, one entry a rank
            Main weights [mains, elements] of local ranks, contiguous, `Geometry.copy_bytes` a
            row, of any dtype; None for the others.

        Raises
        ------
        FabricError
            The set is held by another placement.
        InputError
            Weights that do not fit.
        """
        geometry = self.fabric.geometry
        rows = self.layout.mains_per_rank
        check_rows("mains", mains, rows, self.ranks, self.device, geometry.copy_bytes)
        held = self._sets[placement.which]
        version = tuple(mains[r]._version for r in self.ranks)  # type: ignore[union-attr]  # checked
        if held.resident is placement and held.version == version:
            return
        if held.users:
            raise FabricError(
                f"set {placement.which} of the slots is still held by another layer or "
                f"micro-batch; release it first, or open the fabric with more than "
                f"{geometry.sets} sets"
            )
        if placement._releases_seen != held.releases:
            self.fabric.barrier()  # else the exchange of counts, behind the last reader, was one
        placement._releases_seen = -1
        raw = [
            None if one is None else self._as_fabric(one.detach().view(torch.uint8))
            for one in mains
        ]
        held.resident = None
        with self._weights.run(held.released, held.reduced):
            if placement.made is not None and self._path is not None:
                held.epoch = self._path.distribute(placement.made.plan, raw, placement.which)
            else:
                held.epoch = self.fabric.distribute(placement.tiles, raw, placement.which)
        held.resident, held.version = placement, version

    def acquire(self, placement: Placement) -> list[torch.Tensor]:
        """Wait for a placement's replicas; hand out the slots of the local ranks.

        Returns
        -------
        list of uint8 tensors, each [slots, copy_bytes], not copies
        """
        held = self._resident(placement)
        self._weights.join()
        held.users += 1
        if placement.made is not None:  # the lane that was joined ends when the flags have come
            return [self.fabric.slots(rank, placement.which) for rank in self.ranks]
        return [
            as_tensor(self.fabric.acquire(placement.tiles, held.epoch, rank, placement.which))
            for rank in self.ranks
        ]

    def release(self, placement: Placement) -> None:
        """Say that the slots are read no more; the set may be overwritten from now on."""
        held = self._resident(placement)
        if not held.users:
            raise FabricError(f"set {placement.which} of the slots is released twice")
        for rank in self.ranks:
            self.fabric.release(rank, placement.which)
        held.users -= 1
        held.releases += 1
        held.released = mark(self.device)

    def _resident(self, placement: Placement) -> _Set:
        held = self._sets[placement.which]
        if held.resident is not placement:
            raise FabricError(
                f"set {placement.which} of the slots holds other replicas; call weight_sync first"
            )
        return held

    # -- tokens --------------------------------------------------------------------------------

    def reroute(self, placement: Placement, topk_ids: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Choose the physical expert of every (token, expert) pair of the local ranks.

        Parameters
        ----------
        placement : Placement
        topk_ids : sequence of int tensors, each [tokens, k], one a local rank
            Those that the placement was planned for.

        Returns
        -------
        list of int32 tensors, each [tokens, k]
            Physical experts as `Instances` numbers them.
        """
        if placement.made is not None and self._path is not None:
            return [one.int() for one in self._path.reroute(placement.made, topk_ids)]
        ids = check_ids(topk_ids, self.ranks, self.device)
        split, table = placement.plan.split, placement.table
        return [
            torch.from_numpy(
                table.physical[choose_topk(one, table.offsets, split[rank])]
            ).to(self.device)
            for rank, one in zip(self.ranks, ids, strict=True)
        ]  # fmt: skip

    # -- gradients -----------------------------------------------------------------------------

    def gradient_slots(self, placement: Placement) -> list[torch.Tensor]:
        """Hand out the gradient slots of the local ranks, zero since the last reduction.

        Returns
        -------
        list of tensors, each [slots, gradient_elements], fp32 or bf16, not copies
        """
        if not self.fabric.geometry.gradient_elements:
            raise InputError(
                "the fabric has no gradient slots", place="geometry.gradient_elements", value=0,
                remedy="open it with the elements of one expert's gradient",
            )  # fmt: skip
        self._reduction.join()
        return [as_tensor(self.fabric.gradients(rank, placement.which)) for rank in self.ranks]

    def grad_reduce(
        self,
        placement: Placement,
        main_grads: Sequence[torch.Tensor | None],
        *,
        sms: int | None = None,
    ) -> None:
        """Start to add replica gradients to their mains in fixed order and zero them; collective.

        The main's own gradient must be in ``main_grads`` before. The sum is in fp32: the main
        first, then the replicas by ascending rank.

        Parameters
        ----------
        placement : Placement
        main_grads : sequence, one entry a rank
            fp32 or bf16 [mains, gradient_elements] of local ranks; None for the others.
        sms : int, optional
            Multiprocessors to use on a GPU; default all.

        Raises
        ------
        FabricError
            On a GPU: the slots hold another placement already, and the lists made on the device
            are that one's.
        """
        elements = self.fabric.geometry.gradient_elements
        rows = self.layout.mains_per_rank
        check_rows(
            "main_grads", main_grads, rows, self.ranks, self.device, elements,
            dtypes=(torch.float32, torch.bfloat16),
        )  # fmt: skip
        raw = [None if one is None else self._as_fabric(one.detach()) for one in main_grads]
        on_device = placement.made is not None and isinstance(self.fabric, DeviceFabric)
        held = self._resident(placement) if on_device else self._sets[placement.which]
        with self._reduction.run():
            if isinstance(self.fabric, DeviceFabric) and on_device:
                self.fabric.reduce_plan(raw, placement.which, sms=sms)
                held.reduced = mark(self.device)
            else:
                self.fabric.reduce(placement.gradients, raw, placement.which, sms=sms)

    def finish(self) -> None:
        """Let the current stream wait for every transfer: call before the optimizer."""
        self._weights.join()
        self._reduction.join()

    def reset(self) -> None:
        """Forget what the slots hold, after an aborted step; collective."""
        self.fabric.reset()
        self._sets = [_Set() for _ in self._sets]
        for which in range(len(self._sets)):
            for rank in self.ranks:
                self.fabric.gradients(rank, which)[...] = 0


def device_path(fabric: Fabric, balance: Balance) -> DevicePath | None:
    """Return the path on the device; None on the host and for what no kernel plans."""
    if not isinstance(fabric, DeviceFabric):
        return None
    try:
        return DevicePath(fabric, balance.options, relay=balance.relay)
    except InputError:  # a layout beyond what one block plans
        return None


def _all_gather(
    local: NDArray[np.int32], num_ranks: int, device: torch.device
) -> NDArray[np.int32]:
    """Gather the counts of one rank a process in rank order."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        raise FabricError(
            "counts of other processes are needed, but torch.distributed is not initialised; "
            "start under torchrun, or exchange them yourself and give counts"
        )
    if distributed.get_world_size() != num_ranks:
        raise FabricError(
            f"mismatched processes: the layout has {num_ranks} ranks, the process group "
            f"{distributed.get_world_size()}"
        )
    # The fabrics' own group is gloo, which takes host memory; only NCCL alone needs it on a GPU.
    nccl = distributed.get_backend() == "nccl"
    mine = torch.from_numpy(local).to(device if nccl else "cpu")
    out = [torch.empty_like(mine) for _ in range(num_ranks)]
    distributed.all_gather(out, mine)
    return torch.cat(out).cpu().numpy()
