"""What processes wait for: each other, a flag, a message on its way."""

from __future__ import annotations

from collections.abc import Callable

from simpy import Environment, Event


class Barrier:
    """Counts arrivals; the last one does what everybody waited for.

    `arrive` is the callback of whatever ends an arrival (a timeout), so that no process need wake
    only to say that it is there: a kernel costs one event, and a step one more for all its ranks.

    Parameters
    ----------
    then : callable
        Called by the last arrival.
    parties : int
        Arrivals still missing; `expect` sets it anew.
    """

    __slots__ = ("_left", "_then")

    def __init__(self, then: Callable[[], object], parties: int = 0) -> None:
        self._then = then
        self._left = parties

    def expect(self, parties: int) -> None:
        """Wait for that many arrivals, 1 or more."""
        self._left = parties

    def arrive(self, _event: Event | None = None) -> None:
        """Count one arrival."""
        self._left -= 1
        if not self._left:
            self._then()


class Flag:
    """Something that happens once; an event only if somebody already waits for it."""

    __slots__ = ("_event", "raised")

    def __init__(self) -> None:
        self.raised = False
        self._event: Event | None = None

    def wait(self, env: Environment) -> Event:
        """Return the event of an unraised flag."""
        if self._event is None:
            self._event = env.event()
        return self._event

    def set(self) -> int:
        """Raise the flag; return how many events that makes, 0 or 1."""
        self.raised = True
        if self._event is None:
            return 0
        self._event.succeed()
        return 1


class Arrival(Event):
    """A message that may be waited for before it is sent."""

    def send(self, delay: float) -> None:
        """Let it arrive after `delay` seconds, as a `simpy.Timeout` does from its making on."""
        self._ok = True
        self._value = None
        self.env.schedule(self, delay=delay)
