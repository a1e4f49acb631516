"""Synthetic routing: skewed expert popularity that hits a target imbalance. Never "recorded".

Popularity is a profile per layer that may drift slowly from step to step, with noise drawn anew
for every micro-batch (the sequences in it differ) and for every source of a micro-batch (a rank
holds one sequence). Given its source's popularity, a token is independent of the others: that
tokens of one sequence repeat experts is in the source's noise only, and switches of domain are not
drawn.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .container import Record, Trace
from .meta import TraceMeta
from .selection import Selection
from .synth_draw import draw_counts
from .synth_options import SynthOptions
from .synth_profile import Spread, ZipfProfile, calibrate, inclusion_probabilities

# Keys of the random streams; one purpose never disturbs another's draws. 3 and 6 are the pilot's.
_PROFILE, _DRIFT, _DRAW = range(3)
_NOISE, _SOURCE_NOISE = 4, 5
_VERSION = 1


def synthesize(
    num_experts: int,
    top_k: int,
    num_layers: int,
    steps: int,
    source_ranks: int,
    tokens_per_rank: int,
    imbalance: float,
    at_ranks: int,
    phase: str = "training",
    seed: int = 0,
    *,
    micro_batches: int = 1,
    drift: float = 0.0,
    drift_memory: float = 0.98,
    noise: float = 0.0,
    source_noise: float = 0.0,
) -> Trace:
    """Draw a synthetic trace whose mean rank imbalance hits a target.

    In every layer the ranks' popularity follows a Zipf law, its exponent found by bisection,
    and inside a rank the experts' popularity a Zipf law of exponent 4.0, both in an order that
    the seed permutes per layer. Popularity becomes each expert's probability to be among a
    token's top-k, at most 1, summing to top-k. Tokens are drawn by systematic sampling, so
    that each takes top-k different experts with exactly these probabilities.

    Parameters
    ----------
    num_experts, top_k, num_layers : int
        Of the imagined model.
    steps, micro_batches : int
        Steps, and micro-batches of each.
    source_ranks, tokens_per_rank : int
        Rows of a load matrix and tokens of each.
    imbalance : float
        Target for the mean over records of max rank load / mean rank load.
    at_ranks : int
        Expert-parallel ranks (contiguous homes) at which the target is met.
    phase : {"training", "prefill"}
    seed : int
        Random streams are split by layer, step and micro-batch, so a slice of the trace
        holds the same draws as the whole.
    micro_batches : int
    drift : float
        Standard deviation of each expert's log popularity around its profile, as a
        first-order autoregressive process over steps; 0 for none.
    drift_memory : float
        Correlation of that process from step to step.
    noise : float
        Standard deviation of each expert's log popularity around that, drawn anew for every
        micro-batch and layer: what no history knows. 0 for none.
    source_noise : float
        The same, drawn anew for every source of a micro-batch: sources that see different texts.
        It averages out over many sources, but makes the traffic between pairs of ranks uneven.

    Returns
    -------
    Trace
        Marked synthetic. Records are drawn when iterated; nothing is kept.

    Raises
    ------
    TraceError
        If an option is impossible or the target imbalance cannot be reached.

    Notes
    -----
    Two Zipf laws with exponent 4.0 inside the rank are how the published planner experiments
    draw test loads (arXiv 2606.04101, as summarised in the project's design). The rest is
    assumed. With drift, reaching step t costs t small draws a layer.

    Examples
    --------
    >>> trace = synthesize(64, 8, 2, 3, 8, 512, imbalance=2.0, at_ranks=8, seed=1)
    >>> trace.meta.kind, trace.num_records
    ('SYNTHETIC', 6)
    """
    options = SynthOptions(
        num_experts=num_experts,
        top_k=top_k,
        num_layers=num_layers,
        steps=steps,
        source_ranks=source_ranks,
        tokens_per_rank=tokens_per_rank,
        imbalance=imbalance,
        at_ranks=at_ranks,
        phase=phase,
        seed=seed,
        micro_batches=micro_batches,
        drift=drift,
        drift_memory=drift_memory,
        noise=noise,
        source_noise=source_noise,
    )
    meta = _meta(options)
    zipf = ZipfProfile(num_experts, top_k, at_ranks)
    spread = Spread(math.hypot(drift, noise), source_noise, source_ranks)
    exponent, _ = calibrate(
        zipf, imbalance, tokens=source_ranks * tokens_per_rank, spread=spread, seed=seed
    )
    source = SynthSource(options, zipf, exponent, meta.with_note("zipf_over_ranks", exponent))
    return Trace(source, source.meta)


@dataclass(frozen=True, eq=False)
class SynthSource:
    """Draws records on demand."""

    options: SynthOptions
    zipf: ZipfProfile
    exponent: float
    meta: TraceMeta

    def keys(self) -> NDArray[np.int32]:
        """Return step, micro-batch and layer of every record."""
        o = self.options
        grid = np.indices((o.steps, o.micro_batches, o.num_layers), dtype=np.int32)
        return np.ascontiguousarray(grid.reshape(3, -1).T)

    def count(self) -> int:
        """Return the number of records."""
        o = self.options
        return o.steps * o.micro_batches * o.num_layers

    def digest(self) -> str:
        """Return the sha256 of the options: the draws follow from them."""
        text = json.dumps({"synth": _VERSION, **self.options.described()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def records(self, selection: Selection) -> Iterator[Record]:
        """Draw the selected records; the others cost no draw but the drift's."""
        o = self.options
        layers = np.arange(o.num_layers, dtype=np.int32)
        probe = np.zeros((o.num_layers, 3), dtype=np.int32)
        probe[:, 2] = layers
        only_layers = Selection(layers=selection.layers)
        popular = {
            int(layer): _Popularity(self, int(layer)) for layer in layers[only_layers.mask(probe)]
        }
        for step in range(o.steps):
            if not selection.may_hold_steps(step, step):
                continue
            for micro_batch in range(o.micro_batches):
                for layer, popularity in popular.items():
                    key = np.array([[step, micro_batch, layer]], dtype=np.int32)
                    if selection.mask(key)[0]:
                        chance = popularity.at(step, micro_batch)
                        rng = self.stream(_DRAW, layer, step, micro_batch)
                        loads = draw_counts(rng, chance, o.source_ranks, o.tokens_per_rank)
                        yield Record(step, micro_batch, layer, loads)

    def stream(self, purpose: int, *place: int) -> np.random.Generator:
        """Return the random stream of one purpose at one place."""
        seed = np.random.SeedSequence(self.options.seed, spawn_key=(purpose, *place))
        return np.random.Generator(np.random.PCG64(seed))


class _Popularity:
    """Inclusion probabilities of one layer, micro-batch by micro-batch."""

    def __init__(self, source: SynthSource, layer: int) -> None:
        self._source = source
        self._layer = layer
        inner, log_place = source.zipf.draw_order(source.stream(_PROFILE, layer))
        self._weights = inner - source.exponent * log_place
        self._shift = np.zeros(source.options.num_experts)
        self._step = -1
        self._chance = inclusion_probabilities(self._weights, source.options.top_k)

    def at(self, step: int, micro_batch: int) -> NDArray[np.float64]:
        """Return the chances, [experts] or, where sources differ, [sources, experts]."""
        o = self._source.options
        moved = o.drift > 0.0 and self._step < step
        if moved:
            while self._step < step:
                self._step += 1
                self._advance()
        if o.noise or o.source_noise:
            weights = self._weights + self._shift + self._noise(step, micro_batch)
            return inclusion_probabilities(weights, o.top_k)
        if moved:
            self._chance = inclusion_probabilities(self._weights + self._shift, o.top_k)
        return self._chance

    def _noise(self, step: int, micro_batch: int) -> NDArray[np.float64]:
        o, place = self._source.options, (self._layer, step, micro_batch)
        found = np.zeros(o.num_experts)
        if o.noise:
            fresh = self._source.stream(_NOISE, *place).standard_normal(o.num_experts)
            found = o.noise * fresh
        if o.source_noise:
            size = (o.source_ranks, o.num_experts)
            own = self._source.stream(_SOURCE_NOISE, *place).standard_normal(size)
            found = found + o.source_noise * own
        return found

    def _advance(self) -> None:
        o = self._source.options
        fresh = self._source.stream(_DRIFT, self._layer, self._step).standard_normal(o.num_experts)
        # The first step draws from the stationary law, so that no step is special.
        memory = o.drift_memory if self._step else 0.0
        self._shift = memory * self._shift + math.sqrt(1.0 - memory**2) * o.drift * fresh


def _meta(o: SynthOptions) -> TraceMeta:
    return TraceMeta(
        model=f"synthetic-{o.num_experts}e-top{o.top_k}",
        num_experts=o.num_experts,
        top_k=o.top_k,
        num_layers=o.num_layers,
        source_ranks=o.source_ranks,
        tokens_per_rank=o.tokens_per_rank,
        phase=o.phase,
        recorded=f"drawn at random by ultraep_sim.trace.synthesize, seed {o.seed}; no router",
        synthetic=True,
        notes={"synth": o.described()},
    )
