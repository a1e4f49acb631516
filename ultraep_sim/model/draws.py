"""Draw every number that has a range anew, so that a result can be told with a band.

A draw is a number. Draw 0 is the nominal model; in draw k > 0 every `Quantity` with a range takes
a value of its own out of that range, the same wherever it is read. Half of the draws lie below
the nominal value and half above it, uniformly on either side: ranges are seldom symmetric, and
the nominal value is the best guess.

Numbers are drawn independently of each other, but for those of one fit: they say which standard
normal factors they share (`Quantity.shared`), and a draw of the factors moves the logarithms of all
of them, inside their ranges. So what a fit knows better than its parts (a sum, a product) stays so.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from .provenance import Quantity

_P = ParamSpec("_P")
_R = TypeVar("_R")

_NORMAL = NormalDist()
_FAR = 300.0  # of a logarithm: beyond any range, and still a number
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
    low, high = float(quantity.low or 0.0), float(quantity.high or 0.0)
    if quantity.shared:
        moved = sum(by * _NORMAL.inv_cdf(_uniform(f"{draw}|{f}")) for f, by in quantity.shared)
        factor = math.exp(min(max(moved, -_FAR), _FAR))
        return min(max(quantity.value * factor, low), high)
    text = f"{draw}|{quantity.unit}|{quantity.source}|{quantity.value!r}"
    at = _uniform(f"{text}|{quantity.low!r}|{quantity.high!r}")
    if at < 0.5:
        return low + (quantity.value - low) * 2 * at
    return quantity.value + (high - quantity.value) * (2 * at - 1)


def _uniform(text: str) -> float:
    """Return a number between 0 and 1, never either, that a text alone decides."""
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") + 0.5) / 2**48


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
