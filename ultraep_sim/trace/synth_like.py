"""Synthetic routing that behaves like a recording: its statistics are kept, its records are not.

Taken over are mean profiles (over 8 steps at least each), variances, correlations in time and the
ways in which sources differ; everything else is drawn anew, so that there may be more steps, and
other seeds, than were recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from .container import Record, Trace
from .meta import TraceMeta
from .selection import Selection
from .stats import EP_SIZES
from .synth_draw import draw_counts
from .synth_fit import Dynamics, fit_dynamics
from .synth_process import DRAW, SOURCES, batch_noise, calibrated, popularity, stream
from .synth_profile import inclusion_probabilities
from .synth_sources import Sources, draw_domains, fit_sources, source_weights
from .synth_trend import find_gaps, find_switches, find_timeline, pieces_of

_VERSION = 1
_FEWEST = 4
_SOURCE_ROWS = 2048  # read of a piece, to tell how its sources differ


def synthesize_like(trace: Trace, steps: int | None = None, seed: int = 0) -> Trace:
    """Draw a synthetic trace with the statistics of a recorded one.

    Parameters
    ----------
    trace : Trace
        The recording, or a part of it (`one_domain` cuts out a domain).
    steps : int, optional
        Steps to draw; the recorded number by default. Beyond it, a trained model stays as it was
        last, and a served one begins again with its first domain; noise is new throughout.
    seed : int
        Of the draws. The fit does not depend on it.

    Returns
    -------
    Trace
        Marked synthetic, fitted to the digest of ``trace``. Records are drawn when iterated.

    Raises
    ------
    TraceError
        If the trace has fewer than 4 micro-batches (their statistics would be the records
        themselves), layers are missing in some, or ``steps`` or ``seed`` is impossible.

    Notes
    -----
    The load of a step is its trend times gamma noise with a memory (`fit_dynamics`); rank
    imbalance and step correlation are then met by scaling two numbers on pilot draws whose seeds
    are their own (`calibrated`). Sources are drawn around that (`fit_sources`), tokens by
    systematic sampling, each with top-k different experts.
    """
    return fit_like(trace).draw(steps, seed)


def one_domain(trace: Trace, name: str) -> Trace:
    """Cut the steps of one domain out of a trace that names its segments.

    Raises
    ------
    TraceError
        If there is no such segment.
    """
    segments = segments_of(trace)
    for known, first, past_last in segments:
        if known == name:
            part = trace.select(steps=slice(first, past_last))
            return replace(part, meta=part.meta.with_note("domain", name))
    raise TraceError(
        "the trace has no segment of that domain",
        place="domain",
        value=name,
        remedy=f"use one of {', '.join(s[0] for s in segments)}"
        if segments
        else "its notes name no segments; cut the steps out with trace cut",
    )


@dataclass(frozen=True, eq=False)
class Fitted:
    """What was read off a trace.

    Attributes
    ----------
    steps, layers : ndarray of int32
        Numbers of the recorded steps and layers.
    tokens : int
        Of a source row, the mean.
    dynamics : Dynamics
    sources : tuple of Sources
        One a piece; none where the source is unknown.
    real : TraceMeta
        Of the trace.
    digest : str
        Of the trace.
    segments : list of (str, int, int)
        Domain, first and past-last step, where the trace names them.
    """

    steps: NDArray[np.int32]
    layers: NDArray[np.int32]
    tokens: int
    dynamics: Dynamics
    sources: tuple[Sources, ...]
    real: TraceMeta
    digest: str
    segments: list[tuple[str, int, int]]

    def draw(self, steps: int | None = None, seed: int = 0) -> Trace:
        """Return a synthetic trace; see `synthesize_like`."""
        _check("steps", steps, 1)
        _check("seed", seed, 0)
        count = len(self.steps) if steps is None else steps
        meta = _meta(self, count, seed)
        return Trace(LikeSource(self, count, seed, meta), meta)


def fit_like(trace: Trace) -> Fitted:
    """Read off a trace what `synthesize_like` needs; one fit serves any seed and length.

    Raises
    ------
    TraceError
        As `synthesize_like`.
    """
    meta = trace.meta
    steps, batches, layers = _grid(trace)
    shape = (len(steps), batches, len(layers), meta.num_experts)
    totals = np.empty(shape)
    for record, place in zip(trace, np.ndindex(shape[:3]), strict=True):
        totals[place] = record.loads.sum(axis=0)
    sums = totals.sum(axis=-1, keepdims=True)
    parts = totals / sums
    pairs = float(sums.mean())
    shares = parts.mean(axis=1)
    cuts = find_gaps(steps)
    segments = segments_of(trace)
    if segments:
        cuts += np.searchsorted(steps, [first for _, first, _ in segments[1:]]).tolist()
    elif meta.phase == "prefill":
        cuts += find_switches(shares)
    places = pieces_of(cuts, len(steps))
    timeline = find_timeline(steps, places, moves=meta.phase == "training")
    sizes = tuple(n for n in EP_SIZES if n <= meta.num_experts) or (meta.num_experts,)
    dynamics = fit_dynamics(timeline, parts, pairs * batches)
    if len(steps) > 1:
        dynamics = calibrated(dynamics, shares, meta.top_k, sizes)
    tokens = max(1, round(pairs / (meta.top_k * meta.source_ranks)))
    sources: tuple[Sources, ...] = ()
    if meta.source_ranks > 1:
        ends = pairwise([0, *places, len(steps)])
        sources = tuple(_fit_piece(trace, steps[a:b], len(layers)) for a, b in ends)
    return Fitted(steps, layers, tokens, dynamics, sources, meta, trace.digest, segments)


def _grid(trace: Trace) -> tuple[NDArray[np.int32], int, NDArray[np.int32]]:
    """Return steps, micro-batches of each and layers; they must fill a grid."""
    keys = trace.keys()
    steps, layers = np.unique(keys[:, 0]), np.unique(keys[:, 2])
    whole = len(steps) * len(layers)
    if len(keys) == 0 or len(keys) // max(len(layers), 1) < _FEWEST:
        raise TraceError(
            f"has fewer than {_FEWEST} micro-batches, whose statistics would be the records",
            place="trace",
            value=len(keys) // max(len(layers), 1),
            remedy="fit to a longer trace, or draw one with a target imbalance",
        )
    _, of_step = np.unique(keys[:, [0, 2]], axis=0, return_counts=True)
    if len(of_step) != whole or len(set(of_step.tolist())) != 1:
        raise TraceError(
            "not every step has every layer in equally many micro-batches",
            place="trace",
            value=f"{len(keys)} records of {len(steps)} steps and {len(layers)} layers",
            remedy="cut the layers or steps that are whole, or repair it with drop-incomplete",
        )
    return steps, int(of_step[0]), layers


def _fit_piece(trace: Trace, steps: NDArray[np.int32], layers: int) -> Sources:
    """Read pairs of steps that follow each other, evenly over a piece, and fit its sources."""
    meta = trace.meta
    wanted = max(1, _SOURCE_ROWS // (2 * meta.source_ranks))
    starts = np.arange(0, max(len(steps) - 1, 1), max(2, -(-len(steps) // wanted)))
    chosen = np.unique(np.concatenate([starts, np.minimum(starts + 1, len(steps) - 1)]))
    found = []
    for step in steps[chosen].tolist():
        # the first micro-batch stands for the step
        part = [r.loads for r in trace.select(steps=step)][:layers]
        found.append(np.array(part, dtype=np.float64))
    return fit_sources(np.array(found), meta.top_k)


def segments_of(trace: Trace) -> list[tuple[str, int, int]]:
    """Return name, first and past-last step of the segments that the notes name."""
    given = trace.meta.notes.get("segments")
    inside = set(trace.steps.tolist())
    found = []
    try:
        for name, first, past_last in given or []:
            if any(step in inside for step in range(int(first), int(past_last))):
                found.append((str(name), int(first), int(past_last)))
    except (TypeError, ValueError):  # another tool's notes, in another form
        return []
    return found


def _check(name: str, value: object, low: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and low <= value < 2**31):  # type: ignore[operator]  # `whole`
        raise TraceError(
            f"{name} must be an integer in {low}..2^31 - 1",
            place=f"synthesize_like({name}=...)",
            value=value,
            remedy="give such a number",
        )


def _meta(fitted: Fitted, steps: int, seed: int) -> TraceMeta:
    real = fitted.real
    sampling = {key: value for key, value in real.sampling.items() if key != "steps"}
    if "steps" in real.sampling:
        sampling["steps"] = _windows(step_numbers(fitted.steps, steps))
    d = fitted.dynamics
    described = {
        "digest": fitted.digest,
        "model": real.model,
        **({"domain": real.notes["domain"]} if "domain" in real.notes else {}),
        "seed": seed,
        "steps": steps,
        "pieces": int(d.timeline.piece[-1]) + 1,
        "knots": d.timeline.num_knots,
        "memory_share": round(float(d.memory.sum(axis=-1).mean()), 4),
        "source_domains": [len(s.mix) for s in fitted.sources],
    }
    notes: dict[str, Any] = {"like": described}
    if fitted.segments and steps <= len(fitted.steps):
        numbers = step_numbers(fitted.steps, steps).tolist()
        kept = [s for s in fitted.segments if any(s[1] <= n < s[2] for n in numbers)]
        notes["segments"] = [list(s) for s in kept]
    return TraceMeta(
        model=f"synthetic like {real.model}",
        num_experts=real.num_experts,
        top_k=real.top_k,
        num_layers=real.num_layers,
        source_ranks=real.source_ranks,
        tokens_per_rank=fitted.tokens,
        phase=real.phase,
        recorded=f"drawn at random by ultraep_sim.trace.synthesize_like, seed {seed}, "
        f"fitted to the statistics of {fitted.digest[:16]}; no router",
        synthetic=True,
        sampling=sampling,
        notes=notes,
    )


def _windows(steps: NDArray[np.int64]) -> list[list[int]]:
    cuts = [0, *(np.flatnonzero(np.diff(steps) != 1) + 1).tolist(), len(steps)]
    return [[int(steps[a]), int(steps[b - 1]) + 1] for a, b in pairwise(cuts)]


def step_numbers(recorded: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Return the steps as recorded, and on from there at the usual distance."""
    spacing = int(np.median(np.diff(recorded))) if len(recorded) > 1 else 1
    more = int(recorded[-1]) + spacing * np.arange(1, max(count - len(recorded), 0) + 1)
    return np.concatenate([recorded[:count], more]).astype(np.int64)


