"""How long a step takes under a policy, and why: the layer times of exactly what is in it.

A step runs every MoE layer of the model over the tokens of all ranks. The policy plans each of
them on the loads of these tokens, with the history it would have had; the kernel times are those of
`ultraep_sim.engine.phases`, arranged as `ultraep_sim.engine.critical` does (the recurrence that the
event engine agrees with: ranks wait for each other after every phase). Attention takes what the
chunks of a rank need, so that ranks with long prompts are stragglers of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..compute.dense import gate_time, shared_expert_time
from ..compute.outside import outside_time
from ..compute.prefill_attention import prefill_attention_time
from ..engine.critical import FORWARD_PHASES, OVERHEAD_PHASES, critical, slowest
from ..engine.layer import rules_of
from ..engine.options import LayerOptions
from ..engine.phases import busy_phases
from ..engine.replay import PolicyReplay
from ..trace import Record
from .routing import Routing
from .routing import Segments as RoutedSegments

if TYPE_CHECKING:
    from ..scenario import Scenario
    from .segments import Segments

Seconds = NDArray[np.float64]

#: What a step's seconds are told by.
PARTS = ("attention", "all_to_all", "experts", "balancing", "outside")
_PART = {
    "fwd_attention": "attention",
    "fwd_dispatch": "all_to_all",
    "fwd_compute": "experts",
    "fwd_combine": "all_to_all",
    **dict.fromkeys((p for p in OVERHEAD_PHASES if p.startswith("fwd")), "balancing"),
}
_BATCH_LEAST = 1 << 40  # requests that only history knows are numbered from here


@dataclass(frozen=True)
class Step:
    """One step as it is logged.

    Attributes
    ----------
    seconds : float
    attention_s, all_to_all_s, experts_s, balancing_s, outside_s : float
        What each adds to it: attention with gate and shared experts; dispatch and combine; expert
        compute; all that is there only because of balancing; dense layers, embedding, head and the
        fixed overhead.
    tokens : int
    chunks : int
    imbalance : float
        Max over mean rank load, mean over the layers.
    attention_imbalance : float
        Max over mean time of attention.
    replicas : float
        Mean over the layers.
    moved : int
        Expert weights that moved to a new placement, in the simulated layers.
    """

    seconds: float
    attention_s: float
    all_to_all_s: float
    experts_s: float
    balancing_s: float
    outside_s: float
    tokens: int
    chunks: int
    imbalance: float
    attention_imbalance: float
    replicas: float
    moved: int


STEP_COLUMNS = tuple(f.name for f in fields(Step))


class StepModel:
    """The steps of one policy: call it with a number and chunks for the seconds of a step.

    Parameters
    ----------
    scenario : Scenario
        With requests and a serving section.
    routing : Routing
        Its layers are those simulated; each stands for as many of the model's.
    domain : integer ndarray [N]
        Of every request.
    replay : PolicyReplay
        Of the policy, with room for a record of each simulated layer.
    options : LayerOptions

    Attributes
    ----------
    log : list of Step
        In order of time, prewarming left out.
    """

    def __init__(
        self,
        scenario: Scenario,
        routing: Routing,
        domain: NDArray[np.integer],
        replay: PolicyReplay,
        options: LayerOptions,
    ) -> None:
        if scenario.serving is None:
            raise ValueError("only a scenario with a serving section has steps")
        self.scenario, self.spec = scenario, scenario.serving
        self.routing, self.replay, self.options = routing, replay, options
        self.log: list[Step] = []
        self._domain = np.asarray(domain, np.int64)
        self._rules = rules_of(replay.policy.price(), options)
        self._price = replay.policy.price()
        self._stands_for = stands_for(routing.layers, scenario.model.moe_layers)
        self._before = 0  # steps that only history saw

    def prewarm(self, segments: list[RoutedSegments]) -> None:
        """Let a history policy see batches before the first request arrives; they take no time."""
        for batch in segments:
            self._plan(self._before, batch)
            self.replay.builder.reset()
            self._before += 1

    @property
    def history_steps(self) -> int:
        """Steps a history policy must have seen to have placed once; 0 for the others."""
        cadence = self.replay.policy.cadence_steps
        return 0 if cadence is None else max(cadence, self.replay.policy.window_steps) + 1

    def __call__(self, step: int, segments: Segments) -> float:
        """Plan, time and log one step."""
        routed = RoutedSegments(
            segments.rank, segments.request, segments.count, self._domain[segments.request]
        )
        self._plan(self._before + step, routed)
        found = self._time(segments)
        self.replay.builder.reset()
        self.log.append(found)
        return found.seconds

    def _plan(self, step: int, segments: RoutedSegments) -> None:
        loads = self.routing.loads_all(step, segments)
        totals = loads.sum(axis=1)
        for layer, (own, total) in enumerate(zip(loads, totals, strict=True)):
            self.replay.add(Record(step, 0, layer, own), own, total, 1)

    def _time(self, segments: Segments) -> Step:
        shape, rack, options = self.scenario.model, self.scenario.rack, self.options
        ranks = self.routing.ranks
        stats = self.replay.builder.stats
        attention = prefill_attention_time(
            shape, rack.gpu, segments.rank, segments.start, segments.count, ranks,
            kv_dtype=self.spec.kv_dtype, sparse=self.spec.sparse,
        )  # fmt: skip
        tokens = segments.tokens(ranks)
        busy = busy_phases(shape, rack, stats, self._price, options)
        busy["fwd_attention"] = np.broadcast_to(
            attention + self._per_token(tokens), stats.pairs.shape
        )
        if options.overlap == "shared_expert":
            busy["fwd_shared"] = np.broadcast_to(self._shared(tokens), stats.pairs.shape)
        added = critical(slowest(busy), self._rules)
        parts = dict.fromkeys(PARTS, 0.0)
        for phase in FORWARD_PHASES:
            parts[_PART[phase]] += float(self._stands_for @ added[phase])
        outside = outside_time(shape, rack.gpu, tokens, segments.finishing(ranks), attention)
        parts["outside"] = float(outside.max()) + self.spec.overhead_ms * 1e-3
        pairs = stats.pairs
        imbalance = (pairs.max(axis=1) * ranks / np.maximum(pairs.sum(axis=1), 1)).mean()
        return Step(
            seconds=sum(parts.values()),
            **{f"{name}_s": seconds for name, seconds in parts.items()},
            tokens=int(tokens.sum()),
            chunks=len(segments),
            imbalance=float(imbalance),
            attention_imbalance=float(attention.max() * ranks / attention.sum()),
            replicas=float(stats.replicas.mean()),
            moved=int(stats.moved_copies.sum()),
        )

    def _per_token(self, tokens: NDArray[np.int64]) -> Seconds:
        """Seconds of the gate, and of shared experts that nothing hides, by rank."""
        found = gate_time(self.scenario.model, self.scenario.rack.gpu, tokens)
        return found if self.options.overlap == "shared_expert" else found + self._shared(tokens)

    def _shared(self, tokens: NDArray[np.int64]) -> Seconds:
        gpu, shape = self.scenario.rack.gpu, self.scenario.model
        return shared_expert_time(shape, gpu, tokens, dtype=self.options.weight_dtype)


def stands_for(layers: NDArray[np.int64], moe_layers: int) -> Seconds:
    """How many MoE layers of the model each simulated one stands for; they sum to all of them.

    Every layer goes to the nearest simulated one, so the numbers are whole; even ones would be
    ``moe_layers / len(layers)``, which is what they are up to one.
    """
    every = np.arange(moe_layers)
    nearest = np.abs(every[:, None] - np.asarray(layers)[None]).argmin(axis=1)
    return np.bincount(nearest, minlength=len(layers)).astype(np.float64)


def typical_batches(
    count: int, ranks: int, chunk: int, per_rank: int, shares: NDArray[np.float64], seed: int
) -> list[RoutedSegments]:
    """Draw full batches of requests that nobody sent, for history to begin with.

    Parameters
    ----------
    count, ranks : int
    chunk : int
        Tokens of a chunk.
    per_rank : int
        Chunks of a rank.
    shares : float64 [domains]
    seed : int
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(21,)))
    size = ranks * per_rank
    rank = np.repeat(np.arange(ranks, dtype=np.int64), per_rank)
    tokens = np.full(size, chunk, np.int64)
    batches = []
    for batch in range(count):
        domain = rng.choice(len(shares), size, p=shares / shares.sum()).astype(np.int64)
        request = _BATCH_LEAST + batch * size + np.arange(size, dtype=np.int64)
        batches.append(RoutedSegments(rank, request, tokens, domain))
    return batches
