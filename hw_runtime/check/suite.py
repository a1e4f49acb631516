"""What a suite gets and gives: a context that opens fabrics, and one row a case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..fabrics import Fabric, Geometry, open_fabric
from ..fabrics.host import HostFabric

Status = Literal["ok", "FAILED", "skipped"]


@dataclass(frozen=True)
class Row:
    """Result of one case.

    Attributes
    ----------
    suite, case : str
    status : "ok", "FAILED" or "skipped"
    checked : int
        How many things were compared.
    detail : str
        What was compared, or the first difference.
    """

    suite: str
    case: str
    status: Status
    checked: int
    detail: str


class Mismatch(Exception):  # noqa: N818  # a finding of a suite, not an error of the program
    """Two things that must be equal are not; the message names the first place."""


@dataclass(frozen=True)
class Context:
    """Which fabric, which faults, which seed.

    Parameters
    ----------
    fabric : str
        Name of a backend.
    seed : int
    fault : str, optional
        Put into the host fabric on purpose.
    orders : int
        Seeded orders of the race suite.
    plans : int
        Loads of the planner suite.
    device : str
        Where a GPU fabric's tensors are.
    options : dict
        Further options of the fabric.
    """

    fabric: str = "host"
    seed: int = 0
    fault: str | None = None
    orders: int = 200
    plans: int = 2000
    device: str = "cuda"
    options: dict[str, Any] = field(default_factory=dict)

    def ranks(self, wanted: int) -> int:
        """Return how many ranks a case gets: as many as it wants, or as there are processes."""
        if self.fabric in ("ipc", "symm"):
            return int(os.environ.get("WORLD_SIZE", "2"))
        return wanted

    def open(self, geometry: Geometry, order: int | None = None) -> Fabric:
        """Open the fabric under test; ``order`` seeds the host's interleaving.

        On a GPU it seeds random delays in the streaming kernel; 0 and None leave them out.
        """
        if self.fabric == "host":
            return self.open_host(geometry, order)
        return open_fabric(self.fabric, geometry, **{"jitter": order or 0, **self.options})

    def open_host(self, geometry: Geometry, order: int | None = None) -> HostFabric:
        """Open a host fabric, whatever is under test."""
        seed = None if order is None else self.seed * 1_000_003 + order
        return HostFabric(geometry, seed=seed, fault=self.fault)

    def put(self, array: NDArray[Any]) -> Any:
        """Bring an array to where the fabric's memory is; uint16 is bf16 bits."""
        if self.fabric == "host":
            return array
        import torch

        if array.dtype == np.uint16:
            bits = torch.from_numpy(array.view(np.int16)).to(self.device)
            return bits.view(torch.bfloat16)
        return torch.from_numpy(array).to(self.device)

    def get(self, array: Any) -> NDArray[Any]:
        """Bring an array of the fabric back; bf16 comes as uint16 bits."""
        if isinstance(array, np.ndarray):
            return array
        import torch

        if array.dtype == torch.bfloat16:
            bits: NDArray[Any] = array.contiguous().view(torch.int16).cpu().numpy()
            return bits.view(np.uint16)
        values: NDArray[Any] = array.cpu().numpy()
        return values


Case = tuple[str, Callable[[], tuple[int, str]]]
"""Name, and what runs it: how many things were compared, and what they were."""
Suite = Callable[[Context], Iterator[Case]]


def require_equal(got: NDArray[Any], want: NDArray[Any], place: str) -> None:
    """Compare bit by bit.

    Raises
    ------
    Mismatch
        Naming the first differing element.
    """
    if got.shape != want.shape:
        raise Mismatch(f"{place}: shape {got.shape}, expected {want.shape}")
    a, b = np.ascontiguousarray(got), np.ascontiguousarray(want)
    wrong = np.flatnonzero((a.view(np.uint8) != b.view(np.uint8)).reshape(-1))
    if wrong.size:
        at = int(wrong[0]) // a.itemsize
        raise Mismatch(
            f"{place}: {wrong.size} bytes differ, first at element {at} "
            f"(is {a.reshape(-1)[at]}, expected {b.reshape(-1)[at]})"
        )
