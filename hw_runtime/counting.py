"""Count where a rank's tokens go, and hand the counts to every rank.

A chunk is a run of consecutive pairs (top-k ids) or tokens (dense routing map). Beside the totals
the pairs before each chunk are kept: the reroute numbers tokens from there, so it reads the ids
only once more. On a GPU ids out of range are counted, not raised: see `Counts.check`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hw_runtime.launch import Kernels, open_kernels
from hw_runtime.tensors import check_ids, check_tensor
from ultraep_sim.errors import InputError
from ultraep_sim.planning.layout import MAX_EXPERTS

CHUNK_PAIRS = 1024
CHUNK_TOKENS = 64
THREADS = 256
_NAMES = {torch.int16: "i16", torch.int32: "i32", torch.int64: "i64"}


@dataclass(frozen=True, eq=False)
class Counts:
    """What one rank's routing adds up to.

    Attributes
    ----------
    totals : int32 tensor [experts]
        Pairs of each expert: this rank's row of the load matrix.
    before : int32 tensor [chunks, experts]
        Pairs of each expert in the chunks before.
    errors : int32 tensor [1]
        Ids that are neither an expert nor padding.
    """

    totals: torch.Tensor
    before: torch.Tensor
    errors: torch.Tensor

    def check(self) -> None:
        """Wait for the device and raise if ids were out of range."""
        wrong = int(self.errors)
        if wrong:
            raise InputError("expert ids out of range", place="topk_ids", value=wrong)


class Receivers:
    """A rank's own row in the load matrix of every rank that gets its counts.

    Parameters
    ----------
    rows : sequence of int32 tensors, each [experts]
        Contiguous; peers' memory may be mapped.

    Attributes
    ----------
    table : int64 tensor [receivers]
        Addresses of the rows.
    """

    def __init__(self, rows: Sequence[torch.Tensor], device: torch.device | str = "cpu") -> None:
        self.rows = list(rows)
        experts = len(self.rows[0]) if self.rows else None
        for number, row in enumerate(self.rows):
            check_tensor(
                row, f"rows[{number}]", dtypes=(torch.int32,), shape=(experts,),
                device=torch.device(device),
            )  # fmt: skip
        # Built once: a table made at every call would be a copy from the host, not capturable.
        addresses = [row.data_ptr() for row in self.rows]
        self.table = torch.tensor(addresses, dtype=torch.int64, device=device)

    @classmethod
    def at(cls, table: torch.Tensor) -> Receivers:
        """Take addresses of rows that no tensor of this process shows; kernels only."""
        made = cls([], table.device)
        made.table = table
        return made


class LoadCounter:
    """The histogram of one rank.

    Parameters
    ----------
    num_experts : int
    device : torch.device or str
    kernels : Kernels, optional
        Used instead of the device's; tests run the kernels on the host with it.
    """

    def __init__(
        self,
        num_experts: int,
        *,
        device: torch.device | str = "cpu",
        kernels: Kernels | None = None,
    ) -> None:
        if not 1 <= num_experts <= MAX_EXPERTS:
            raise InputError("out of range", place="num_experts", value=num_experts)
        self.num_experts = num_experts
        self.device = torch.device(device)
        self._kernels = kernels or open_kernels("histogram", self.device)

    def topk(self, ids: torch.Tensor, receivers: Receivers | None = None) -> Counts:
        """Count top-k ids.

        Parameters
        ----------
        ids : int16, int32 or int64 tensor [tokens, k]
            -1 is padding; zero tokens are fine.
        receivers : Receivers, optional
            Get the totals; visible to them after a barrier.

        Returns
        -------
        Counts
        """
        found = check_ids(ids, self.num_experts, self.device)
        chunks = max(1, -(-found.numel() // CHUNK_PAIRS))
        if self._kernels is None:
            return self._on_host(found.reshape(-1), chunks, CHUNK_PAIRS, receivers)
        before, errors = self._words(chunks, self.num_experts), self._words(chunks)
        self._kernels.launch(
            f"histogram_{_NAMES[found.dtype]}", chunks, THREADS, 4 * self.num_experts,
            found, found.numel(), CHUNK_PAIRS, self.num_experts, before, errors,
        )  # fmt: skip
        return self._scan(before, errors, receivers)

    def dense(self, chosen: torch.Tensor, receivers: Receivers | None = None) -> Counts:
        """Count a routing map, bool [tokens, experts]."""
        found = check_tensor(
            chosen, "chosen", dtypes=(torch.bool,), shape=(None, self.num_experts),
            device=self.device,
        )  # fmt: skip
        chunks = max(1, -(-found.shape[0] // CHUNK_TOKENS))
        if self._kernels is None:
            flat = found.nonzero()
            return self._on_host(flat[:, 1], chunks, CHUNK_TOKENS, receivers, flat[:, 0])
        before, errors = self._words(chunks, self.num_experts), self._words(chunks)
        self._kernels.launch(
            "histogram_dense", chunks, THREADS, 0,
            found, found.shape[0], CHUNK_TOKENS, self.num_experts, before, errors,
        )  # fmt: skip
        return self._scan(before, errors, receivers)

    def _words(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32, device=self.device)

    def _scan(
        self, before: torch.Tensor, errors: torch.Tensor, receivers: Receivers | None
    ) -> Counts:
        assert self._kernels is not None  # noqa: S101  # the callers have looked
        totals, wrong = self._words(self.num_experts), self._words(1)
        self._kernels.launch(
            "histogram_scan", -(-self.num_experts // 64), 64, 0,
            before, errors, len(before), self.num_experts, totals, wrong,
            receivers.table if receivers else None, len(receivers.table) if receivers else 0,
        )  # fmt: skip
        return Counts(totals, before, wrong)

    def _on_host(
        self,
        ids: torch.Tensor,
        chunks: int,
        length: int,
        receivers: Receivers | None,
        position: torch.Tensor | None = None,
    ) -> Counts:
        """Count ids at their positions (default: one after the other) by chunks of ``length``."""
        where = torch.arange(len(ids)) if position is None else position
        valid = ids >= 0
        cell = (where // length * self.num_experts + ids)[valid]
        counts = torch.bincount(cell, minlength=chunks * self.num_experts)
        table = counts.reshape(chunks, self.num_experts)
        totals = table.sum(dim=0).to(torch.int32)
        before = (table.cumsum(dim=0) - table).to(torch.int32)
        for row in receivers.rows if receivers else ():
            row.copy_(totals)
        return Counts(totals, before, torch.zeros(1, dtype=torch.int32))
