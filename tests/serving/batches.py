"""Batches of a prefill server, for tests: full ranks cut at random places into requests."""

import numpy as np

from ultraep_sim.model import get_model
from ultraep_sim.scenario.requests import RoutingSpec
from ultraep_sim.serving.routing import Routing, Segments, Typical, spread_layers

MODEL = get_model("qwen3-235b")


def make_routing(imbalance=3.0, *, domains=("maths", "code"), layers=None, ranks=64, **options):
    """Qwen3-235B on 64 ranks, 8 layers, 4096 tokens a rank in segments of 1600."""
    seed, draw = options.pop("seed", 5), options.pop("draw", "expected")
    shape = options.pop("shape", MODEL)
    return Routing(
        RoutingSpec(imbalance=imbalance, **options),
        shape,
        ranks,
        spread_layers(shape.moe_layers, 8) if layers is None else layers,
        domains,
        Typical(4096, 1600, np.ones(len(domains))),
        seed,
        draw=draw,
    )


def full_batch(rng, *, ranks=64, tokens=4096, mean=1600, domains=2, request_from=0):
    total = ranks * tokens
    cuts = rng.choice(total - 1, round(total / mean) - 1, replace=False) + 1
    starts = np.unique(np.concatenate([cuts, np.arange(ranks + 1) * tokens]))
    count = np.diff(starts)
    return Segments(
        starts[:-1] // tokens,
        request_from + np.arange(len(count)),
        count,
        rng.integers(0, domains, len(count)),
    )


def rank_imbalance(loads, ranks):
    """Max / mean rank load of loads [..., ranks, experts], homes contiguous and even."""
    by_rank = loads.sum(axis=-2).reshape(*loads.shape[:-2], ranks, -1).sum(axis=-1)
    return by_rank.max(axis=-1) / by_rank.mean(axis=-1)
