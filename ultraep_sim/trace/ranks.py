"""A view of some source ranks of a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from .container import Trace
from .selection import parse_span


@dataclass(frozen=True)
class KeepRanks:
    """Keeps some source rows of a load matrix."""

    rows: tuple[int, ...]

    def __call__(self, loads: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the kept rows."""
        return np.ascontiguousarray(loads[list(self.rows)])


def select_ranks(trace: Trace, ranks: slice | int) -> Trace:
    """Return the trace of the source ranks in a slice; ``meta.sampling["ranks"]`` names them.

    Parameters
    ----------
    trace : Trace
    ranks : slice or int
        As in `Trace.select`, over the rows the trace has.

    Raises
    ------
    TraceError
        If no rank is left, or the source is unknown.
    """
    meta = trace.meta
    span = parse_span("ranks", ranks)
    assert span is not None  # noqa: S101  # only None gives None
    stop = meta.source_ranks if span.stop is None else min(span.stop, meta.source_ranks)
    rows = tuple(range(span.start, stop, span.stride))
    if not rows or meta.source_ranks == 1:
        raise TraceError(
            f"no such source ranks, the trace has {meta.source_ranks}",
            place="ranks",
            value=f"{span.start}:{span.stop}:{span.stride}",
            remedy="a single row is the sum of all ranks and cannot be cut"
            if meta.source_ranks == 1
            else f"give a part of 0:{meta.source_ranks}",
        )
    numbers: list[Any] = meta.sampling.get("ranks", list(range(meta.source_ranks)))
    sampling = {**meta.sampling, "ranks": [numbers[row] for row in rows]}
    return trace.changed_by(
        meta.replace(source_ranks=len(rows), sampling=sampling), KeepRanks(rows)
    )
