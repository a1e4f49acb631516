"""Read ahead: the next items of an iterator are made in a thread while the last one is used.

Worth it where making an item waits for a disk or runs code that lets other threads run (Parquet
decoding, NumPy on large arrays, kernels compiled with ``nogil``).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.05


def read_ahead(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Yield the items in order, at most ``depth`` of them made before they are asked for.

    An error of the iterator is raised where its item would have come, as it was. When the
    generator is closed, or what uses it fails, the thread ends and is joined.

    Parameters
    ----------
    items : iterable
        Used by the thread alone from now on.
    depth : int
        Items held beside the one being made.
    """
    ahead = _Ahead(items, depth)
    ahead.thread.start()
    try:
        while True:
            item, error, last = ahead.queue.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]  # only the last has none
            del item
    finally:
        ahead.stop()


class _Ahead(Generic[T]):
    """The thread, and the queue it fills with (item, error, whether it was the last)."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self.queue: Queue[tuple[T | None, BaseException | None, bool]] = Queue(depth)
        self._items = items
        self._stopped = Event()
        # A daemon: should the process be told to die meanwhile, it need not wait for the disk.
        self.thread = Thread(target=self._work, name="read-ahead", daemon=True)

    def stop(self) -> None:
        """End the thread, wherever it is, and wait for it."""
        self._stopped.set()
        while self.thread.is_alive():
            try:
                self.queue.get_nowait()
            except Empty:
                self.thread.join(_POLL_S)

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                if not self._put((item, None, False)):
                    break
        except BaseException as found:  # handed to the thread that asked for the item
            error = found
        finally:
            if isinstance(self._items, Generator):
                self._items.close()
        self._put((None, error, True))

    def _put(self, entry: tuple[T | None, BaseException | None, bool]) -> bool:
        while not self._stopped.is_set():
            try:
                self.queue.put(entry, timeout=_POLL_S)
            except Full:
                continue
            return True
        return False
