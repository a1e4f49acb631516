"""Zipf loads for benchmarks: over ranks, and with exponent 4.0 inside a rank."""

import numpy as np


def zipf_loads(rng, ranks, experts, imbalance, tokens=8192, top_k=8):
    """Expert loads, int64 [experts], whose rank imbalance is close to what is asked for."""
    low, high = 0.0, 4.0
    for _ in range(40):
        exponent = (low + high) / 2
        weight = 1 / np.arange(1, ranks + 1) ** exponent
        if weight.max() / weight.mean() < imbalance:
            low = exponent
        else:
            high = exponent
    inside = 1 / np.arange(1, experts // ranks + 1) ** 4.0
    share = np.outer(rng.permutation(weight), inside / inside.sum()).ravel()
    return rng.multinomial(tokens * ranks * top_k, share / share.sum()).astype(np.int64)
