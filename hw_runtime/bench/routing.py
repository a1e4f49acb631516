"""Rows of what happens between gating and dispatch: histogram, planner, reroute."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ultraep_sim.planning import (
    EPLayout,
    MosaicOptions,
    MosaicSolver,
    QuotaOptions,
    QuotaSolver,
)

from ..counting import LoadCounter
from ..planner import QuotaPlanner
from ..planners import Options, open_planner
from ..rerouter import Rerouter
from .rows import HistogramRow, PlannerRow, RerouteRow, Row
from .setting import Setting

SLOTS = 2
ZIPF = 1.0
BUFFERS = 8
"""Other loads at every call: what a plan costs depends on them, and branches are not learnt."""


def shares(rng: np.random.Generator, experts: int, exponent: float = ZIPF) -> NDArray[np.float64]:
    """Zipf popularity in random order, float64 [experts]."""
    weight = np.arange(1, experts + 1, dtype=np.float64) ** -exponent
    rng.shuffle(weight)
    return np.asarray(weight / weight.sum())


def draw_ids(
    rng: np.random.Generator, share: NDArray[np.float64], tokens: int, top_k: int
) -> NDArray[np.int32]:
    """Draw k distinct experts a token, int32 [tokens, k] (Gumbel top-k)."""
    scores = np.log(share) + rng.gumbel(size=(tokens, len(share)))
    return np.argpartition(scores, -top_k, axis=1)[:, -top_k:].astype(np.int32)


def planner_rows(setting: Setting) -> Iterator[Row]:
    """Plan for groups of 8 to 72 ranks and 128 to 512 experts."""
    for ranks in setting.sizes.ranks:
        for experts in setting.sizes.experts:
            layout = EPLayout(ranks, experts, SLOTS)
            rng = setting.stream(1, ranks, experts)
            loads = [
                np.array([rng.multinomial(65536, share) for _ in range(ranks)])
                for share in (shares(rng, experts) for _ in range(BUFFERS))
            ]
            for options in (QuotaOptions(), MosaicOptions()):
                yield _plan(setting, layout, options, loads)


def _plan(
    setting: Setting, layout: EPLayout, options: Options, loads: list[NDArray[np.int64]]
) -> PlannerRow:
    planner = open_planner(layout, options, device=setting.device)
    given = [torch.from_numpy(one.astype(np.int32)).to(setting.device) for one in loads]
    out = [planner.empty() for _ in given]
    time = setting.clock.replay(lambda i: planner.plan(given[i % BUFFERS], out[i % BUFFERS]))
    plan = out[0].plan(given[0])
    return PlannerRow(
        time, planner.policy, layout.num_ranks, layout.num_experts, layout.slots_per_rank,
        plan.imbalance_before, plan.imbalance, plan.num_replicas,
    )  # fmt: skip


def histogram_rows(setting: Setting) -> Iterator[Row]:
    """Count one rank's top-k ids."""
    tokens, top_k = setting.sizes.tokens, setting.sizes.top_k
    for experts in setting.sizes.experts:
        rng = setting.stream(2, experts)
        ids = [
            torch.from_numpy(draw_ids(rng, shares(rng, experts), tokens, top_k)).to(setting.device)
            for _ in range(BUFFERS)
        ]
        counter = LoadCounter(experts, device=setting.device)
        time = setting.clock.replay(
            lambda i, counter=counter, ids=ids: counter.topk(ids[i % BUFFERS])  # type: ignore[misc]  # bound now
        )
        yield HistogramRow(time, experts, tokens, top_k)


def reroute_rows(setting: Setting) -> Iterator[Row]:
    """Split the loads, and choose instances for one rank's tokens."""
    for ranks in setting.sizes.ranks:
        for experts in setting.sizes.experts:
            yield from _reroute(setting, EPLayout(ranks, experts, SLOTS))


def _reroute(setting: Setting, layout: EPLayout) -> Iterator[Row]:
    tokens, top_k, device = setting.sizes.tokens, setting.sizes.top_k, setting.device
    ranks, experts = layout.num_ranks, layout.num_experts
    rng = setting.stream(3, ranks, experts)
    share = shares(rng, experts)
    ids = draw_ids(rng, share, tokens, top_k)
    loads = np.array([rng.multinomial(tokens * top_k, share) for _ in range(ranks)])
    loads[0] = np.bincount(ids.ravel(), minlength=experts)
    given = torch.from_numpy(loads.astype(np.int32)).to(device)
    mine = torch.from_numpy(ids).to(device)
    plan = QuotaPlanner(layout, device=device).plan(given)
    rerouter = Rerouter(layout, device=device)
    counts = LoadCounter(experts, device=device).topk(mine)
    numbers = (ranks, experts, layout.slots_per_rank, tokens, top_k)
    time = setting.clock.replay(lambda _: rerouter.split(given, plan))
    yield RerouteRow(time, "split", *numbers)
    row = rerouter.split(given, plan)[0].contiguous()
    time = setting.clock.replay(lambda _: rerouter.topk(mine, counts, plan, row))
    yield RerouteRow(time, "tokens", *numbers)


def warm_host() -> None:
    """Compile what numba compiles, so that no first call is timed."""
    layout = EPLayout(4, 8, 1)
    loads = np.full(8, 9, np.int64)
    QuotaSolver(layout).solve(loads)
    MosaicSolver(layout).solve(loads)
