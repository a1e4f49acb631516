"""Draw every number that has a range anew, so that a result can be told with a band.

A draw is a number. Draw 0 is the nominal model; in draw k > 0 every `Quantity` with a range takes
a value of its own out of that range, the same wherever it is read. Half of the draws lie below
the nominal value and half above it, uniformly on either side: ranges are seldom symmetric, and
the nominal value is the best guess. Numbers are drawn independently of each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from .provenance import Quantity

_P = ParamSpec("_P")
_R = TypeVar("_R")

_DRAW: ContextVar[tuple[int, dict[Quantity, float]] | None] = ContextVar("draw", default=None)


@contextmanager
def drawn(draw: int) -> Iterator[dict[Quantity, float]]:
    """Let numbers with a range take the values of a draw in this context.

    Parameters
    ----------
    draw : int
        0 for the nominal values.

    Yields
    ------
    dict of Quantity to float
        Fills with what was read, in each quantity's own unit: what the result rests on.
    """
    read: dict[Quantity, float] = {}
    token = _DRAW.set((draw, read) if draw else None)
    try:
        yield read
    finally:
        _DRAW.reset(token)


def value_now(quantity: Quantity) -> float:
    """Return a quantity's value in the running draw, in its own unit."""
    now = _DRAW.get()
    if now is None or quantity.low is None or quantity.low == quantity.high:
        return quantity.value
    draw, read = now
    if quantity not in read:
        read[quantity] = _value(quantity, draw)
    return read[quantity]


@lru_cache(maxsize=4096)
def _value(quantity: Quantity, draw: int) -> float:
    text = f"{draw}|{quantity.unit}|{quantity.source}|{quantity.value!r}"
    text += f"|{quantity.low!r}|{quantity.high!r}"
    at = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    low, high = float(quantity.low or 0.0), float(quantity.high or 0.0)
    if at < 0.5:
        return low + (quantity.value - low) * 2 * at
    return quantity.value + (high - quantity.value) * (2 * at - 1)


def under_draw(
    function: Callable[Concatenate[Any, _P], _R],
) -> Callable[Concatenate[Any, _P], _R]:
    """Run a function of a scenario in the scenario's draw."""

    @wraps(function)
    def wrapped(scenario: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        now = _DRAW.get()
        if now is not None and now[0] == scenario.draw:
            return function(scenario, *args, **kwargs)  # the caller is watching this draw
        with drawn(scenario.draw):
            return function(scenario, *args, **kwargs)

    return wrapped
