"""What holds for every server and all requests, drawn by hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.helpers import Ran, serve
from ultraep_sim.serving.metrics import mean_in_system
from ultraep_sim.serving.server import (
    CANCELLED,
    PENDING,
    REFUSED,
    SERVED,
    TIMED_OUT,
    TOO_LONG,
)

INF = float("inf")


@st.composite
def cases(draw: st.DrawFn) -> dict:
    """Requests and rules: crowded and idle, patient and not, with and without bounds."""
    count = draw(st.integers(1, 25))
    gap = st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.7, 30.0])
    gaps = draw(st.lists(gap, min_size=count, max_size=count))
    tokens = draw(st.lists(st.integers(1, 20), min_size=count, max_size=count))
    cached = [draw(st.integers(0, n - 1)) if draw(st.booleans()) else 0 for n in tokens]
    patience = st.sampled_from([INF, INF, 0.0, 0.7, 3.0])
    ticks = draw(st.lists(st.sampled_from([0.1, 0.3, 1.0, 2.0]), min_size=1, max_size=7))
    return {
        "arrival_s": np.cumsum(gaps),
        "tokens": np.asarray(tokens),
        "cached": np.asarray(cached),
        "patience_s": np.asarray(draw(st.lists(patience, min_size=count, max_size=count))),
        "seconds": lambda step, segments: ticks[step % len(ticks)] + 0.01 * segments.total,
        "ranks": draw(st.integers(1, 4)),
        "token_budget": draw(st.integers(1, 12)),
        "router": draw(st.sampled_from(["least_tokens", "round_robin", "random"])),
        "timeout_s": draw(st.sampled_from([INF, 0.5, 4.0])),
        "max_queue": draw(st.sampled_from([INF, 1, 3, 8])),
        "kv_tokens": draw(st.sampled_from([INF, 5, 20, 33])),
    }


class Watched:
    """Look at a server's books after every step."""

    def __init__(self) -> None:
        self.fullest_kv = 0

    def __call__(self, server) -> bool:  # type: ignore[no-untyped-def]
        self.fullest_kv = max(self.fullest_kv, *server.kv_used)
        pending = (server.outcome == PENDING) & (server.rank >= 0)
        left = np.zeros(server.rules.ranks, np.int64)
        np.add.at(left, server.rank[pending], (server.tokens - server.progress)[pending])
        assert server.backlog.tolist() == left.tolist()
        assert server.in_system == pending.sum()
        return False


def per_request(ran: Ran, count: int) -> np.ndarray:
    computed = np.zeros(count, np.int64)
    for step in ran.steps:
        np.add.at(computed, step.request, step.count)
    return computed


@settings(max_examples=80, deadline=None)
@given(cases())
def test_requests_and_tokens_are_conserved(case) -> None:  # type: ignore[no-untyped-def]
    ran = serve(**case)
    service, tokens, cached = ran.service, case["tokens"], case["cached"]
    to_do = tokens - cached
    outcome = service.outcome
    assert not (outcome == PENDING).any()
    assert service.computed.tolist() == per_request(ran, len(tokens)).tolist()
    served = outcome == SERVED
    assert (service.computed[served] == to_do[served]).all()
    assert (service.computed <= to_do).all()
    turned_away = (outcome == REFUSED) | (outcome == TOO_LONG)
    assert ((service.rank == -1) == turned_away).all()
    assert (service.computed[turned_away] == 0).all()
    # Every outcome only where its rule can bring it about.
    assert (tokens[outcome == TOO_LONG] > case["kv_tokens"]).all()
    assert (tokens[~turned_away] <= case["kv_tokens"]).all()
    if case["timeout_s"] == INF:
        assert not (outcome == TIMED_OUT).any()
    if case["max_queue"] == INF:
        assert not (outcome == REFUSED).any()
    assert np.isfinite(case["patience_s"][outcome == CANCELLED]).all()
    # Chunks of a request follow each other without gap or overlap.
    at = cached.copy()
    for step in ran.steps:
        for request, start, count, last in zip(
            step.request, step.start, step.count, step.last, strict=True
        ):
            assert start == at[request]
            at[request] += count
            assert last == (at[request] == tokens[request])


@settings(max_examples=80, deadline=None)
@given(cases())
def test_budget_memory_and_books(case) -> None:  # type: ignore[no-untyped-def]
    watched = Watched()
    ran = serve(**case, watch=watched)
    for step in ran.steps:
        assert len(step) > 0
        assert (step.count >= 1).all()
        assert step.tokens(case["ranks"]).max() <= case["token_budget"]
        assert (np.diff(step.rank) >= 0).all()
        assert len(set(step.request.tolist())) == len(step)
        assert (step.rank == ran.service.rank[step.request]).all()
    assert watched.fullest_kv <= case["kv_tokens"]
    # What is given up in a queue holds nothing, what is given up midway lets go at the next step.
    assert ran.server._admitted == set()
    assert ran.server.kv_used == [0] * case["ranks"]
    assert ran.server.backlog.tolist() == [0] * case["ranks"]
    assert ran.server.in_system == 0


