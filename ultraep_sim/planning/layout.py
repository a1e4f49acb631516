"""Which rank is the home of which expert, and what a rank can hold besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import LayoutError

MAX_RANKS = 8192
MAX_EXPERTS = 65536


def default_home(num_ranks: int, num_experts: int) -> NDArray[np.int32]:
    """Contiguous homes; the first ``num_experts % num_ranks`` ranks hold one more.

    Returns
    -------
    ndarray of int32, shape [num_experts]
        The home rank of each expert.

    Examples
    --------
    >>> default_home(3, 7).tolist()
    [0, 0, 0, 1, 1, 2, 2]
    """
    base, extra = divmod(num_experts, num_ranks)
    counts = np.full(num_ranks, base)
    counts[:extra] += 1
    return np.repeat(np.arange(num_ranks, dtype=np.int32), counts)


@dataclass(frozen=True, eq=False)
class EPLayout:
    """An expert-parallel group before any balancing.

    Parameters
    ----------
    num_ranks : int
        Ranks (GPUs) of the EP group.
    num_experts : int
        Logical experts of one MoE layer; may be fewer than ranks.
    slots_per_rank : int
        Redundant slots a rank reserves for replicas.
    domain_size : int, optional
        Consecutive ranks that share a scale-up domain; default all of them. The last
        domain may be smaller.
    home : array_like of int, shape [num_experts], optional
        Home rank of each expert; default contiguous, see `default_home`.

    Raises
    ------
    LayoutError
        If a number is out of range, or ``home`` does not fit.

    Examples
    --------
    >>> layout = EPLayout(num_ranks=64, num_experts=256, slots_per_rank=2, domain_size=8)
    >>> layout.num_domains, int(layout.home[255])
    (8, 63)
    """

    num_ranks: int
    num_experts: int
    slots_per_rank: int
    domain_size: int | None = None
    home: Any = field(default=None, repr=False)  # stored as int32 [num_experts]

    def __post_init__(self) -> None:
        _check_int("num_ranks", self.num_ranks, 1, MAX_RANKS)
        _check_int("num_experts", self.num_experts, 1, MAX_EXPERTS)
        _check_int("slots_per_rank", self.slots_per_rank, 0, self.num_experts)
        if self.domain_size is None:
            object.__setattr__(self, "domain_size", self.num_ranks)
        _check_int("domain_size", self.domain_size, 1, self.num_ranks)
        home = _check_home(self.home, self.num_ranks, self.num_experts)
        home.setflags(write=False)
        object.__setattr__(self, "home", home)

    @property
    def domain(self) -> int:
        """Ranks per scale-up domain (``domain_size``, never None)."""
        return int(self.domain_size or self.num_ranks)

    @property
    def num_domains(self) -> int:
        """Scale-up domains of the group."""
        return -(-self.num_ranks // self.domain)

    @cached_property
    def domain_of(self) -> NDArray[np.int32]:
        """Domain of each rank, int32 [num_ranks]."""
        return (np.arange(self.num_ranks) // self.domain).astype(np.int32)

    @cached_property
    def mains_per_rank(self) -> NDArray[np.int64]:
        """Main experts of each rank, int64 [num_ranks]."""
        return np.bincount(self.home, minlength=self.num_ranks)

    @property
    def instances_per_rank(self) -> int:
        """Instances a rank can hold: the most mains of any rank, and its slots."""
        return int(self.mains_per_rank.max()) + self.slots_per_rank

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EPLayout):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, int, int, int, bytes]:
        numbers = (self.num_ranks, self.num_experts, self.slots_per_rank, self.domain)
        return (*numbers, self.home.tobytes())


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise LayoutError("not an integer", place=name, value=value, remedy="give a whole number")
    if not low <= value <= high:
        raise LayoutError(
            "out of range", place=name, value=int(value), remedy=f"give {low} to {high}"
        )


def _check_home(home: ArrayLike | None, num_ranks: int, num_experts: int) -> NDArray[np.int32]:
    if home is None:
        return default_home(num_ranks, num_experts)
    array = np.array(home)
    if array.shape != (num_experts,) or array.dtype.kind not in "iu":
        raise LayoutError(
            "home must be one integer rank per expert",
            place="home",
            value=f"{array.dtype} {array.shape}",
            remedy=f"give {num_experts} integers",
        )
    outside = np.flatnonzero((array < 0) | (array >= num_ranks))
    if outside.size:
        raise LayoutError(
            "home rank outside the group",
            place=f"home[{outside[0]}]",
            value=int(array[outside[0]]),
            remedy=f"give 0 to {num_ranks - 1}",
        )
    return array.astype(np.int32)
