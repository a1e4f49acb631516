"""Small expert-parallel groups that the suites run on: plans, weights and gradients from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.planning import (
    EPLayout,
    MosaicOptions,
    MosaicSolver,
    Plan,
    QuotaOptions,
    QuotaSolver,
    Solution,
)
from ultraep_sim.planning.assemble import even_quotas, plan_from_replicas

Options = QuotaOptions | MosaicOptions


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the random stream of one use of a seed."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def random_loads(rng: np.random.Generator, layout: EPLayout, tokens: int) -> NDArray[np.int64]:
    """Draw skewed loads, int64 [ranks, experts]: every rank has ``tokens`` pairs."""
    share = rng.dirichlet(np.full(layout.num_experts, 0.15))
    draws = [rng.multinomial(tokens, share) for _ in range(layout.num_ranks)]
    return np.asarray(draws, np.int64)


def solve(layout: EPLayout, options: Options, total: NDArray[np.int64]) -> Solution:
    """Plan on the CPU with the planner that takes these options."""
    if isinstance(options, MosaicOptions):
        return MosaicSolver(layout).solve(total, options)
    return QuotaSolver(layout).solve(total, options)


def solved_plan(layout: EPLayout, loads: NDArray[np.int64], options: Options | None = None) -> Plan:
    """Plan on the CPU, with the published quota planner if nothing else is asked for."""
    solution = solve(layout, options or QuotaOptions(), loads.sum(axis=0))
    return plan_from_replicas(
        layout, loads, solution.expert, solution.rank, solution.quota, tau=solution.tau
    )


def fanout_plan(layout: EPLayout, fanout: int, expert: int = 0) -> Plan:
    """Give one expert ``fanout`` replicas, on the ranks after its home, and even quotas."""
    ranks = (int(layout.home[expert]) + 1 + np.arange(fanout)) % layout.num_ranks
    loads = np.full((layout.num_ranks, layout.num_experts), 3, np.int64)
    bare = plan_from_replicas(
        layout, loads, np.full(fanout, expert, np.int32), ranks.astype(np.int32),
        np.zeros(fanout, np.int64),
    )  # fmt: skip
    quota = even_quotas(loads.sum(axis=0), bare.offsets)[bare.is_replica]
    return plan_from_replicas(
        layout, loads, bare.expert[bare.is_replica], bare.rank[bare.is_replica], quota
    )


def random_weights(
    rng: np.random.Generator, layout: EPLayout, copy_bytes: int
) -> list[NDArray[np.uint8]]:
    """Draw main weights, a uint8 [mains, copy_bytes] for every rank."""
    return [
        rng.integers(0, 256, (int(rows), copy_bytes), np.uint8) for rows in layout.mains_per_rank
    ]


def expected_slots(
    plan: Plan, weights: list[NDArray[np.uint8]], main_row: NDArray[np.int32]
) -> dict[tuple[int, int], NDArray[np.uint8]]:
    """Say what every (rank, slot) of a plan's replicas must hold: straight from the plan."""
    home = plan.layout.home
    return {
        (int(plan.rank[i]), int(plan.slot[i])): weights[home[plan.expert[i]]][
            main_row[plan.expert[i]]
        ]
        for i in np.flatnonzero(plan.is_replica)
    }


@dataclass(frozen=True)
class Size:
    """A weight size: what it stands for, bytes, and the tiles it is cut into."""

    name: str
    copy_bytes: int
    tile_bytes: int
    chunk_tiles: int


SIZES = (
    Size("whole tiles", 6 * 64, 64, 2),
    Size("odd bytes", 5 * 64 + 37, 64, 2),
    Size("tail of 1 byte", 4 * 64 + 1, 64, 4),
    Size("less than a tile", 23, 64, 8),
    Size("tile of 48", 7 * 48 + 16, 48, 3),
    Size("published tile", 9 * 32768 + 4100, 32768, 8),
)
"""Sizes with and without misaligned tails, tiles that share no chunk, one with real tiles."""
