"""One pass over a dump: what every check looks at, in memory that does not grow with the counts.

Per record its key and sums are kept (a few numbers), per layer a few vectors of experts.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..formats.dump import Dump, DumpMeta, Observed, RawRecord

_IDLE_TOKENS = 4  # so many tokens to the same experts are no chance


@dataclass
class LayerSurvey:
    """Vectors of one layer over its records that hold tokens."""

    floor: NDArray[np.int64]
    total: NDArray[np.int64]
    records: int = 0


@dataclass
class Survey:
    """What one pass saw.

    Attributes
    ----------
    meta : DumpMeta
    keys : ndarray of int64, shape [records, 3]
        In the order of the dump.
    totals : ndarray of int64, shape [records]
    layers : dict of int to LayerSurvey
    tokens : Counter
        How often a row had so many pairs.
    common : int
        Greatest common divisor of all counts.
    entries : int
        Counts above 0, up to a few thousand.
    odd_rows, crowded_rows, negative : int
        Rows whose sum top-k does not divide; rows in which an expert has more pairs than there are
        tokens; entries below 0.
    idle : Counter of (step, micro-batch, source)
        Layers in which all tokens of a source went to the same experts.
    row_crc : list of int
        Checksum of all rows of a source.
    row_total : ndarray of int64, shape [sources]
    rows_differ : set of (step, micro-batch)
        Where a source's sum differs between layers that stand together.
    observed : Counter
        What the reader told.
    """

    meta: DumpMeta
    keys: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 3), np.int64))
    totals: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    layers: dict[int, LayerSurvey] = field(default_factory=dict)
    tokens: Counter[int] = field(default_factory=Counter)
    common: int = 0
    entries: int = 0
    odd_rows: int = 0
    crowded_rows: int = 0
    negative: int = 0
    idle: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    row_crc: list[int] = field(default_factory=list)
    row_total: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    rows_differ: set[tuple[int, int]] = field(default_factory=set)
    observed: Observed = field(default_factory=Counter)
    _last: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def add(self, record: RawRecord) -> None:
        """Take one record."""
        loads = record.loads
        sums = loads.sum(axis=1)
        counts = loads.sum(axis=0)
        self._shares(record, loads, sums)
        batch = (record.step, record.micro_batch)
        if sums.any():  # a record without tokens is another disease
            same = self._last is not None and self._last[0] == batch
            if same and self._last is not None and (self._last[1] != sums).any():
                self.rows_differ.add(batch)
            self._last = (batch, sums)
        layer = self.layers.get(record.layer)
        if layer is None:
            unseen = np.full(len(counts), np.iinfo(np.int64).max)
            layer = self.layers[record.layer] = LayerSurvey(unseen, np.zeros_like(counts))
        if counts.any():
            np.minimum(layer.floor, counts, out=layer.floor)
            layer.total += counts
            layer.records += 1

    def _shares(self, record: RawRecord, loads: NDArray[np.int64], sums: NDArray[np.int64]) -> None:
        """Look at the rows of a record."""
        top_k = self.meta.top_k
        self.negative += int((loads < 0).sum())
        if self.common != 1:
            self.common = int(np.gcd(self.common, np.gcd.reduce(loads, axis=None)))
        if self.entries < 4096:
            self.entries += int(np.count_nonzero(loads))
        self.tokens.update(sums[sums > 0].tolist())
        self.row_total += sums
        if len(sums) > 1:
            for at, row in enumerate(loads):
                self.row_crc[at] = zlib.crc32(row.tobytes(), self.row_crc[at])
        if top_k is None:
            return
        self.odd_rows += int((sums % top_k != 0).sum())
        most = loads.max(axis=1) * top_k
        self.crowded_rows += int((most > sums).sum())
        if loads.shape[1] > top_k and len(sums) > 1:
            # k experts that all tokens took, and no other.
            filled = (most == sums) & (sums >= _IDLE_TOKENS * top_k)
            filled &= np.count_nonzero(loads, axis=1) == top_k
            for source in np.flatnonzero(filled).tolist():
                self.idle[record.step, record.micro_batch, source] += 1


def survey(dump: Dump) -> Survey:
    """Read a dump once.

    Raises
    ------
    TraceError
        If its file is damaged.
    """
    seen = Survey(dump.meta)
    seen.row_crc = [0] * dump.meta.source_ranks
    seen.row_total = np.zeros(dump.meta.source_ranks, np.int64)
    keys: list[tuple[int, int, int]] = []
    totals: list[int] = []
    for record in dump.records(seen.observed):
        seen.add(record)
        keys.append(record[:3])
        totals.append(int(record.loads.sum()))
    seen.keys = np.array(keys, dtype=np.int64).reshape(-1, 3)
    seen.totals = np.array(totals, dtype=np.int64)
    return seen
