"""What the data cards say of a trace, computed from the trace itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

EP_SIZES = (8, 16, 32, 64)
LAGS = (1, 5, 15, 50, 200, 1000)


def expert_loads(trace: Any) -> tuple[np.ndarray, np.ndarray]:
    """Steps int64 [n] and loads summed over sources float64 [n, layers, experts].

    Every step must have every layer and one micro-batch, as the shipped traces have.
    """
    steps, rows = [], []
    for record in trace:
        steps.append(record.step)
        rows.append(record.loads.sum(axis=0, dtype=np.int64))
    layers = trace.meta.num_layers
    loads = np.array(rows, dtype=np.float64).reshape(-1, layers, trace.meta.num_experts)
    return np.array(steps).reshape(-1, layers)[:, 0], loads


def rank_imbalance(loads: np.ndarray, ranks: int) -> np.ndarray:
    """Max over mean rank load, contiguous experts, [..., experts] -> [...]."""
    per_rank = loads.reshape(*loads.shape[:-1], ranks, -1).sum(-1)
    return per_rank.max(-1) / per_rank.mean(-1)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation along the last axis."""
    a = a - a.mean(-1, keepdims=True)
    b = b - b.mean(-1, keepdims=True)
    norm = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), norm, out=np.zeros_like(norm), where=norm > 0)


def runs_of(steps: np.ndarray) -> list[tuple[int, int]]:
    """Index ranges of consecutive steps, half open."""
    cuts = np.flatnonzero(np.diff(steps) != 1) + 1
    ends = [0, *cuts.tolist(), len(steps)]
    return list(itertools.pairwise(ends))


def windows_of(steps: np.ndarray) -> list[tuple[str, slice]]:
    """Label the stretches a card reports: the recorded windows, or thirds of a whole run."""
    runs = runs_of(steps)
    if len(runs) == 1 and len(steps) >= 300:
        third = len(steps) // 3
        runs = [(0, 50), (50, third), (third, 2 * third), (2 * third, len(steps))]
    return [(f"{steps[a]}-{steps[b - 1]}", slice(a, b)) for a, b in runs]


def imbalance_table(steps: np.ndarray, loads: np.ndarray) -> list[str]:
    """Mean and 99th percentile of the imbalance over (step, layer), by window and EP size."""
    lines = ["| steps | " + " | ".join(f"EP{n} mean (p99)" for n in EP_SIZES) + " |"]
    lines.append("|---|" + "---:|" * len(EP_SIZES))
    windows = windows_of(steps)
    if len(windows) > 1:
        windows.append(("all", slice(None)))
    for label, window in windows:
        cells = []
        for ranks in EP_SIZES:
            values = rank_imbalance(loads[window], ranks)
            cells.append(f"{values.mean():.2f} ({np.percentile(values, 99):.2f})")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def layer_table(loads: np.ndarray) -> list[str]:
    """Mean EP64 imbalance of each layer."""
    values = rank_imbalance(loads, 64).mean(0)
    return [
        "| layer | " + " | ".join(str(i) for i in range(len(values))) + " |",
        "|---|" + "---:|" * len(values),
        "| mean EP64 imbalance | " + " | ".join(f"{v:.2f}" for v in values) + " |",
    ]


def lag_table(steps: np.ndarray, loads: np.ndarray) -> list[str]:
    """Correlation of expert loads between steps ``lag`` apart, mean over steps and layers.

    The second row removes each layer's mean profile over the window first: what persists
    of the deviation. Removing a mean makes distant steps of a short window look opposed, so
    only pairs inside a window of at least four lags count.
    """
    position = {int(step): index for index, step in enumerate(steps)}
    residual, window_of, length_of = (
        np.empty_like(loads),
        np.empty(len(steps)),
        np.empty(len(steps)),
    )
    for number, (_, window) in enumerate(windows_of(steps)):
        residual[window] = loads[window] - loads[window].mean(0, keepdims=True)
        window_of[window], length_of[window] = number, window.stop - window.start
    head, raw, rest = [], [], []
    for lag in LAGS:
        pairs = [(i, position[s + lag]) for s, i in position.items() if s + lag in position]
        if len(pairs) < 5:
            continue
        a, b = np.array(pairs).T
        head.append(str(lag))
        raw.append(f"{correlation(loads[a], loads[b]).mean():.3f}")
        inside = (window_of[a] == window_of[b]) & (length_of[a] >= 4 * lag)
        value = correlation(residual[a[inside]], residual[b[inside]]).mean() if inside.any() else 0
        rest.append(f"{value:.3f}" if inside.any() else "-")
    return [
        "| lag (steps) | " + " | ".join(head) + " |",
        "|---|" + "---:|" * len(head),
        "| expert-load correlation | " + " | ".join(raw) + " |",
        "| of the residual (window mean removed) | " + " | ".join(rest) + " |",
    ]


def drift_table(steps: np.ndarray, loads: np.ndarray) -> list[str]:
    """Correlation between the mean profiles of the windows, mean over layers."""
    windows = windows_of(steps)
    return profile_table([(label, loads[w].mean(0)) for label, w in windows])


def profile_table(profiles: Sequence[tuple[str, np.ndarray]]) -> list[str]:
    """Correlation between named profiles [layers, experts], mean over layers."""
    lines = ["| mean profile of | " + " | ".join(name for name, _ in profiles) + " |"]
    lines.append("|---|" + "---:|" * len(profiles))
    for name, profile in profiles:
        cells = [f"{correlation(profile, other).mean():.2f}" for _, other in profiles]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def statistics(trace: Any) -> str:
    """Return the statistics section of a data card, Markdown."""
    steps, loads = expert_loads(trace)
    meta = trace.meta
    parts = [
        f"{len(steps)} steps x {meta.num_layers} layers, {meta.source_ranks} source row(s) of "
        f"{meta.tokens_per_rank} tokens, {meta.num_experts} experts, top-{meta.top_k}. "
        "Rank imbalance = max rank load / mean rank load, experts contiguous on ranks.",
        "",
        *imbalance_table(steps, loads),
        "",
        *layer_table(loads),
        "",
        "Step-to-step correlation (same layer, mean over steps and layers):",
        "",
        *lag_table(steps, loads),
    ]
    segments = meta.notes.get("segments")
    if segments:
        named = [(name, loads[(steps >= a) & (steps < b)]) for name, a, b in segments]
        parts += ["", "By segment, mean EP64 imbalance: "]
        parts[-1] += ", ".join(f"{n} {rank_imbalance(x, 64).mean():.2f}" for n, x in named) + "."
        parts += ["", "Correlation between the segments' mean profiles:", ""]
        parts += profile_table([(name, x.mean(0)) for name, x in named])
    elif len(windows_of(steps)) > 1:
        parts += ["", "Drift: correlation between the windows' mean profiles:", ""]
        parts += drift_table(steps, loads)
    return "\n".join(parts)
