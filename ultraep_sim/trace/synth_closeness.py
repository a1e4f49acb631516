"""How close a synthetic trace is to the one it was fitted to, statistic by statistic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .container import Trace
from .stats import EP_SIZES, LayerStats, TraceStats, trace_stats
from .synth_like import segments_of
from .synth_trend import correlations, find_gaps, pieces_of


@dataclass(frozen=True)
class Compared:
    """One statistic of both traces.

    Attributes
    ----------
    name : str
    real, synthetic : float
        NaN where it is not defined.
    relative : bool
        Whether the difference is told as a share of ``real``.
    """

    name: str
    real: float
    synthetic: float
    relative: bool

    @property
    def difference(self) -> float:
        """``synthetic - real``, or that over ``real``."""
        apart = self.synthetic - self.real
        return apart / self.real if self.relative and self.real else apart

    def row(self) -> tuple[str, str, str, str]:
        """Return name, real, synthetic and difference as text."""
        apart = self.difference
        told = f"{100 * apart:+.1f} %" if self.relative else f"{apart:+.3f}"
        shown = "-" if math.isnan(apart) else told
        return self.name, _text(self.real), _text(self.synthetic), shown

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; None for what is not defined."""
        values = {"real": self.real, "synthetic": self.synthetic, "difference": self.difference}
        plain = {k: None if math.isnan(v) else v for k, v in values.items()}
        return {"name": self.name, **plain, "relative": self.relative}


def closeness(real: Trace, synthetic: Trace) -> list[Compared]:
    """Compare statistics over all layers.

    Parameters
    ----------
    real, synthetic : Trace
        Profiles of domains (or of recorded windows) are compared where both have the same.

    Returns
    -------
    list of Compared
        Imbalance by EP size, step correlation by lag, overdispersion, cross-layer, cross-domain.
    """
    sizes = [n for n in EP_SIZES if n <= real.meta.num_experts] or [real.meta.num_experts]
    a, b = (trace_stats(trace, sizes) for trace in (real, synthetic))
    found = [
        Compared(
            f"imbalance EP{n} {part}",
            float(getattr(a.overall.imbalance[n], part)),
            float(getattr(b.overall.imbalance[n], part)),
            relative=True,
        )
        for n in sizes
        for part in ("mean", "p99")
    ]
    found += [
        Compared(f"step correlation lag {lag}", value, b.overall.lag_correlation[lag], False)
        for lag, value in a.overall.lag_correlation.items()
    ]
    found += [
        _of_layers("correlation first-last steps", "drift", a, b, False),
        _of_layers("overdispersion", "overdispersion", a, b, True),
        _of_layers("overdispersion of sources", "source_overdispersion", a, b, True),
        Compared("cross-layer imbalance", a.cross_layer_imbalance, b.cross_layer_imbalance, False),
        Compared("cross-layer load", a.cross_layer_load, b.cross_layer_load, False),
    ]
    return found + _domains(real, synthetic)


def _of_layers(name: str, field: str, a: TraceStats, b: TraceStats, relative: bool) -> Compared:
    def value(layer: LayerStats) -> float:
        return float(getattr(layer, field))

    return Compared(name, value(a.overall), value(b.overall), relative)


def _domains(real: Trace, synthetic: Trace) -> list[Compared]:
    """Compare the correlations between the profiles of pieces, and the profiles themselves."""
    steps = real.steps
    named = [first for _, first, _ in segments_of(real)[1:]]
    cuts = pieces_of([*find_gaps(steps), *np.searchsorted(steps, named).tolist()], len(steps))
    if not cuts or not np.array_equal(steps, synthetic.steps[: len(steps)]):
        return []
    bounds = [0, *cuts, len(steps)]
    one, other = (_profiles(trace, steps, bounds) for trace in (real, synthetic))
    pairs = np.triu_indices(len(one), 1)
    apart, also = (correlations(p[pairs[0]], p[pairs[1]]).mean(axis=-1) for p in (one, other))
    worst = int(np.argmax(np.abs(also - apart)))
    return [
        Compared("cross-domain correlation", float(apart.mean()), float(also.mean()), False),
        Compared(
            "cross-domain, pair that differs most", float(apart[worst]), float(also[worst]), False
        ),
    ]


def _profiles(trace: Trace, steps: NDArray[np.int32], bounds: list[int]) -> NDArray[np.float64]:
    """Return the mean shares of every piece, [pieces, layers, experts]."""
    layers = {int(layer): i for i, layer in enumerate(trace.layers)}
    found = np.zeros((len(bounds) - 1, len(layers), trace.meta.num_experts))
    for i, (a, b) in enumerate(pairwise(bounds)):
        for record in trace.select(steps=slice(int(steps[a]), int(steps[b - 1]) + 1)):
            loads = record.loads.sum(axis=0, dtype=np.float64)
            found[i, layers[record.layer]] += loads / loads.sum()
    return found


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
