"""A trace in other global batches: consecutive micro-batches counted as one step.

Recorders often write every micro-batch as a step of its own, and balancers that place by history
then re-plan on single micro-batches. A training iteration runs several of them between two
optimizer steps; this view says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from .meta import TraceMeta
from .selection import Selection, Span

if TYPE_CHECKING:
    from .container import Record, Trace

Places = dict[tuple[int, int], tuple[int, int]]


def regrouped(trace: Trace, micro_batches: int) -> Trace:
    """Return the trace with ``micro_batches`` micro-batches in every step.

    Where the trace has M micro-batches a step, they are taken in order, step after step, and
    every ``micro_batches`` of them become one step, numbered from 0. Either M divides
    ``micro_batches`` (whole steps are joined) or ``micro_batches`` divides M (steps are cut);
    anything else would make batches that straddle two optimizer steps in part. What is left over
    at the end is dropped. A gap in the steps (beyond the trace's own sampling) ends a group and
    leaves a gap in the new numbers, so that no history reaches across it.

    Parameters
    ----------
    trace : Trace
        With the same micro-batches in every step.
    micro_batches : int
        Micro-batches of a step afterwards.

    Returns
    -------
    Trace
        A view. ``meta.notes["regrouped"]`` says what became what, and how much was dropped.

    Raises
    ------
    TraceError
        If the number is not positive, does not fit the trace's, or leaves nothing.
    """
    _check_count(micro_batches)
    pairs = np.unique(trace.keys()[:, :2], axis=0)
    have = _micro_batches_of(pairs)
    if micro_batches % have and have % micro_batches:
        raise _refused(
            f"the trace has {have} micro-batches a step",
            micro_batches,
            f"give a multiple or a divisor of {have}",
        )
    every = int(trace.meta.sampling.get("step_every", 1))
    places = _places(pairs, have, micro_batches, every)
    if not places:
        raise _refused(f"only {len(pairs)} micro-batches are there", micro_batches, "give fewer")
    meta = _meta(trace.meta, places, have, micro_batches, len(pairs) - len(places))
    return type(trace)(RegroupedSource(trace, meta, places), meta)


@dataclass(frozen=True, eq=False)
class RegroupedSource:
    """Records of another trace under new steps and micro-batches.

    Attributes
    ----------
    base : Trace
    meta : TraceMeta
    places : dict
        From (step, micro-batch) of ``base`` to those of this source, both ascending; what is not
        in it is dropped.
    """

    base: Trace
    meta: TraceMeta
    places: Places

    def keys(self) -> NDArray[np.int32]:
        """Return step, micro-batch and layer of every record."""
        keys = self.base.keys()
        new = [self.places.get(pair) for pair in zip(*keys[:, :2].T.tolist(), strict=True)]
        kept = np.array([at is not None for at in new], dtype=np.bool_)
        found = keys[kept]
        found[:, :2] = [at for at in new if at is not None]
        return found

    def count(self) -> int:
        """Return the number of records."""
        return len(self.keys())

    def digest(self) -> str:
        """Return the digest of what the records come from, as all views do."""
        return self.base.digest

    def records(self, selection: Selection) -> Iterator[Record]:
        """Yield the selected records, reading only the steps and layers they are in."""
        steps = [
            old[0]
            for old, new in self.places.items()
            if replace(selection, layers=()).mask(np.array([[*new, 0]], dtype=np.int32))[0]
        ]
        if not steps:
            return
        inner = self.base._selection
        wanted = replace(
            inner,
            steps=(*inner.steps, Span(steps[0], steps[-1] + 1, 1)),
            layers=inner.layers + selection.layers,
        )
        for record in replace(self.base, _selection=wanted):
            place = self.places.get((record.step, record.micro_batch))
            if place is None:
                continue
            if selection.mask(np.array([[*place, record.layer]], dtype=np.int32))[0]:
                yield record._replace(step=place[0], micro_batch=place[1])


def _places(pairs: NDArray[np.int32], have: int, want: int, every: int) -> Places:
    """Give every (step, micro-batch) its new place, run by run of steps without a gap."""
    steps = pairs[::have, 0]
    starts = np.flatnonzero(np.diff(steps, prepend=steps[0] - every) != every) * have
    found: Places = {}
    first = 0
    for begin, end in zip([0, *starts.tolist()], [*starts.tolist(), len(pairs)], strict=True):
        groups = (end - begin) // want
        for i, (step, micro_batch) in enumerate(pairs[begin : begin + groups * want].tolist()):
            found[step, micro_batch] = (first + i // want, i % want)
        # One more than the sampling leaves out is a gap to a replay.
        first += groups + every if groups else 0
    return found


def _micro_batches_of(pairs: NDArray[np.int32]) -> int:
    """Return how many micro-batches every step has."""
    counts = np.unique(pairs[:, 0], return_counts=True)[1]
    if not len(counts):
        raise _refused("the trace has no records", 0, "select some")
    if counts.min() != counts.max():
        raise _refused(
            "the steps have different numbers of micro-batches",
            [int(counts.min()), int(counts.max())],
            "select the micro-batches that every step has",
        )
    return int(counts[0])


def _meta(meta: TraceMeta, places: Places, have: int, want: int, dropped: int) -> TraceMeta:
    """Say what became what; the sampling is told in the new steps."""
    note = {"micro_batches": want, "from": have, "dropped": dropped}
    sampling = dict(meta.sampling)
    if "steps" in sampling:
        steps = sorted({new[0] for new in places.values()})
        windows: list[list[int]] = []
        for step in steps:
            if not windows or step != windows[-1][1]:
                windows.append([step, step])
            windows[-1][1] = step + 1
        sampling["steps"] = windows
    return meta.replace(sampling=sampling).with_note("regrouped", note)


def _check_count(micro_batches: object) -> None:
    whole = isinstance(micro_batches, int) and not isinstance(micro_batches, bool)
    if not whole or micro_batches < 1:  # type: ignore[operator]  # `whole` says it is a number
        raise _refused("not a positive number of micro-batches", micro_batches, "give 1 or more")


def _refused(problem: str, value: object, remedy: str) -> TraceError:
    return TraceError(problem, place="regrouped(micro_batches=...)", value=value, remedy=remedy)
