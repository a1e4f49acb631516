"""Synthetic routing: skewed expert popularity that hits a target imbalance. Never "recorded".

Scope: popularity is fixed per layer, with an optional slow drift; tokens are independent.
Sequence locality (tokens of a sequence repeat experts) and switches of domain come later;
until then, synthetic traces have sources that are more alike than real ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from .container import Record, Trace
from .meta import TraceMeta
from .selection import Selection
from .synth_profile import ZipfProfile, calibrate, inclusion_probabilities

# Keys of the random streams; one purpose never disturbs another's draws.
_PROFILE, _DRIFT, _DRAW = range(3)
_VERSION = 1


@dataclass(frozen=True)
class SynthOptions:
    """All that a synthetic trace depends on; see `synthesize` for the meaning."""

    num_experts: int
    top_k: int
    num_layers: int
    steps: int
    source_ranks: int
    tokens_per_rank: int
    imbalance: float
    at_ranks: int
    phase: str
    seed: int
    micro_batches: int
    drift: float
    drift_memory: float

    def __post_init__(self) -> None:
        for name in ("num_layers", "steps", "source_ranks", "tokens_per_rank", "micro_batches"):
            _check_int(name, getattr(self, name), 1, 2**31 - 1)
        _check_int("num_experts", self.num_experts, 2, 65_536)
        _check_int("top_k", self.top_k, 1, self.num_experts)
        _check_int("at_ranks", self.at_ranks, 2, 8192)
        _check_int("seed", self.seed, 0, 2**63 - 1)
        _check_real("imbalance", self.imbalance, 1.0, math.inf)
        _check_real("drift", self.drift, 0.0, 3.0)
        _check_real("drift_memory", self.drift_memory, 0.0, 0.999999)
        pairs = self.source_ranks * self.tokens_per_rank * self.top_k
        if pairs >= 2**31:
            raise _refused("tokens_per_rank", "makes records of 2^31 pairs or more", pairs)


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
    )
    meta = _meta(options)
    zipf = ZipfProfile(num_experts, top_k, at_ranks)
    exponent, _ = calibrate(
        zipf, imbalance, tokens=source_ranks * tokens_per_rank, drift=drift, seed=seed
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
        text = json.dumps({"synth": _VERSION, **asdict(self.options)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def records(self, selection: Selection) -> Iterator[Record]:
        """Draw the selected records; the others cost no draw but the drift's."""
        o = self.options
        layers = np.arange(o.num_layers, dtype=np.int32)
        probe = np.zeros((o.num_layers, 3), dtype=np.int32)
        probe[:, 2] = layers
        only_layers = Selection(layers=selection.layers)
        drifting = {
            int(layer): _DriftingProfile(self, int(layer))
            for layer in layers[only_layers.mask(probe)]
        }
        for step in range(o.steps):
            if not selection.may_hold_steps(step, step):
                continue
            for micro_batch in range(o.micro_batches):
                for layer, profile in drifting.items():
                    key = np.array([[step, micro_batch, layer]], dtype=np.int32)
                    if selection.mask(key)[0]:
                        loads = self._draw(profile.at(step), step, micro_batch, layer)
                        yield Record(step, micro_batch, layer, loads)

    def stream(self, purpose: int, *place: int) -> np.random.Generator:
        """Return the random stream of one purpose at one place."""
        seed = np.random.SeedSequence(self.options.seed, spawn_key=(purpose, *place))
        return np.random.Generator(np.random.PCG64(seed))

    def _draw(
        self, chance: NDArray[np.float64], step: int, micro_batch: int, layer: int
    ) -> NDArray[np.int32]:
        o = self.options
        rng = self.stream(_DRAW, layer, step, micro_batch)
        return draw_counts(rng, chance, o.source_ranks, o.tokens_per_rank)


