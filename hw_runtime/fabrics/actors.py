"""Run many small programs in one thread, one step at a time, in an order drawn from a seed.

An actor is a generator. Between two steps it yields

- ``None``: it can go on whenever it is chosen;
- a `Wait`: it can go on once the condition holds;
- a `Start`: begin other actors beside it, then go on.

Steps are atomic, and nothing else is: whatever may happen between two memory accesses on a GPU
belongs into two steps. The seed makes an interleaving repeatable, and a group in which everybody
waits is an error that says who waits for what, not a dead lock.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import FabricError

MAX_SHOWN = 4


@dataclass(frozen=True)
class Wait:
    """Go on when ``ready()`` holds; ``what`` says in words what is waited for."""

    ready: Callable[[], bool]
    what: Callable[[], str]


@dataclass(frozen=True)
class Start:
    """Begin these actors."""

    actors: tuple[Actor, ...]


Step = Wait | Start | None
Actor = Generator[Step, None, None]


def play(actors: Iterable[Actor], order: np.random.Generator | None = None) -> int:
    """Run actors to their end.

    Parameters
    ----------
    actors : iterable of generators
    order : numpy.random.Generator, optional
        Draws who goes next; default in turn.

    Returns
    -------
    int
        Steps taken.

    Raises
    ------
    FabricError
        Everybody waits: the message names what for.
    """
    live: list[tuple[Actor, Wait | None]] = [(actor, None) for actor in actors]
    draws = _Draws(order)
    steps = 0
    while live:
        at = draws.below(len(live))
        for _ in range(len(live)):  # from there on, the first that can go on
            wait = live[at][1]
            if wait is None or wait.ready():
                break
            at = (at + 1) % len(live)
        else:
            raise FabricError(_hang([wait for _, wait in live if wait is not None]))
        steps += 1
        actor = live[at][0]
        try:
            step = next(actor)
        except StopIteration:
            live[at] = live[-1]
            live.pop()
            continue
        if isinstance(step, Start):
            live[at] = (actor, None)
            live.extend((new, None) for new in step.actors)
        else:
            live[at] = (actor, step)
    return steps


def _hang(waits: list[Wait]) -> str:
    shown = "; ".join(wait.what() for wait in waits[:MAX_SHOWN])
    more = f" (and {len(waits) - MAX_SHOWN} more)" if len(waits) > MAX_SHOWN else ""
    return f"the fabric hangs, all {len(waits)} actors wait: {shown}{more}"


class _Draws:
    """Random positions, drawn in blocks because single draws dominate otherwise."""

    def __init__(self, order: np.random.Generator | None) -> None:
        self._order = order
        self._block: list[float] = []
        self._turn = 0

    def below(self, count: int) -> int:
        if self._order is None:
            self._turn += 1
            return self._turn % count
        if not self._block:
            self._block = self._order.random(1024).tolist()
        return int(self._block.pop() * count)
