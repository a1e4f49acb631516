"""What a trace's routing is like: imbalance, dynamics, noise, and whether it is sound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import TraceError
from .checks import RecordChecker
from .container import Trace
from .layer_stats import LayerTally, correlation, rank_starts

EP_SIZES = (8, 16, 32, 64)
LAGS = (1, 5, 10)


class Check(NamedTuple):
    """One check of a trace: its name, whether it holds, and what was found."""

    name: str
    ok: bool
    detail: str


class Spread(NamedTuple):
    """Mean, median, 99th percentile and maximum over records."""

    mean: float
    p50: float
    p99: float
    max: float


@dataclass(frozen=True)
class LayerStats:
    """Statistics of one layer, or of all layers together.

    Attributes
    ----------
    layer : int or None
        None for all layers.
    imbalance : dict of int to Spread
        Per expert-parallel size (contiguous homes), max / mean rank load over records.
    lag_correlation : dict of int to float
        Mean correlation of the expert loads of steps that lie so many recorded steps apart.
    drift : float
        Correlation of the expert loads between the first and the last steps; 1 is no drift.
    overdispersion : float
        Variance of expert loads between micro-batches over that of independent pairs
        (multinomial); 1 means that popularity does not move. Chi-squared over its degrees of
        freedom, against the layer's mean popularity.
    unused_experts : int
        Experts without any pair.
    source_overdispersion : float
        Variance of expert loads between the source rows of a micro-batch over that of independent
        pairs; 1 means that sources do not differ. NaN where the source is unknown.
    """

    layer: int | None
    imbalance: dict[int, Spread]
    lag_correlation: dict[int, float]
    drift: float
    overdispersion: float
    unused_experts: int
    source_overdispersion: float = math.nan


@dataclass(frozen=True)
class TraceStats:
    """Statistics of a trace; `trace_stats` makes them.

    Attributes
    ----------
    model, phase, kind, recorded : str
        From the metadata; ``kind`` is ``"recorded"`` or ``"SYNTHETIC"``.
    digest : str
    num_records, num_steps, num_micro_batches, num_layers, source_ranks, num_experts, top_k : int
        What is present. ``num_micro_batches`` counts (step, micro-batch) pairs.
    first_step, last_step : int
    step_spacing : float
        Median distance of recorded steps; lags count recorded steps.
    tokens : tuple of int
        Fewest and most tokens in a source row.
    overall : LayerStats
    layers : tuple of LayerStats
    cross_layer_imbalance : float
        Mean correlation over micro-batches between the imbalances of two layers, at the
        largest expert-parallel size. Pipelines amplify imbalance that layers share.
    cross_layer_load : float
        Mean correlation between the mean rank loads of two layers, at the same size: above 0,
        the same ranks are hot in many layers.
    checks : tuple of Check
    """

    model: str
    phase: str
    kind: str
    recorded: str
    digest: str
    num_records: int
    num_steps: int
    num_micro_batches: int
    num_layers: int
    source_ranks: int
    num_experts: int
    top_k: int
    first_step: int
    last_step: int
    step_spacing: float
    tokens: tuple[int, int]
    overall: LayerStats
    layers: tuple[LayerStats, ...]
    cross_layer_imbalance: float
    cross_layer_load: float
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; what is undefined (one step only, ...) is None."""
        plain = {
            name: value
            for name, value in vars(self).items()
            if name not in ("overall", "layers", "checks")
        }
        plain["tokens"] = list(self.tokens)
        plain["overall"] = _layer_dict(self.overall)
        plain["layers"] = [_layer_dict(layer) for layer in self.layers]
        plain["checks"] = [check._asdict() for check in self.checks]
        return {name: _none_for_nan(value) for name, value in plain.items()}

    def rows(self) -> list[dict[str, str]]:
        """Return the table of layers, with a last row for all: column name to text."""
        return [_table_row(layer) for layer in (*self.layers, self.overall)]


