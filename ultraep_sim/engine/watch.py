"""Replay a trace through policies for the eye alone: loads of ranks and experts, no times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..planning import EPLayout, Plan
from ..policies import get_policy
from ..trace import Record, Trace
from .load_view import BEFORE, Away, LoadView, LoadViewBuilder, Rows, away_of
from .replay import Chunk, PolicyReplay, replay

# Counts of tiles are not looked at here.
_TILE_ROWS = 128


def watch_trace(
    trace: Trace,
    layout: EPLayout,
    policies: Sequence[str],
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> LoadView:
    """Replay a trace through policies and keep what a reader of load looks at.

    Parameters
    ----------
    trace : Trace
        With records; its sources become the layout's ranks as `Trace.with_sources` says.
    layout : EPLayout
    policies : sequence of str
        Names; ``none`` is always there, as `BEFORE`.
    progress : callable, optional
        Called as ``progress(what, done, total)`` after each record.

    Returns
    -------
    LoadView

    Raises
    ------
    UltraEPSimError
        If the trace cannot be read, or a policy is unknown or cannot plan it.
    """
    keys = trace.keys()
    labels = [name for name in dict.fromkeys(policies) if name != "none"]
    contenders = [BEFORE, *labels]
    view = LoadViewBuilder(
        keys, contenders, [True] * len(contenders), layout.num_ranks, layout.home
    )
    gathered = _Gathered(contenders, layout, view)
    replays = [
        PolicyReplay(
            label,
            get_policy("none" if label == BEFORE else label, layout),
            _TILE_ROWS,
            on_plan=gathered.of(label),
        )
        for label in contenders
    ]
    done = 0

    def on_record() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("replaying", done, len(keys))

    replay(
        gathered.reading(trace.with_sources(layout.num_ranks)),
        replays,
        gathered.take,
        step_every=int(trace.meta.sampling.get("step_every", 1)),
        on_record=on_record,
    )
    return view.finish()


class _Gathered:
    """One buffer of records, as the replay hands it over contender by contender."""

    def __init__(self, contenders: list[str], layout: EPLayout, view: LoadViewBuilder) -> None:
        self._contenders, self._layout, self._view = contenders, layout, view
        self._chunks: list[Rows] = []
        self._loads: list[NDArray[np.int64]] = []
        self._away: dict[str, list[Away | None]] = {label: [] for label in contenders}

    def reading(self, records: Trace) -> Iterator[Record]:
        """Pass the records on, and note their expert loads."""
        for record in records:
            self._loads.append(record.loads.sum(axis=0, dtype=np.int64))
            yield record

    def of(self, label: str) -> Callable[[Plan], None]:
        """Return what notes the plans of one contender."""
        plans = self._away[label]
        return lambda plan: plans.append(away_of(plan))

    def take(self, chunk: Chunk) -> None:
        """Take one contender's records; with the last contender's they go into the view."""
        pairs = chunk.stats.pairs.copy()
        total = pairs.sum(axis=1)
        peak = pairs.max(axis=1) * float(self._layout.num_ranks)
        imbalance = np.divide(peak, total, out=np.ones(len(total)), where=total > 0)
        self._chunks.append(Rows(imbalance, pairs, chunk.warm.copy(), None, []))
        if len(self._chunks) < len(self._contenders):
            return
        self._view.add(
            Rows(
                np.stack([part.imbalance for part in self._chunks]),
                np.stack([part.pairs for part in self._chunks]),
                np.logical_and.reduce([part.warm for part in self._chunks]),
                np.stack(self._loads),
                [self._away[label] for label in self._contenders],
            )
        )
        self._chunks.clear()
        self._loads.clear()
        for plans in self._away.values():
            plans.clear()