@dataclass(frozen=True, eq=False)
class LikeSource:
    """Draws records on demand."""

    fitted: Fitted
    steps: int
    seed: int
    meta: TraceMeta

    def keys(self) -> NDArray[np.int32]:
        """Return step, micro-batch and layer of every record."""
        f = self.fitted
        numbers = step_numbers(f.steps, self.steps).astype(np.int32)
        batches = np.arange(f.dynamics.micro_batches, dtype=np.int32)
        grid = np.meshgrid(numbers, batches, f.layers, indexing="ij")
        return np.stack([axis.ravel() for axis in grid], axis=1)

    def count(self) -> int:
        """Return the number of records."""
        return self.steps * self.fitted.dynamics.micro_batches * len(self.fitted.layers)

    def digest(self) -> str:
        """Return the sha256 of the options and of what was fitted to: the draws follow."""
        about = {"like": _VERSION, "to": self.fitted.digest, "meta": self.meta.to_json()}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def records(self, selection: Selection) -> Iterator[Record]:
        """Draw the selected records; of the others, only what the noise must remember."""
        f = self.fitted
        numbers = step_numbers(f.steps, self.steps).tolist()
        domains: NDArray[np.int64] | None = None
        last: tuple[int, int] | None = None
        for at, weights in enumerate(popularity(f.dynamics, self.seed, self.steps)):
            round_, position = f.dynamics.timeline.position(at)
            piece = int(f.dynamics.timeline.piece[position])
            if f.sources:
                rng = stream(self.seed, SOURCES, at)
                before = domains if last == (round_, piece) else None
                domains = draw_domains(rng, f.sources[piece], self.meta.source_ranks, before)
            last = (round_, piece)
            if not selection.may_hold_steps(numbers[at], numbers[at]):
                continue
            for batch in range(f.dynamics.micro_batches):
                own = weights + batch_noise(f.dynamics, self.seed, at, batch)
                chance = inclusion_probabilities(own, self.meta.top_k)
                for i, layer in enumerate(f.layers.tolist()):
                    key = np.array([[numbers[at], batch, layer]], dtype=np.int32)
                    if selection.mask(key)[0]:
                        rng = stream(self.seed, DRAW, at, batch, i)
                        loads = self._draw(rng, piece, i, chance[i], domains)
                        yield Record(numbers[at], batch, layer, loads)

    def _draw(
        self,
        rng: np.random.Generator,
        piece: int,
        layer: int,
        chance: NDArray[np.float64],
        domains: NDArray[np.int64] | None,
    ) -> NDArray[np.int32]:
        f, top_k = self.fitted, self.meta.top_k
        if domains is not None:
            pairs = float(f.tokens * top_k)
            own = source_weights(rng, f.sources[piece], layer, chance, domains, pairs)
            chance = inclusion_probabilities(own, top_k)
        return draw_counts(rng, chance, self.meta.source_ranks, f.tokens)
