"""The server by hand: chunks, budget, continuous batching, memory, impatience, refusal, routers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.serving.helpers import serve
from ultraep_sim.serving.server import (
    CANCELLED,
    PENDING,
    REFUSED,
    SERVED,
    TIMED_OUT,
    TOO_LONG,
)


def test_the_last_prompt_is_cut_where_the_budget_ends() -> None:
    ran = serve([0, 0, 0], [6, 3, 1], token_budget=4)
    assert ran.rows() == [[(0, 0, 4)], [(0, 0, 2), (0, 1, 2)], [(0, 1, 1), (0, 2, 1)]]
    assert [s.start.tolist() for s in ran.steps] == [[0], [4, 0], [2, 0]]
    assert [s.last.tolist() for s in ran.steps] == [[False], [True, False], [True, True]]
    assert ran.service.end_s.tolist() == [2, 3, 3]
    assert ran.service.waiting.tolist() == [2, 1, 0]


def test_two_ranks_step_together() -> None:
    """The rank that has little to do begins its next request when the other has finished."""
    seconds = [2.0, 1.0, 4.0]
    ran = serve(
        [0, 0, 1, 3],
        [3, 1, 1, 2],
        ranks=2,
        token_budget=2,
        router="round_robin",
        seconds=lambda step, _: seconds[step],
    )
    # 2 arrives in the first step and goes to rank 0, where 1 of the budget is left in the second.
    # 3 arrives as the second ends: in time for the third or not, it is served by the third.
    assert ran.rows() == [[(0, 0, 2), (1, 1, 1)], [(0, 0, 1), (0, 2, 1)], [(1, 3, 2)]]
    assert ran.service.end_s.tolist() == [3, 2, 3, 7]
    assert ran.service.began_s.tolist() == [0, 2, 3]
    assert ran.service.rank.tolist() == [0, 1, 0, 1]
    assert ran.service.stopped_s == 7


def test_a_cached_prefix_is_not_computed_but_fills_the_cache() -> None:
    ran = serve([0, 0], [6, 5], cached=[4, 0], token_budget=8, kv_tokens=10)
    assert [s.start.tolist() for s in ran.steps] == [[4], [0]]  # 6 + 5 tokens do not fit at once
    assert ran.service.computed.tolist() == [2, 5]


def test_memory_holds_back_what_does_not_fit_and_nothing_overtakes() -> None:
    ran = serve([0, 0, 0], [6, 4, 1], token_budget=4, kv_tokens=8)
    # In the second step 2 of the budget are left, but 6 of 8 tokens of the cache are taken.
    # Request 2 would fit, and waits behind request 1.
    assert ran.rows() == [[(0, 0, 4)], [(0, 0, 2)], [(0, 1, 4)], [(0, 2, 1)]]
    assert ran.server.kv_used == [0]


def test_a_prompt_longer_than_the_cache_is_turned_away() -> None:
    service = serve([0, 1], [9, 8], token_budget=16, kv_tokens=8).service
    assert service.outcome.tolist() == [TOO_LONG, SERVED]
    assert service.rank.tolist() == [-1, 0]
    assert service.end_s.tolist() == [0, 2]


def test_a_full_system_refuses_and_room_is_made_by_whoever_leaves() -> None:
    ran = serve([0, 0, 0, 1.5], [1, 1, 1, 1], max_queue=2)
    assert ran.service.outcome.tolist() == [SERVED, SERVED, REFUSED, SERVED]
    assert ran.service.end_s.tolist() == [1, 2, 0, 3]
    assert ran.service.computed.tolist() == [1, 1, 0, 1]


def test_time_outs_in_the_queue_and_in_the_middle_of_a_prefill() -> None:
    """Request 0 wants 5 steps and has time for 3.5: the fourth is in vain, the fifth never runs.

    Request 1 waits behind it until its own time is up. Request 2 arrives later; its turn comes at
    4, as soon as the step that was in vain has ended.
    """
    ran = serve([0, 0, 2.25], [5, 1, 1], timeout_s=3.5, kv_tokens=5)
    assert ran.service.outcome.tolist() == [TIMED_OUT, TIMED_OUT, SERVED]
    assert ran.service.end_s.tolist() == [3.5, 3.5, 5.0]
    assert ran.service.computed.tolist() == [4, 0, 1]
    assert ran.server.kv_used == [0]
    assert ran.server.backlog.tolist() == [0]


def test_cancelled_midway_counts_what_was_computed_in_vain() -> None:
    ran = serve([0, 0], [5, 2], patience_s=[1.5, np.inf], token_budget=2)
    assert ran.service.outcome.tolist() == [CANCELLED, SERVED]
    assert ran.service.end_s.tolist() == [1.5, 3.0]
    assert ran.service.computed.tolist() == [4, 2]


def test_cancelled_in_the_step_that_would_have_served_it() -> None:
    ran = serve([0], [2], patience_s=[1.5], kv_tokens=2)
    assert ran.service.outcome.tolist() == [CANCELLED]
    assert ran.service.computed.tolist() == [2]
    assert ran.server.kv_used == [0]
    assert ran.service.stopped_s == 2.0


def test_the_first_to_lose_patience_decides() -> None:
    ran = serve([0, 0, 0], [9, 1, 1], patience_s=[4, 5, 2], timeout_s=3.0)
    assert ran.service.outcome.tolist() == [TIMED_OUT, TIMED_OUT, CANCELLED]
    assert ran.service.end_s.tolist() == [3, 3, 2]


def test_who_has_no_patience_at_all_is_never_computed() -> None:
    ran = serve([1.0], [3], patience_s=[0.0])
    assert ran.steps == []
    assert ran.service.outcome.tolist() == [CANCELLED]
    assert ran.service.end_s.tolist() == [1.0]


def test_what_arrives_at_once_is_in_one_step_whatever_the_clock_rounds() -> None:
    """0.1 + (0.35 - 0.1) is not 0.35: neither the clock nor the server may make two times of it."""
    for at in np.random.default_rng(0).uniform(0.2, 3.0, 200):
        ran = serve([0.1, at, at, at], 1, token_budget=4, seconds=0.01)
        assert [len(step) for step in ran.steps] == [1, 3]


def test_nobody_leaves_before_coming() -> None:
    times = np.sort(np.random.default_rng(0).uniform(0.0, 3.0, 400))
    service = serve(times, 1, seconds=0.5, max_queue=1).service
    assert (service.outcome == REFUSED).sum() > 300
    assert (service.end_s >= times).all()


def test_no_requests_no_steps() -> None:
    service = serve([], []).service
    assert len(service.outcome) == len(service.began_s) == 0
    assert service.stopped_s == 0.0
    assert not service.stopped_early


def test_a_watch_stops_the_run() -> None:
    ran = serve([0, 0, 9], 1, watch=lambda server: server.env.now >= 1)
    assert ran.service.stopped_early
    assert ran.service.stopped_s == 1.0
    assert ran.service.outcome.tolist() == [SERVED, PENDING, PENDING]
    assert np.isnan(ran.service.end_s[1:]).all()


def test_round_robin_goes_round() -> None:
    assert serve([0] * 7, 1, ranks=3, router="round_robin").service.rank.tolist() == [
        0, 1, 2, 0, 1, 2, 0,
    ]  # fmt: skip


def test_least_tokens_spreads_and_its_ties_go_round() -> None:
    equal = serve([0] * 6, 5, ranks=3, token_budget=5)
    assert equal.service.rank.tolist() == [0, 1, 2, 0, 1, 2]
    # 9 | 1 | 1 -> the next two go where 1 is, from the one after the last choice on.
    uneven = serve([0] * 6, [9, 1, 1, 2, 2, 9], ranks=3, token_budget=9)
    assert uneven.service.rank.tolist() == [0, 1, 2, 1, 2, 1]
    # When the first three are served ties go on behind the last choice: not to rank 0 again.
    later = serve([0, 0, 0, 0, 5], 1, ranks=3)
    assert later.service.rank.tolist() == [0, 1, 2, 0, 1]


def test_least_tokens_knows_what_is_cached_computed_and_given_up() -> None:
    cached = serve([0, 0, 0], [8, 5, 1], cached=[6, 0, 0], ranks=2, token_budget=8)
    assert cached.service.rank.tolist() == [0, 1, 0]  # 2 | 5
    # At 1.5 three of four tokens of request 0 are left (2 | 3 after the one that runs): rank 0.
    computed = serve([0, 0, 1.5], [4, 4, 1], ranks=2, seconds=1.0, patience_s=[np.inf, 0.5, np.inf])
    assert computed.service.rank.tolist() == [0, 1, 1]  # 3 | nothing, its request has left


def test_a_random_router_is_fair_and_repeats() -> None:
    run = lambda seed: serve(np.arange(400.0), 1, ranks=4, router="random", seed=seed)  # noqa: E731
    ranks = [run(7).service.rank, run(7).service.rank]
    assert (ranks[0] == ranks[1]).all()
    assert np.bincount(ranks[0], minlength=4) == pytest.approx(100, abs=35)
    other = serve(np.arange(400.0), 1, ranks=4, router="random", seed=8).service.rank
    assert (other != ranks[0]).any()


def test_a_random_router_sends_a_request_where_it_would_without_refusals() -> None:
    every = serve(np.arange(100) * 0.1, 1, ranks=4, router="random").service
    some = serve(np.arange(100) * 0.1, 1, ranks=4, router="random", max_queue=2).service
    taken = some.rank >= 0
    assert 10 < taken.sum() < 90
    assert (some.rank[taken] == every.rank[taken]).all()
