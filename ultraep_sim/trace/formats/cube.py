"""Records of an array [steps, layers, experts]: the shape that most recorders settle on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, check_ints, whole_numbers
from .dump import Layers, Observed, RawRecord
from .limits import refuse

ToLogical = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def cube_records(
    array: Array,
    layers: Layers,
    ids: list[int],
    steps: NDArray[np.int64] | None = None,
    to_logical: ToLogical | None = None,
) -> Callable[[Observed], Iterator[RawRecord]]:
    """Stream records of counts [steps, layers, experts].

    Parameters
    ----------
    array : Array
        Whole numbers.
    layers : Layers
        Where each layer goes.
    ids : list of int
        Layer number of every entry of the second axis.
    steps : ndarray of int64, shape [steps], optional
        Default: the position.
    to_logical : callable, optional
        Turns [layers, physical] into [layers, experts].
    """
    check_ints(array, 3, "[steps, layers, experts]")
    kept = [(at, layers.position[i]) for at, i in enumerate(ids) if i in layers.position]

    def records(_: Observed) -> Iterator[RawRecord]:
        done = 0
        for block in array.blocks():
            for counts in whole_numbers(block, array.path, array.name):
                step = done if steps is None else int(steps[done])
                logical = counts if to_logical is None else to_logical(counts)
                for at, layer in kept:
                    yield RawRecord(step, 0, layer, logical[at][None].copy())
                done += 1

    return records


def step_numbers(values: Any, count: int, array: Array) -> NDArray[np.int64]:
    """Check the step numbers that stand beside a cube.

    Raises
    ------
    TraceError
        If there are not as many as steps, or one is negative or absurd.
    """
    steps = np.asarray(values, dtype=np.int64).reshape(-1)
    if len(steps) != count or (count and not 0 <= int(steps.min()) <= int(steps.max()) < 2**31):
        refuse(f"must be {count} numbers from 0", array.path, "steps", len(steps))
    return steps
