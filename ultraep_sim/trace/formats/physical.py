"""From physical experts (instances on ranks) to logical ones (the model's)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..meta import MAX_EXPERTS
from .limits import refuse


def check_placement(placement: NDArray[np.int64], path: Path, experts: int | None) -> int:
    """Check a physical-to-logical map and return the logical experts.

    Parameters
    ----------
    placement : ndarray of int64, shape [layers, physical]
        Logical expert of every physical one; -1 for an empty slot.
    path : Path
        Named in errors.
    experts : int or None
        Logical experts if known; else the largest id tells.

    Raises
    ------
    TraceError
        If an id is out of range or an expert has no instance in some layer.
    """
    low, high = int(placement.min()), int(placement.max())
    found = experts if experts is not None else high + 1
    if low < -1 or high >= found or not 1 <= found <= MAX_EXPERTS:
        refuse(
            f"the map names logical experts outside 0..{found - 1}",
            path,
            "physical_to_logical_map",
            low if low < -1 else high,
            "give the map that was in force when the dump was made",
        )
    if found > placement.shape[1]:
        refuse("has fewer physical than logical experts", path, "physical_to_logical_map", found)
    layers = len(placement)
    there = np.zeros((layers, found + 1), dtype=bool)
    there[np.arange(layers)[:, None], placement] = True  # -1 marks the spare last column
    if not there[:, :found].all():
        layer, expert = (int(x) for x in np.argwhere(~there[:, :found])[0])
        refuse(
            "a logical expert has no instance",
            path,
            f"physical_to_logical_map, layer {layer}",
            expert,
            "give the map that was in force when the dump was made",
        )
    return found


def logical_counts(
    counts: NDArray[np.int64], placement: NDArray[np.int64], experts: int, path: Path
) -> NDArray[np.int64]:
    """Sum the counts of the instances of every expert.

    Parameters
    ----------
    counts : ndarray of int64, shape [layers, physical]
    placement : ndarray of int64, shape [layers, physical]
    experts : int
    path : Path

    Returns
    -------
    ndarray of int64, shape [layers, experts]

    Raises
    ------
    TraceError
        If the shapes differ or an empty slot has tokens.
    """
    if counts.shape != placement.shape:
        refuse(
            "counts and map differ in shape",
            path,
            "physical_to_logical_map",
            f"{list(counts.shape)} and {list(placement.shape)}",
            "give the map that was in force when the dump was made",
        )
    out = np.zeros((len(counts), experts + 1), dtype=np.int64)
    np.add.at(out, (np.arange(len(counts))[:, None], placement), counts)
    if out[:, experts].any():
        layer = int(np.argmax(out[:, experts] != 0))
        refuse("an empty slot has tokens", path, f"layer {layer}", int(out[layer, experts]))
    return out[:, :experts]
