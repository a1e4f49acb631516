"""Reading ahead keeps order, errors and their places, and leaves no thread behind."""

import threading

import pytest

from ultraep_sim.errors import TraceError
from ultraep_sim.trace.ahead import read_ahead


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_order_is_kept_and_the_queue_is_bounded():
    made = []

    def numbers():
        for n in range(50):
            made.append(n)
            yield n

    for n in read_ahead(numbers(), depth=2):
        assert len(made) <= n + 4  # this one, two held, one being made
    assert made == list(range(50))
    assert not threads()


def test_an_error_comes_where_it_happened_as_it_was():
    error = TraceError("bad", place="row 3")

    def numbers():
        yield from range(3)
        raise error

    seen = []
    with pytest.raises(TraceError) as found:
        seen.extend(read_ahead(numbers()))
    assert found.value is error
    assert not threads()


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ValueError])
def test_leaving_early_ends_the_thread_and_closes_the_iterator(reason):
    closed = []

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    ahead = read_ahead(endless())

    def use():
        for _ in ahead:
            raise reason

    with pytest.raises(reason):
        use()
    ahead.close()
    assert closed == [True]
    assert not threads()
