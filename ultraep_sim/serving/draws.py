"""Random streams of the requests: one a purpose, so that none disturbs another's draws."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Return the generator of one purpose.

    Parameters
    ----------
    seed : int
        The scenario's.
    purpose : str
        For example ``"lengths"``.

    Returns
    -------
    numpy.random.Generator
        Draws of one kind from it are stable by index: the first n of a longer draw are the draw of
        n, so that a request keeps what it is while the number of requests changes.
    """
    key = (zlib.crc32(f"requests/{purpose}".encode()),)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
