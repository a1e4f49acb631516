"""The records of a trace in blocks: what a replay that plans many records at once reads."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from .ahead import read_ahead
from .container import Block, LoadStep, TraceSource
from .selection import Selection


def blocks_of(
    source: TraceSource, selection: Selection, steps: Sequence[LoadStep], max_records: int
) -> Generator[Block, None, None]:
    """Yield the selected records of a source, changed by the steps of a view.

    Parameters
    ----------
    source : TraceSource
        One with a method ``blocks(selection)`` is read ahead of what is asked for.
    selection : Selection
    steps : sequence of LoadStep
    max_records : int
        Records of a block at most: changes are made block by block, and can make it larger.
    """
    own = getattr(source, "blocks", None)
    raw = _gathered(source, selection, max_records) if own is None else read_ahead(own(selection))
    with closing(raw):
        for keys, loads in raw:
            for first in range(0, len(keys), max_records):
                part = slice(first, first + max_records)
                yield Block(keys[part], _changed(loads[part], steps))


def key_blocks_of(source: TraceSource, selection: Selection) -> Iterator[NDArray[np.int32]]:
    """Yield step, micro-batch and layer of the selected records, part by part."""
    own = getattr(source, "key_blocks", None)
    for keys in [source.keys()] if own is None else own():
        yield keys[selection.mask(keys)] if selection else keys


def _gathered(
    source: TraceSource, selection: Selection, max_records: int
) -> Generator[Block, None, None]:
    records = source.records(selection)
    while rows := list(islice(records, max_records)):
        keys = np.array([record[:3] for record in rows], np.int32)
        yield Block(keys, np.stack([record.loads for record in rows]))


def _changed(loads: NDArray[np.int32], steps: Sequence[LoadStep]) -> NDArray[np.int32]:
    for change in steps:
        many = getattr(change, "many", None)
        loads = np.stack([change(one) for one in loads]) if many is None else many(loads)
    return np.ascontiguousarray(loads)