@settings(max_examples=80, deadline=None)
@given(cases())
def test_time_goes_forward(case) -> None:  # type: ignore[no-untyped-def]
    ran = serve(**case)
    service, arrival_s = ran.service, case["arrival_s"]
    began, ended = service.began_s, np.asarray(ran.ended)
    assert (service.end_s >= arrival_s).all()
    assert (ended > began).all()
    assert (began[1:] >= ended[:-1]).all()  # steps never overlap
    tiny = 1e-9  # an arrival and the clock it sets may differ by rounding
    for step, at in zip(ran.steps, began, strict=True):
        assert (arrival_s[step.request] <= at + tiny).all()
        assert (service.end_s[step.request] >= at).all()  # nobody is computed after leaving
    served = service.outcome == SERVED
    assert set(service.end_s[served].tolist()) <= set(ended.tolist())
    for request in np.flatnonzero(served):  # at the end of the step of its last chunk
        last = max(i for i, step in enumerate(ran.steps) if request in step.request)
        assert service.end_s[request] == ended[last]
    stay = service.end_s - arrival_s
    limit = np.minimum(case["timeout_s"], case["patience_s"])
    assert (stay <= limit + tiny).all()
    for why, after in ((TIMED_OUT, case["timeout_s"]), (CANCELLED, case["patience_s"])):
        gone = service.outcome == why
        expected = np.broadcast_to(after, stay.shape)[gone]
        assert np.allclose(stay[gone], expected, rtol=0, atol=tiny)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_first_come_first_served_on_every_rank(case) -> None:  # type: ignore[no-untyped-def]
    ran = serve(**case)
    for rank in range(case["ranks"]):
        order = [r for step in ran.steps for r in step.request[step.rank == rank].tolist()]
        assert order == sorted(order)
        ends = ran.service.end_s[(ran.service.rank == rank) & (ran.service.outcome == SERVED)]
        assert (np.diff(ends) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(cases())
def test_littles_law(case) -> None:  # type: ignore[no-untyped-def]
    """The number in the system, integrated over its every change, is the sum of all stays.

    The number is counted from comings and goings; the server's own count is beside it at the
    beginning of every step.
    """
    ran = serve(**case)
    service, arrival_s = ran.service, case["arrival_s"]
    stop = max(service.end_s.max(), arrival_s.max()) + 1.0
    moments = np.unique(np.concatenate([[0.0], arrival_s, service.end_s, [stop]]))
    inside = [((arrival_s <= t) & (service.end_s > t)).sum() for t in moments[:-1]]
    integral = float(np.dot(inside, np.diff(moments)))
    total = float((service.end_s - arrival_s).sum())
    assert np.isclose(integral, total, rtol=1e-9, atol=1e-9)
    assert np.isclose(mean_in_system(arrival_s, service, 0.0, stop) * stop, total, atol=1e-9)
    for at, step, waiting in zip(service.began_s, ran.steps, service.waiting, strict=True):
        assert waiting >= 0
        present = (arrival_s <= at + 1e-9) & (service.end_s > at + 1e-9)
        gone_by_rounding = (np.abs(arrival_s - at) < 1e-6) | (np.abs(service.end_s - at) < 1e-6)
        slack = gone_by_rounding.sum()
        assert abs(present.sum() - len(step) - waiting) <= slack


@settings(max_examples=80, deadline=None)
@given(cases())
def test_same_inputs_same_bytes(case) -> None:  # type: ignore[no-untyped-def]
    one, two = serve(**case), serve(**case)
    for name in ("outcome", "end_s", "rank", "computed", "began_s", "waiting"):
        assert getattr(one.service, name).tobytes() == getattr(two.service, name).tobytes()
    assert one.rows() == two.rows()


@settings(max_examples=80, deadline=None)
@given(cases(), st.integers(0, 24))
def test_the_future_changes_nothing_before_it(case, cut) -> None:  # type: ignore[no-untyped-def]
    """Other requests from some time on: every step that began before is the same."""
    cut = min(cut, len(case["tokens"]) - 1)
    changed = {**case, "tokens": case["tokens"].copy()}
    changed["tokens"][cut:] += 7
    one, two = serve(**case), serve(**changed)
    before = case["arrival_s"][cut]
    earlier = [
        [row for row, at in zip(ran.rows(), ran.service.began_s, strict=True) if at < before - 1e-9]
        for ran in (one, two)
    ]
    assert earlier[0] == earlier[1]