class _DriftingProfile:
    """Inclusion probabilities of one layer, step by step."""

    def __init__(self, source: SynthSource, layer: int) -> None:
        self._source = source
        self._layer = layer
        inner, log_place = source.zipf.draw_order(source.stream(_PROFILE, layer))
        self._weights = inner - source.exponent * log_place
        self._shift = np.zeros(source.options.num_experts)
        self._step = -1
        self._chance = inclusion_probabilities(self._weights, source.options.top_k)

    def at(self, step: int) -> NDArray[np.float64]:
        o = self._source.options
        if o.drift > 0.0 and self._step < step:
            while self._step < step:
                self._step += 1
                self._advance()
            self._chance = inclusion_probabilities(self._weights + self._shift, o.top_k)
        return self._chance

    def _advance(self) -> None:
        o = self._source.options
        fresh = self._source.stream(_DRIFT, self._layer, self._step).standard_normal(o.num_experts)
        # The first step draws from the stationary law, so that no step is special.
        memory = o.drift_memory if self._step else 0.0
        self._shift = memory * self._shift + math.sqrt(1.0 - memory**2) * o.drift * fresh


def draw_counts(
    rng: np.random.Generator, chance: NDArray[np.float64], rows: int, tokens: int
) -> NDArray[np.int32]:
    """Draw the loads of ``rows`` sources with ``tokens`` tokens each.

    Systematic sampling: experts lie end to end on a line, each as long as its probability;
    a token draws one u in [0, 1) and takes the experts that u, u+1, u+2, ... hit. Lengths of
    at most 1 cannot be hit twice. Folded to [0, 1), the ends of the experts cut the unit
    interval into segments with constant choice, so the tokens of a row need one multinomial
    draw over segments instead of one draw each. The order on the line is shuffled per call,
    which makes the joint choices vary.

    Parameters
    ----------
    rng : numpy.random.Generator
    chance : ndarray of float, shape [experts]
        Inclusion probabilities, summing to the top-k.
    rows, tokens : int

    Returns
    -------
    ndarray of int32, shape [rows, experts]
        Every row sums to tokens x top-k; no count exceeds the tokens.
    """
    counts = np.zeros((rows, len(chance)), dtype=np.int32)
    # Experts of every token stay off the line: rounding must not let one be hit twice.
    always = chance > 1.0 - 1e-9
    counts[:, always] = tokens
    top_k = round(float(chance.sum())) - int(always.sum())
    if not top_k:
        return counts
    order = rng.permutation(np.flatnonzero(~always))
    ends = np.cumsum(chance[order])
    ends *= top_k / ends[-1]
    ends[-1] = top_k
    whole = np.floor(ends)
    cuts = ends - whole
    # Segment j lies between the j-th and the next of the sorted cuts; the last end is 0 mod 1.
    sorted_cuts = np.sort(cuts)
    lengths = np.diff(np.append(sorted_cuts, 1.0))
    drawn = rng.multinomial(tokens, lengths / lengths.sum(), size=rows)
    below = np.zeros((rows, len(order) + 1), dtype=np.int64)
    np.cumsum(drawn, axis=1, out=below[:, 1:])
    # Pairs on the line left of an end: one per token for every whole unit, plus the tokens
    # whose u lies left of its fraction.
    left = whole.astype(np.int64) * tokens + below[:, np.searchsorted(sorted_cuts, cuts)]
    counts[:, order] = np.diff(left, axis=1, prepend=0)
    return counts


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
        notes={"synth": asdict(o)},
    )


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _refused(name, f"must be an integer in {low}..{high}", value)


def _check_real(name: str, value: object, low: float, high: float) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (good and math.isfinite(float(value)) and low <= float(value) <= high):  # type: ignore[arg-type]  # `good` says it is a number
        upper = "" if math.isinf(high) else f" and at most {high:g}"
        raise _refused(name, f"must be a number of at least {low:g}{upper}", value)


def _refused(name: str, problem: str, value: object) -> TraceError:
    return TraceError(f"{name} {problem}", place="synthesize", value=value, remedy=f"change {name}")
