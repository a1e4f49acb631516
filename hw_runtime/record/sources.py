"""Which source rank each token of a batch belongs to, and which tokens are padding."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hw_runtime.record.errors import RecordError


@dataclass(frozen=True)
class Sources:
    """Assignment of a batch's tokens to source ranks; use one of the constructors.

    Parameters
    ----------
    ranks : int
        Rows of the load matrices.
    rank : int, optional
        All tokens belong to this rank.
    per_rank : int, optional
        Consecutive sequences of a rank; None: the batch is cut into ``ranks`` equal parts.
    """

    ranks: int
    rank: int | None = None
    per_rank: int | None = None
    _explicit: list[torch.Tensor] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise RecordError("there must be at least one source rank", value=self.ranks)
        if self.rank is not None and not 0 <= self.rank < self.ranks:
            raise RecordError(f"the rank must be in 0..{self.ranks - 1}", value=self.rank)
        if self.per_rank is not None and self.per_rank < 1:
            raise RecordError("sequences per rank must be at least 1", value=self.per_rank)

    @classmethod
    def one(cls) -> Sources:
        """Return one row for everything: the source is not recorded."""
        return cls(1, rank=0)

    @classmethod
    def this_rank(cls, rank: int, ranks: int) -> Sources:
        """Return row ``rank`` for all tokens of this process."""
        return cls(ranks, rank=rank)

    @classmethod
    def by_sequence(cls, ranks: int, per_rank: int | None = None) -> Sources:
        """Give each rank ``per_rank`` consecutive sequences of the batch."""
        return cls(ranks, per_rank=per_rank)

    @classmethod
    def explicit(cls, ranks: int) -> Sources:
        """Take the assignment from `assign` before every forward."""
        return cls(ranks, per_rank=None, _explicit=[torch.empty(0)])

    def assign(self, rank_of: torch.Tensor) -> None:
        """Set the ranks of the next batches: [sequences], or [sequences, length] per token."""
        if not self._explicit:
            raise RecordError("assign() needs Sources.explicit(ranks)")
        if rank_of.is_floating_point() or rank_of.dtype == torch.bool or not rank_of.numel():
            raise RecordError("source ranks must be integers", value=str(rank_of.dtype))
        low, high = int(rank_of.min()), int(rank_of.max())
        if low < 0 or high >= self.ranks:
            raise RecordError(f"source ranks must be in 0..{self.ranks - 1}", value=(low, high))
        self._explicit[0] = rank_of

    def of_tokens(self, shape: tuple[int, int], device: torch.device) -> torch.Tensor:
        """Return the source rank of each token, int64 [sequences * length] on ``device``.

        Raises
        ------
        RecordError
            If the batch does not fit the assignment.
        """
        sequences, length = shape
        if self.rank is not None:
            return torch.full((sequences * length,), self.rank, device=device)
        if self._explicit:
            given = self._explicit[0]
            if tuple(given.shape) not in {(sequences,), (sequences, length)}:
                raise RecordError(
                    "the assigned source ranks do not fit the batch",
                    value=tuple(given.shape),
                    remedy=f"assign() a tensor [{sequences}] or [{sequences}, {length}] first",
                )
            rows = given.to(device=device, dtype=torch.int64)
            return (rows if rows.dim() == 2 else rows[:, None].expand(shape)).reshape(-1)
        per_rank = self.per_rank
        if per_rank is None:
            if sequences % self.ranks:
                raise RecordError(
                    f"{sequences} sequences do not divide over {self.ranks} source ranks",
                    remedy="change the batch, give sequences per rank, or assign explicitly",
                )
            per_rank = sequences // self.ranks
        if sequences > per_rank * self.ranks:
            raise RecordError(
                f"{sequences} sequences are more than {self.ranks} ranks x {per_rank}",
                remedy="give more source ranks or more sequences per rank",
            )
        owner = torch.arange(sequences, device=device) // per_rank
        return owner.repeat_interleave(length)


def token_mask(mask: object, shape: tuple[int, int]) -> torch.Tensor | None:
    """Which tokens are real, bool [sequences * length]; None where all are.

    Parameters
    ----------
    mask : object
        The model's ``attention_mask``: None, or [sequences, length or more] with zeros at
        padding (more columns: those of a cache come first).
    shape : tuple of int
        Sequences and length of the batch.

    Raises
    ------
    RecordError
        If the mask has another shape: padding could not be told apart and would be counted.
    """
    if mask is None:
        return None
    if (
        not isinstance(mask, torch.Tensor)
        or mask.dim() != 2
        or mask.shape[0] != shape[0]
        or mask.shape[1] < shape[1]
    ):
        raise RecordError(
            "cannot tell padding from this attention_mask",
            value=list(getattr(mask, "shape", [])) or type(mask).__name__,
            remedy=f"pass one of shape {list(shape)} with zeros at padding, or none",
        )
    return mask[:, mask.shape[1] - shape[1] :].reshape(-1) != 0
