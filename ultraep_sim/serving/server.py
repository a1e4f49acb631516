"""A prefill server in time (SimPy): router, queues of the attention ranks, steps, impatience.

Every rank of the expert-parallel group is a data-parallel attention rank with a queue of its own.
All ranks compute their MoE layers together, so they take steps together: a step begins as soon as
the one before has ended and anything waits, every rank puts up to the token budget of its queue
into it, first come first served, cutting the last prompt where the budget ends (chunked prefill,
continuous batching), and the slowest rank of every phase ends it.

Decisions where real systems differ:

- A request keeps the rank it was sent to. It is admitted when its whole prompt fits into the KV
  cache that is left there; nothing overtakes it. What it holds is freed at its first token:
  decoding happens elsewhere, and sending the cache there is not timed.
- A request that is given up or timed out leaves its queue at once. What a running step computes of
  it is computed in vain, and its cache is freed when that step has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from simpy import Environment, Event

from .segments import Segments

PENDING, SERVED, TIMED_OUT, CANCELLED, REFUSED, TOO_LONG = range(6)
OUTCOMES = ("pending", "served", "timed out", "cancelled", "refused", "too long")

Router = Literal["least_tokens", "round_robin", "random"]
#: Seconds a step takes, from its number and its chunks.
Clock = Callable[[int, Segments], float]


@dataclass(frozen=True)
class ServerRules:
    """How the server treats requests; see `ultraep_sim.scenario.serving.ServingSpec`.

    Attributes
    ----------
    ranks : int
    token_budget : int
    router : {"least_tokens", "round_robin", "random"}
    timeout_s : float
        Infinite where nothing times out.
    max_queue : float
        Requests that may be in the system; infinite where any number may.
    kv_tokens : float
        Tokens the cache of a rank holds; infinite where memory does not bind.
    seed : int
        Of the random router.
    """

    ranks: int
    token_budget: int
    router: Router = "least_tokens"
    timeout_s: float = np.inf
    max_queue: float = np.inf
    kv_tokens: float = np.inf
    seed: int = 0


@dataclass(frozen=True)
class Service:
    """What became of N requests.

    Attributes
    ----------
    outcome : int8 [N]
        Index into `OUTCOMES`; pending only where the run was stopped early.
    end_s : float64 [N]
        When a request got its first token or left without; NaN where pending.
    rank : int16 [N]
        Its attention rank, -1 where it was turned away.
    computed : int64 [N]
        Tokens computed for it, in vain or not.
    began_s : float64 [steps]
        When each step began.
    waiting : int64 [steps]
        Requests in the system then that had no part in the step.
    stopped_s : float
        When the last step ended, or the run was stopped.
    stopped_early : bool
    """

    outcome: NDArray[np.int8]
    end_s: NDArray[np.float64]
    rank: NDArray[np.int16]
    computed: NDArray[np.int64]
    began_s: NDArray[np.float64]
    waiting: NDArray[np.int64]
    stopped_s: float
    stopped_early: bool


class Server:
    """One run of a server over its requests.

    Parameters
    ----------
    rules : ServerRules
    arrival_s : float64 [N]
        In order of time.
    tokens, cached : int64 [N]
        Of the prompts, and how many of them need no computing (fewer than all).
    patience_s : float64 [N]
        Time after which its user gives a request up; infinite for never.
    clock : callable
        Seconds a step takes.
    watch : callable, optional
        Called as ``watch(server)`` after every step; returning true stops the run.
    kv_need : float64 [N], optional
        Tokens of cache each prompt takes; all of its own by default. A sliding window keeps fewer.
    """

    def __init__(
        self,
        rules: ServerRules,
        arrival_s: NDArray[np.float64],
        tokens: NDArray[np.int64],
        cached: NDArray[np.int64],
        patience_s: NDArray[np.float64],
        clock: Clock,
        watch: Callable[[Server], bool] | None = None,
        kv_need: NDArray[np.float64] | None = None,
    ) -> None:
        count = len(arrival_s)
        self.rules, self.clock, self.watch = rules, clock, watch
        self.arrival_s, self.patience_s = arrival_s, patience_s
        self.tokens, self.progress = tokens, cached.copy()
        self.outcome = np.zeros(count, np.int8)
        self.end_s = np.full(count, np.nan)
        self.rank = np.full(count, -1, np.int16)
        self.computed = np.zeros(count, np.int64)
        self.env = Environment()
        self.arrived, self.in_system = 0, 0
        self.began: list[float] = []  # of every step, and the requests it left waiting
        self.waiting: list[int] = []
        self.backlog = np.zeros(rules.ranks, np.int64)  # tokens routed to a rank, not computed
        self.kv_need = tokens if kv_need is None else kv_need
        self.kv_used: list[float] = [0.0] * rules.ranks
        self._queues: list[deque[int]] = [deque() for _ in range(rules.ranks)]
        self._admitted: set[int] = set()
        self._choose = _router(rules, self.backlog, count)
        self._wake: Event | None = None

    def run(self) -> Service:
        """Serve all requests to their end, or until ``watch`` stops the run."""
        self.env.process(self._arrive())
        serving = self.env.process(self._serve())
        early = bool(self.env.run(until=serving))
        return Service(
            self.outcome, self.end_s, self.rank, self.computed,
            np.asarray(self.began), np.asarray(self.waiting, np.int64),
            float(self.env.now), early,
        )  # fmt: skip

    # Arrivals and impatience

    def _arrive(self) -> Generator[Event, None, None]:
        before = 0.0
        for request, at in enumerate(self.arrival_s.tolist()):
            # By the arrivals and not by the clock, which waiting may leave an ulp beside them:
            # what arrives at once is taken in at once.
            if at > before:
                yield self.env.timeout(max(0.0, at - self.env.now))
                before = at
            self._take_in(request)
            self.arrived += 1
            if self._wake is not None and not self._wake.triggered:
                self._wake.succeed()

    def _take_in(self, request: int) -> None:
        if self.in_system >= self.rules.max_queue:
            self._leave(request, REFUSED)
            return
        if self.kv_need[request] > self.rules.kv_tokens:
            self._leave(request, TOO_LONG)
            return
        rank = self._choose(request)
        self.rank[request] = rank
        self.backlog[rank] += self.tokens[request] - self.progress[request]
        self._queues[rank].append(request)
        self.in_system += 1
        for after, why in (
            (self.rules.timeout_s, TIMED_OUT),
            (float(self.patience_s[request]), CANCELLED),
        ):
            if after < np.inf:
                self._give_up_after(request, after, why)

    def _give_up_after(self, request: int, seconds: float, why: int) -> None:
        def give_up(_: Event) -> None:
            if self.outcome[request] == PENDING:
                left = self.tokens[request] - self.progress[request]
                self.backlog[self.rank[request]] -= left
                self.in_system -= 1
                self._leave(request, why)

        event: Any = self.env.timeout(seconds)
        event.callbacks.append(give_up)

    def _leave(self, request: int, why: int) -> None:
        self.outcome[request] = why
        self.end_s[request] = max(self.env.now, self.arrival_s[request])  # the clock rounds

    # Steps

    def _serve(self) -> Generator[Event, None, bool]:
        while True:
            step = self._fill()
            if len(step):
                self.began.append(float(self.env.now))
                self.waiting.append(self.in_system - len(step))
                yield self.env.timeout(self.clock(len(self.began) - 1, step))
                self._finish(step)
                if self.watch is not None and self.watch(self):
                    return True
            elif self.arrived == len(self.arrival_s):
                return False
            else:
                self._wake = self.env.event()
                yield self._wake

    def _fill(self) -> Segments:
        """Put the heads of all queues into a step."""
        rows: list[tuple[int, int, int, int, bool]] = []
        for rank, queue in enumerate(self._queues):
            if queue:
                self._fill_rank(rank, queue, rows)
        return Segments.of(rows)

    def _fill_rank(
        self, rank: int, queue: deque[int], rows: list[tuple[int, int, int, int, bool]]
    ) -> None:
        room = self.rules.token_budget
        while room and queue:
            request = queue[0]
            if self.outcome[request] != PENDING:
                self._release(rank, request)
                queue.popleft()
                continue
            if not self._admit(rank, request):
                break
            start = int(self.progress[request])
            left = int(self.tokens[request]) - start
            count = min(left, room)
            rows.append((rank, request, start, count, count == left))
            room -= count
            if count == left:
                queue.popleft()

    def _admit(self, rank: int, request: int) -> bool:
        if request in self._admitted:
            return True
        needed = float(self.kv_need[request])
        if self.kv_used[rank] + needed > self.rules.kv_tokens:
            return False
        self.kv_used[rank] += needed
        self._admitted.add(request)
        return True

    def _release(self, rank: int, request: int) -> None:
        if request in self._admitted:
            self._admitted.remove(request)
            self.kv_used[rank] -= float(self.kv_need[request])

    def _finish(self, step: Segments) -> None:
        for rank, request, _, count, last in zip(
            step.rank.tolist(), step.request.tolist(), step.start, step.count.tolist(),
            step.last.tolist(), strict=True,
        ):  # fmt: skip
            self.computed[request] += count
            if self.outcome[request] == PENDING:
                self.progress[request] += count
                self.backlog[rank] -= count
                if last:
                    self.in_system -= 1
                    self._leave(request, SERVED)
            if last:
                self._release(rank, request)


def _router(rules: ServerRules, backlog: NDArray[np.int64], count: int) -> Callable[[int], int]:
    """Return what names the rank of a request; ties of the least go round."""
    ranks = np.arange(rules.ranks)
    turn = 0

    def round_robin(_: int) -> int:
        nonlocal turn
        turn += 1
        return (turn - 1) % rules.ranks

    def least_tokens(_: int) -> int:
        nonlocal turn
        chosen = int((backlog * rules.ranks + (ranks - turn) % rules.ranks).argmin())
        turn = chosen + 1
        return chosen

    if rules.router == "random":
        # Drawn for all, so that a request goes where it would if none before it were refused.
        stream = np.random.default_rng(np.random.SeedSequence(rules.seed, spawn_key=(20,)))
        drawn: list[int] = stream.integers(rules.ranks, size=count).tolist()
        return drawn.__getitem__
    return round_robin if rules.router == "round_robin" else least_tokens
