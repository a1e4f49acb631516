"""KV cache of prefill: what a request fills, and what a rank has room for.

A request keeps the keys and values of its tokens on its attention rank, in every layer, until it
leaves for decoding. Room for them is what weights, slots, activations and buffers leave free.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..engine.memory import memory_use
from ..engine.options import LayerOptions
from ..errors import ProfileError, ScenarioError
from ..model.attention import in_reach
from ..model.dtypes import activation_bytes
from ..model.shapes import ModelShape

if TYPE_CHECKING:
    from ..policies import Policy
    from ..scenario import Scenario


def kv_bytes_per_token(shape: ModelShape, dtype: str = "bf16") -> float:
    """Bytes of keys and values of one token in all layers, none of them out of a window yet."""
    return shape.layers * shape.attention.cache_elements * activation_bytes(dtype)


def kv_bytes(
    shape: ModelShape, tokens: NDArray[np.int64], dtype: str = "bf16"
) -> NDArray[np.float64]:
    """Bytes of keys and values of requests; layers with a sliding window keep no more than it.

    Parameters
    ----------
    shape : ModelShape
    tokens : int64 [N]
        Tokens of each request so far, found ones included.
    dtype : {"bf16", "fp8"}
        Of the cache; a format with block scales counts them.

    Returns
    -------
    float64 [N]
    """
    held = np.zeros(tokens.shape)
    for share, window in shape.attention.layer_kinds:
        held += share * in_reach(tokens, window)
    return held * kv_bytes_per_token(shape, dtype)


def kv_capacity(
    scenario: Scenario, policy: Policy, options: LayerOptions, hottest_pairs: float
) -> float:
    """Bytes left for the KV cache on the fullest rank of a server.

    Parameters
    ----------
    scenario : Scenario
        With a serving section.
    policy : Policy
        Its layout and transport decide what mains and slots take.
    options : LayerOptions
        Formats of weights and wires; phase and tokens are the server's.
    hottest_pairs : float
        Pairs of the hottest rank in the fullest step that is expected, after balancing. With
        `token_budget` tokens on every rank that bounds the activations of a step: one layer of
        them, and what dispatch, experts and combine hold for these pairs.

    Returns
    -------
    float
        Bytes; room for at least one step's tokens.

    Raises
    ------
    ScenarioError
        The scenario serves nothing.
    ProfileError
        A rank has no room for the keys and values of one step; the message names what fills it.
    """
    spec = scenario.serving
    if spec is None:
        raise ScenarioError(
            "the scenario serves nothing",
            file=scenario.source_path,
            place="serving",
            remedy="add workload.requests and a serving section",
        )
    budget, ranks = spec.token_budget, policy.layout.num_ranks
    price = policy.price()
    use = memory_use(
        scenario.model,
        scenario.rack,
        policy.layout,
        np.full((1, ranks), hottest_pairs),
        replace(options, phase="prefill", tokens_per_rank=budget),
        transport=price.transport,
        prefetched=price.prefetched,
    )
    needed = float(kv_bytes(scenario.model, np.array(budget), spec.kv_dtype))
    if use.free < needed:
        raise ProfileError(
            f"needs {use.shown()}, which leaves no room for the {needed / 1e9:.2f} GB of KV cache "
            f"of one step's {budget} tokens",
            place=policy.name,
            remedy="lower serving.token_budget or ep.slots_per_rank, or use more ranks",
        )
    return use.free
