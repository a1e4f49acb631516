"""Side streams with events on a GPU; on the CPU the same calls in the same order, at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Lane:
    """A stream for transfers beside the one that computes.

    Work put into a lane starts after everything the current stream was given before, and after
    the events handed in. `join` makes the current stream wait for the lane. Nothing here ever
    waits on the host, so a CUDA graph can capture it.

    Parameters
    ----------
    device : torch.device
        Where the buffers are; on the CPU a lane does nothing but keep the order of calls.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._done: Any = None

    @contextmanager
    def run(self, *after: Any) -> Iterator[None]:
        """Run what is issued inside on the lane, behind the current stream and given events."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        for event in after:
            if event is not None:
                self._stream.wait_event(event)
        with torch.cuda.stream(self._stream):
            yield
        self._done = self._stream.record_event()

    def join(self) -> None:
        """Let the current stream wait for what the lane has been given so far."""
        if self._stream is not None and self._done is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._done)


def mark(device: torch.device) -> Any:
    """Record an event on the current stream; None on the CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.current_stream(device).record_event()
