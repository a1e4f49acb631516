"""Single-server and many-server limits of the server against closed forms of queueing theory.

One rank, a budget of one token and prompts of one token make the server a single-server queue: a
step is a service. Against Lindley's recursion it must agree request by request; against the closed
forms within four standard errors of the mean of independent runs.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.serving.helpers import serve
from ultraep_sim.serving.metrics import mean_in_system

RUNS, REQUESTS, WARM = 12, 1500, 200


def lindley(arrival_s: np.ndarray, service_s: np.ndarray) -> np.ndarray:
    """When each request leaves a single server that takes them in order."""
    end, out = 0.0, []
    for at, takes in zip(arrival_s, service_s, strict=True):
        end = max(at, end) + takes
        out.append(end)
    return np.asarray(out)


def stays(load: float, law: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean stay, and mean number in the system, of each of RUNS runs; the mean service is 1."""
    found = []
    for seed in range(RUNS):
        rng = np.random.default_rng([seed, 3])
        arrival_s = np.cumsum(rng.exponential(1 / load, REQUESTS))
        service_s = rng.exponential(1.0, REQUESTS) if law == "M" else np.ones(REQUESTS)
        ran = serve(arrival_s, 1, seconds=lambda _, s, times=service_s: times[s.request[0]])
        assert ran.service.end_s == pytest.approx(lindley(arrival_s, service_s), rel=1e-12)
        stay = (ran.service.end_s - arrival_s)[WARM:].mean()
        span = arrival_s[WARM], arrival_s[-1]
        found.append((stay, mean_in_system(arrival_s, ran.service, *span)))
    return tuple(np.asarray(found).T)


@pytest.mark.parametrize("load", [0.3, 0.6])
@pytest.mark.parametrize(("law", "half"), [("M", 1.0), ("D", 0.5)])
def test_poisson_arrivals_at_a_single_server(load, law, half) -> None:  # type: ignore[no-untyped-def]
    """Pollaczek-Khinchine: the wait is load / (1 - load) times (1 + variance) / 2."""
    closed = 1.0 + half * load / (1.0 - load)
    stay, number = stays(load, law)
    error = stay.std(ddof=1) / np.sqrt(RUNS)
    assert error < 0.05 * closed  # or the bound would hold for anything
    assert abs(stay.mean() - closed) < 4 * error
    # Little's law: the number in the system is the rate times the stay.
    error = number.std(ddof=1) / np.sqrt(RUNS)
    assert abs(number.mean() - load * closed) < 4 * error


def test_regular_arrivals_at_a_regular_server_never_wait() -> None:
    """D/D/1 below its capacity; at 5/4 of it the wait grows by a quarter of a service each."""
    times = np.arange(64.0)
    easy = serve(times, 1, seconds=1.0).service
    assert (easy.end_s - times).tolist() == [1.0] * 64
    assert easy.began_s.tolist() == times.tolist()
    hard = serve(times, 1, seconds=1.25).service
    assert (hard.end_s - times).tolist() == [1.25 + 0.25 * i for i in range(64)]


def test_a_chunked_prompt_takes_as_many_services_as_it_has_chunks() -> None:
    """D/D/1 of prompts of 10 tokens and a budget of 4: three steps each, the last with 2."""
    times = 3.0 * np.arange(20)
    ran = serve(times, 10, token_budget=4, seconds=1.0)
    assert (ran.service.end_s - times).tolist() == [3.0] * 20
    assert [s.total for s in ran.steps] == [4, 4, 2] * 20


@pytest.mark.parametrize("ranks", [2, 5])
def test_round_robin_ranks_are_queues_in_lock_step(ranks) -> None:  # type: ignore[no-untyped-def]
    """One arrival a service and rank: every step has one of each rank, and nobody waits for long.

    R requests at once, one step later the next R: the system is D/D/1 of batches.
    """
    times = np.repeat(np.arange(30.0), ranks)
    ran = serve(times, 1, ranks=ranks, router="round_robin", seconds=1.0)
    assert (ran.service.end_s - times).tolist() == [1.0] * len(times)
    assert all(step.rank.tolist() == list(range(ranks)) for step in ran.steps)


def test_a_batch_of_many_ranks_is_a_bulk_queue() -> None:
    """Ranks of lock-step service s, overloaded: each serves one a step, R / s in all."""
    ranks, count = 4, 401
    ran = serve(np.zeros(count), 1, ranks=ranks, router="round_robin", seconds=0.5)
    assert ran.service.stopped_s == 0.5 * -(-count // ranks)
    assert ran.service.end_s.tolist() == [0.5 * (1 + i // ranks) for i in range(count)]
