"""Which records of a trace a view keeps: half-open ranges over step, micro-batch and layer."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from math import gcd
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from .meta import TraceMeta


class Span(NamedTuple):
    """Values ``start, start + stride, ...`` below ``stop`` (None: no end)."""

    start: int
    stop: int | None
    stride: int


@dataclass(frozen=True)
class Selection:
    """All spans of an axis must hold; no span keeps everything."""

    steps: tuple[Span, ...] = ()
    micro_batches: tuple[Span, ...] = ()
    layers: tuple[Span, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps or self.micro_batches or self.layers)

    def narrowed(self, **spans: Span | None) -> Selection:
        """Return this selection with one more span on some axes."""
        return Selection(
            **{
                axis: getattr(self, axis) + ((span,) if span is not None else ())
                for axis, span in spans.items()
            }
        )

    def mask(self, keys: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of the keys [records, 3] are kept."""
        keep = np.ones(len(keys), dtype=np.bool_)
        for column, spans in enumerate((self.steps, self.micro_batches, self.layers)):
            values = keys[:, column]
            for start, stop, stride in spans:
                keep &= values >= start
                if stop is not None:
                    keep &= values < stop
                if stride > 1:
                    keep &= (values - start) % stride == 0
        return keep

    def may_hold_steps(self, first: int, last: int) -> bool:
        """Whether any step of ``first..last`` could be kept (for pruning)."""
        return all(last >= s.start and (s.stop is None or first < s.stop) for s in self.steps)


def parse_span(axis: str, value: slice | int | None) -> Span | None:
    """Read one argument of ``Trace.select``.

    Raises
    ------
    TraceError
        If it is no slice over values, or is negative or empty.
    """
    if value is None:
        return None
    if not isinstance(value, slice):
        start = _bound(axis, value)
        return Span(start, start + 1, 1)
    start = 0 if value.start is None else _bound(axis, value.start)
    stop = None if value.stop is None else _bound(axis, value.stop)
    stride = 1 if value.step is None else _bound(axis, value.step)
    if stride < 1 or (stop is not None and stop <= start):
        raise TraceError(
            f"the {axis} to select are an empty range",
            place=f"select({axis}=...)",
            value=value,
            remedy="give slice(first, past_last) with first < past_last",
        )
    return Span(start, stop, stride)


def describe_selection(meta: TraceMeta, spans: dict[str, Span | None]) -> TraceMeta:
    """Say in the metadata what a view left out.

    A contiguous window of steps is a shorter trace and goes to the notes; strides and
    dropped layers are gaps that a history policy must know of, and go to ``sampling``.
    """
    selected = dict(meta.notes.get("selected", {}))
    sampling = dict(meta.sampling)
    for axis, span in spans.items():
        if span is not None:
            given = {"first": span.start, "past_last": span.stop, "every": span.stride}
            selected[axis] = [*selected.get(axis, []), given]
    steps, layers = spans.get("steps"), spans.get("layers")
    if steps is not None and steps.stride > 1:
        every = int(sampling.get("step_every", 1))
        sampling["step_every"] = every * steps.stride // gcd(every, steps.stride)
    if layers is not None:
        kept = sampling.get("layers", range(meta.num_layers))
        inside = range(layers.start, meta.num_layers, layers.stride)
        stop = meta.num_layers if layers.stop is None else layers.stop
        left = [int(x) for x in kept if x in inside and x < stop]
        if len(left) < meta.num_layers:
            sampling["layers"] = left
    return meta.replace(sampling=sampling, notes={**meta.notes, "selected": selected})


def _bound(axis: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0 or isinstance(value, bool):
        raise TraceError(
            f"{axis} are selected by their values, from 0",
            place=f"select({axis}=...)",
            value=value,
            remedy="give slice(first, past_last) of values, or one value",
        )
    return number
