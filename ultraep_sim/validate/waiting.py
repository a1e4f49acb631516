"""Waiting of data-parallel replicas for the slowest: how much, and under which correlation.

Replicas share the model, so a layer's skew is the same in all of them; what differs is the noise of
their micro-batches. Gradients are in sync when the slowest replica is done. How much that costs
hangs on what the noise of the layers of one micro-batch has in common, which nobody has published:
here both ends, layers that are independent and layers that all move together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.layer import LayerOptions, layer_times
from ..model import get_rack
from .dynamics import LAYERS, MICRO_BATCHES, TILE_ROWS, PolicyLoads
from .show import ERROR, Column
from .training import RACK, SEQUENCE, Prepared
from .training_cases import TOKENS, Case

Row = dict[str, Any]

_TRIALS = 2000

WAITING = (
    Column("model", "model"),
    Column("policy", "policy"),
    Column("replicas", "replicas", "{:d}"),
    Column("independent", "layers independent", ERROR),
    Column("together", "layers together", ERROR),
)


def waiting_rows(prepared: Sequence[Prepared]) -> list[Row]:
    """Return what waiting adds to the step, as a share of the ideal one.

    Returns
    -------
    list of dict
        ``model``, ``policy``, ``replicas``, ``independent``, ``together``; models with one replica
        have nothing to wait for and are left out.
    """
    return [
        {
            "model": one.case.shape.name,
            "policy": policy,
            "replicas": one.case.replicas,
            **_waiting(one.case, loads),
        }
        for one in prepared
        if one.case.replicas > 1
        for policy, loads in one.loads.items()
        if policy != "ideal"
    ]


def _waiting(case: Case, loads: PolicyLoads) -> dict[str, float]:
    options = LayerOptions(TOKENS, sequence_length=SEQUENCE, tile_rows=TILE_ROWS)
    times = layer_times(case.shape, get_rack(RACK), loads.stats, loads.price, options).layer_s
    by_layer = times.reshape(-1, LAYERS)  # one row a micro-batch
    noise = by_layer - by_layer.mean(axis=0)
    rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(case.replicas,)))
    draws = (_TRIALS, case.replicas, MICRO_BATCHES)
    layers = int(case.layers)
    step = MICRO_BATCHES * case.ideal_s(SEQUENCE)
    found = {}
    for name, width in (("independent", layers), ("together", 1)):
        # A layer's noise is drawn from what the records of its stand-in have.
        total = np.zeros(draws[:2])
        for layer in range(width):
            column = noise[:, layer % LAYERS]
            total += rng.choice(column, size=draws).sum(axis=2) * (layers // width)
        found[name] = float((total.max(axis=1) - total.mean(axis=1)).mean() / step)
    return found
