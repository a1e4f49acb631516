"""What a run measures with: device, clock, seed, and which sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .timing import Clock

MIB = 2**20


@dataclass(frozen=True)
class Sizes:
    """Which cases are measured.

    Attributes
    ----------
    ranks, experts : tuple of int
        Of planner, histogram and reroute.
    tokens, top_k : int
        Of one rank.
    expert_bytes, fan_outs : tuple of int
        Of tile streaming.
    gradient_bytes : int
        Of the reduction, fp32.
    replicas, sms : tuple
        Of the reduction; None for all multiprocessors.
    shapes : tuple of (hidden, ffn)
        Of the grouped products and the block (the first).
    experts_per_rank, tokens_per_expert : tuple of int
    block_ranks, block_experts, block_tokens : int
    """

    ranks: tuple[int, ...]
    experts: tuple[int, ...]
    tokens: int
    top_k: int
    expert_bytes: tuple[int, ...]
    fan_outs: tuple[int, ...]
    gradient_bytes: int
    replicas: tuple[int, ...]
    sms: tuple[int | None, ...]
    shapes: tuple[tuple[int, int], ...]
    experts_per_rank: tuple[int, ...]
    tokens_per_expert: tuple[int, ...]
    block_ranks: int
    block_experts: int
    block_tokens: int


GPU = Sizes(
    ranks=(8, 16, 32, 64, 72),
    experts=(128, 256, 512),
    tokens=8192,
    top_k=8,
    # Qwen3-30B, GLM-4.5-Air, Qwen3-235B, DeepSeek-V3: 3 x hidden x FFN in bf16.
    expert_bytes=(9 * MIB, 33 * MIB, 36 * MIB, 84 * MIB),
    fan_outs=(1, 2, 4, 7, 15, 31, 63),
    gradient_bytes=72 * MIB,
    replicas=(1, 4, 6, 15),
    sms=(None, 16, 32, 42, 64),
    shapes=((4096, 1536), (7168, 2048)),
    experts_per_rank=(2, 4, 8),
    tokens_per_expert=(16, 64, 128, 256, 512, 1024, 2048, 4096),
    block_ranks=16,
    block_experts=64,
    block_tokens=4096,
)
HOST = Sizes(
    ranks=(8, 32, 64, 72),
    experts=(128, 256, 512),
    tokens=8192,
    top_k=8,
    expert_bytes=(),
    fan_outs=(),
    gradient_bytes=0,
    replicas=(),
    sms=(),
    shapes=((128, 64),),
    experts_per_rank=(4,),
    tokens_per_expert=(16, 64, 256),
    block_ranks=8,
    block_experts=32,
    block_tokens=64,
)
"""What one CPU gets through in seconds; it has no transfers to time."""
TINY = Sizes(
    ranks=(8,),
    experts=(16,),
    tokens=64,
    top_k=2,
    expert_bytes=(MIB,),
    fan_outs=(1, 3),
    gradient_bytes=MIB,
    replicas=(1, 2),
    sms=(None,),
    shapes=((32, 16),),
    experts_per_rank=(2,),
    tokens_per_expert=(8,),
    block_ranks=4,
    block_experts=8,
    block_tokens=32,
)
"""Only to see that everything runs."""


@dataclass(frozen=True)
class Setting:
    """See the module."""

    fabric: str
    device: torch.device
    clock: Clock
    sizes: Sizes
    seed: int

    def stream(self, *key: int) -> np.random.Generator:
        """Return the random stream of one use of the seed."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
