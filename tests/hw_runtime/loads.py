"""Random layouts and loads that planners disagree on if they can: ties, zeros, huge totals."""

from __future__ import annotations

import numpy as np

from ultraep_sim.planning import EPLayout, QuotaOptions

MAX_TOTAL = 2**31 - 1
TARGETS = (1.0, 1.001, 1.01, 1.01, 1.1, 2.0)
FLOORS = (0, 0, 0, 1, 64, 1024, 2**40)


def random_layout(
    rng: np.random.Generator, max_ranks: int = 72, max_experts: int = 512
) -> EPLayout:
    ranks = int(rng.integers(1, max_ranks + 1))
    experts = int(rng.integers(1, max_experts + 1))
    slots = int(rng.integers(0, min(4, experts) + 1))
    domain = min(ranks, int(rng.choice([ranks, ranks, 8, max(1, ranks // 3)])))
    home = rng.integers(0, ranks, experts) if rng.random() < 0.3 else None
    return EPLayout(ranks, experts, slots, domain, home)


def random_matrix(rng: np.random.Generator, layout: EPLayout) -> np.ndarray:
    """Draw int32 loads [1 or ranks, experts] of one of several kinds."""
    ranks, experts = layout.num_ranks, layout.num_experts
    sources = int(rng.choice([1, ranks]))
    kind = rng.integers(6)
    if kind == 0:  # few different values: ties everywhere
        return rng.choice([0, 1, 7, 100], (sources, experts)).astype(np.int32)
    if kind == 1:  # almost nothing
        return (rng.random((sources, experts)) < 0.05).astype(np.int32)
    total = int(rng.choice([1000, 65536 * ranks, MAX_TOTAL]))
    share = rng.dirichlet(np.full(experts, rng.choice([0.05, 0.3, 2.0])))
    if kind == 2:  # one expert has nearly all
        share = 0.02 * share
        share[rng.integers(experts)] += 0.98
    cells = np.floor(rng.dirichlet(np.full(sources, 5.0))[:, None] * share * total)
    matrix = cells.astype(np.int64)
    if total == MAX_TOTAL:  # exactly the largest that is allowed
        matrix[rng.integers(sources), rng.integers(experts)] += MAX_TOTAL - int(matrix.sum())
    return matrix.astype(np.int32)


def random_options(rng: np.random.Generator) -> QuotaOptions:
    return QuotaOptions(float(rng.choice(TARGETS)), int(rng.choice(FLOORS)))