def trace_stats(trace: Trace, ep_sizes: Sequence[int] = EP_SIZES) -> TraceStats:
    """Compute statistics in one pass.

    Memory does not grow with the size of the load matrices: a few numbers are kept per
    record, and a few vectors of experts per layer.

    Parameters
    ----------
    trace : Trace
    ep_sizes : sequence of int
        Expert-parallel sizes for rank imbalance. Those above the number of experts are left
        out, because most of their ranks would be empty.

    Returns
    -------
    TraceStats

    Raises
    ------
    TraceError
        If the trace breaks a rule of the format, holds no record, or no size fits.
    """
    meta = trace.meta
    sizes = tuple(sorted({int(size) for size in ep_sizes if 1 <= size <= meta.num_experts}))
    if not sizes:
        raise TraceError(
            "no expert-parallel size fits the experts",
            place="trace_stats(ep_sizes=...)",
            value=list(ep_sizes),
            remedy=f"give sizes in 1..{meta.num_experts}",
        )
    starts = [rank_starts(size, meta.num_experts) for size in sizes]
    checker = RecordChecker(meta)
    tallies: dict[int, LayerTally] = {}
    keys: list[tuple[int, int, int]] = []
    fewest, most = 2**31, 0
    for step, micro_batch, layer, loads in trace:
        key = (step, micro_batch, layer)
        checker.check(np.array([key], dtype=np.int32), loads[None])
        rows = loads.sum(axis=1, dtype=np.int64)
        fewest, most = min(fewest, int(rows.min())), max(most, int(rows.max()))
        if layer not in tallies:
            tallies[layer] = LayerTally(meta.num_experts, starts, LAGS)
        tallies[layer].add(step, loads.sum(axis=0, dtype=np.int64))
        if meta.source_ranks > 1:
            tallies[layer].add_sources(loads)
        keys.append(key)
    if not keys:
        raise TraceError("the trace has no records", place="records", remedy="select more steps")
    table = np.array(keys, dtype=np.int32)
    layers = tuple(_layer_stats(n, tally, sizes) for n, tally in sorted(tallies.items()))
    steps = np.unique(table[:, 0])
    tokens = (fewest // meta.top_k, most // meta.top_k)
    ordered = [tallies[layer] for layer in sorted(tallies)]
    return TraceStats(
        model=meta.model,
        phase=meta.phase,
        kind=meta.kind,
        recorded=meta.recorded,
        digest=trace.digest,
        num_records=len(table),
        num_steps=len(steps),
        num_micro_batches=len(np.unique(table[:, :2], axis=0)),
        num_layers=len(layers),
        source_ranks=meta.source_ranks,
        num_experts=meta.num_experts,
        top_k=meta.top_k,
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        step_spacing=float(np.median(np.diff(steps))) if len(steps) > 1 else math.nan,
        tokens=tokens,
        overall=_overall(layers, ordered, sizes),
        layers=layers,
        cross_layer_imbalance=_mean_pairwise([t.imbalances[-1] for t in ordered]),
        cross_layer_load=_mean_pairwise([t.rank_total(starts[-1]) for t in ordered]),
        checks=_checks(trace, table, tokens),
    )


def _layer_stats(layer: int, tally: LayerTally, sizes: tuple[int, ...]) -> LayerStats:
    tally.close_step()
    return LayerStats(
        layer=layer,
        imbalance={
            size: _spread(values) for size, values in zip(sizes, tally.imbalances, strict=True)
        },
        lag_correlation=tally.lag_correlation(),
        drift=tally.drift(),
        overdispersion=tally.overdispersion(),
        unused_experts=int((tally.total == 0).sum()),
        source_overdispersion=tally.source_overdispersion(),
    )


def _overall(
    layers: tuple[LayerStats, ...], tallies: list[LayerTally], sizes: tuple[int, ...]
) -> LayerStats:
    pooled = [np.concatenate([t.imbalances[at] for t in tallies]) for at in range(len(sizes))]
    return LayerStats(
        layer=None,
        imbalance={size: _spread(values) for size, values in zip(sizes, pooled, strict=True)},
        lag_correlation={
            lag: _nan_mean([layer.lag_correlation[lag] for layer in layers]) for lag in LAGS
        },
        drift=_nan_mean([layer.drift for layer in layers]),
        overdispersion=_nan_mean([layer.overdispersion for layer in layers]),
        unused_experts=sum(layer.unused_experts for layer in layers),
        source_overdispersion=_nan_mean([layer.source_overdispersion for layer in layers]),
    )


def _checks(trace: Trace, keys: NDArray[np.int32], tokens: tuple[int, int]) -> tuple[Check, ...]:
    """List the checks. The first were made on every record, which raise where they fail."""
    meta = trace.meta
    records = f"{len(keys)} records"
    rows = f"{len(keys) * meta.source_ranks} rows"
    return (
        Check("records ordered, each once, no row missing", True, records),
        Check(f"row sums are multiples of top-{meta.top_k}", True, rows),
        Check("no expert twice in a token", True, rows),
        Check("row sums agree across layers", True, records),
        _check_layers(meta.sampling.get("layers"), meta.num_layers, keys),
        _check_complete(keys),
        _check_steps(int(meta.sampling.get("step_every", 1)), "steps" in meta.sampling, keys),
        Check(
            f"rows hold the nominal {meta.tokens_per_rank} tokens",
            tokens == (meta.tokens_per_rank, meta.tokens_per_rank),
            f"{tokens[0]}..{tokens[1]} tokens",
        ),
    )


def _check_layers(sampled: list[int] | None, num_layers: int, keys: NDArray[np.int32]) -> Check:
    due = list(range(num_layers)) if sampled is None else sorted(sampled)
    present = np.unique(keys[:, 2]).tolist()
    name = "all layers are there" if sampled is None else "all sampled layers are there"
    return Check(name, present == due, f"{len(present)} of {len(due)} layers")


def _check_complete(keys: NDArray[np.int32]) -> Check:
    _, per_batch = np.unique(keys[:, :2], axis=0, return_counts=True)
    few, many = int(per_batch.min()), int(per_batch.max())
    detail = f"{many} layers in each" if few == many else f"{few}..{many} layers"
    return Check("every micro-batch has the same number of layers", few == many, detail)


def _check_steps(every: int, windows: bool, keys: NDArray[np.int32]) -> Check:
    gaps = np.diff(np.unique(keys[:, 0]))
    wide = int((gaps != every).sum())
    detail = "no gap" if not wide else f"{wide} other gaps, up to {int(gaps.max())} steps"
    # Recorded windows have gaps between them on purpose.
    return Check(f"steps are {every} apart", not wide or windows, detail)


def _spread(values: NDArray[np.float64]) -> Spread:
    p50, p99 = np.percentile(values, [50, 99])
    return Spread(float(values.mean()), float(p50), float(p99), float(values.max()))


def _mean_pairwise(series: list[NDArray[np.float64]]) -> float:
    """Mean correlation over pairs; NaN where there are none, or lengths differ."""
    if len({len(values) for values in series}) != 1:
        return math.nan
    return _nan_mean(
        [correlation(one, other) for at, one in enumerate(series) for other in series[at + 1 :]]
    )


def _nan_mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _none_for_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _layer_dict(layer: LayerStats) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "imbalance": {str(size): spread._asdict() for size, spread in layer.imbalance.items()},
        "lag_correlation": {
            str(lag): _none_for_nan(value) for lag, value in layer.lag_correlation.items()
        },
        "drift": _none_for_nan(layer.drift),
        "overdispersion": _none_for_nan(layer.overdispersion),
        "unused_experts": layer.unused_experts,
        "source_overdispersion": _none_for_nan(layer.source_overdispersion),
    }


def _table_row(layer: LayerStats) -> dict[str, str]:
    row = {"layer": "all" if layer.layer is None else str(layer.layer)}
    for size, spread in layer.imbalance.items():
        row[f"EP{size} mean"] = f"{spread.mean:.2f}"
        row[f"EP{size} p99"] = f"{spread.p99:.2f}"
    for lag, value in layer.lag_correlation.items():
        row[f"lag {lag}"] = _text(value)
    row["first-last"] = _text(layer.drift)
    row["overdispersion"] = _text(layer.overdispersion)
    row["unused"] = str(layer.unused_experts)
    return row


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
