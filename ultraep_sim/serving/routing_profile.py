"""Popularity of experts in a layer, by domain and by request.

Log popularity of an expert in a domain is a weighted sum of two independent parts, one that all
domains of the layer share and one of the domain's own, with weights c and sqrt(1 - c^2): both
parts have the same variance, so any two domains correlate with c^2. Each part is
`ultraep_sim.trace.synth_profile`'s: Zipf over ranks, its exponent to be found, and Zipf inside a
rank. A request strays from its domain by noise on log popularity.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..trace.synth_profile import ZipfProfile

#: Ways to stray that the requests of a domain have in a layer: so many that a batch rarely holds
#: one often, few enough that every step can read them from a table.
ARCHETYPES = 64

# Keys of random streams; routing_pilot.py has 2, routing.py 3 and 4.
_COMMON, _OWN = 0, 1


def spread_layers(moe_layers: int, count: int) -> NDArray[np.int64]:
    """Return ``count`` evenly spread MoE layers, each in the middle of those it stands for.

    Examples
    --------
    >>> spread_layers(94, 4).tolist()
    [11, 35, 58, 82]
    """
    count = min(count, moe_layers)
    return np.asarray((2 * np.arange(count) + 1) * moe_layers // (2 * count), np.int64)


@dataclass(frozen=True, eq=False)
class Popularity:
    """Log popularity in one layer, but for the exponent.

    With a Zipf exponent a over ranks it is ``inner - a * place``.

    Attributes
    ----------
    inner : ndarray of float64, shape [domains, archetypes, experts]
        Log share of an expert in its rank and, on top, how the archetype strays.
    place : ndarray of float64, shape [domains, experts]
        Log place of its rank, mixed and centred.
    """

    inner: NDArray[np.float64]
    place: NDArray[np.float64]

    def chances(self, exponent: float, top_k: int) -> NDArray[np.float64]:
        """Return inclusion probabilities [domains x archetypes, experts], rows summing to top-k."""
        weights = self.inner - exponent * self.place[:, None]
        flat = weights.reshape(-1, weights.shape[-1])
        chance: NDArray[np.float64] = np.exp(flat - flat.max(axis=1, keepdims=True))
        _fill(chance, top_k)
        return chance


@njit(cache=True)
def _fill(chance, top_k):  # type: ignore[no-untyped-def]
    """Turn popularity [rows, experts] into inclusion probabilities, in place.

    The same water filling as `ultraep_sim.trace.synth_profile.inclusion_probabilities`, which
    sorts; few experts reach 1, so that a few passes find them ten times as fast.
    """
    experts = chance.shape[1]
    full = np.empty(experts, np.bool_)
    for popular in chance:
        full[:] = False
        room = top_k
        while True:
            rest = 0.0
            for e in range(experts):
                if not full[e]:
                    rest += popular[e]
            level = rest * (1.0 - 1e-12)  # rounding must not keep the last expert from 1
            before = room
            scale = room / max(rest, 1e-300)
            for e in range(experts):
                if not full[e] and popular[e] * before >= level:
                    full[e] = True
                    room -= 1
            if room == before or room == 0:
                break
        for e in range(experts):
            if full[e]:
                popular[e] = 1.0
            else:
                popular[e] = popular[e] * scale if room > 0 else 0.0


def draw_popularity(
    zipf: ZipfProfile,
    layer: int,
    domains: Sequence[str],
    *,
    correlation: float,
    noise: float,
    seed: int,
) -> Popularity:
    """Draw the popularity of experts in one layer.

    Parameters
    ----------
    zipf : ZipfProfile
    layer : int
        Among the MoE layers.
    domains : sequence of str
        A domain's draws depend on its name: it keeps its profile in every mix.
    correlation : float
        Of log popularity between two domains.
    noise : float
        Standard deviation of log popularity between requests of a domain.
    seed : int

    Notes
    -----
    The parts are centred before they are mixed. A popularity's scale means nothing, its log's
    offset neither; but with c + sqrt(1 - c^2) above 1, mixing would amplify the offset of a rank
    with more experts than another, where each has a smaller share. Mixed shares are scaled to
    sum to 1 in every rank again, so that exponent 0 still means ranks of equal popularity. The
    correlation is exact for ranks; over experts that scaling takes some of it (with two experts
    a rank 0.3 comes out as 0.25 at exponent 0 and 0.29 at 3).

    The archetypes' noise sums to zero in every expert and is scaled up for what that takes from
    its variance: the geometric mean over archetypes is exactly the domain's popularity. The mean
    of their inclusion probabilities is flatter than the domain's; the exponent is found with it.
    """
    home = zipf.home()
    common_inner, common_place = _part(zipf, home, stream(seed, _COMMON, layer))
    c, own = math.sqrt(correlation), math.sqrt(1.0 - correlation)
    inner = np.empty((len(domains), ARCHETYPES, zipf.num_experts))
    place = np.empty((len(domains), zipf.num_experts))
    for d, name in enumerate(domains):
        rng = stream(seed, _OWN, layer, _number(name))
        own_inner, own_place = _part(zipf, home, rng)
        mixed = c * common_inner + own * own_inner
        # scaled to sum to 1 inside each rank
        mixed -= np.log(np.bincount(home, np.exp(mixed), zipf.num_ranks)[home])
        place[d] = c * common_place + own * own_place
        strays = rng.standard_normal((ARCHETYPES, zipf.num_experts))
        strays -= strays.mean(axis=0)
        inner[d] = mixed + noise * math.sqrt(ARCHETYPES / (ARCHETYPES - 1)) * strays
    return Popularity(inner, place)


def _part(
    zipf: ZipfProfile, home: NDArray[np.int32], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw one part: log shares centred in every rank, log places centred over experts."""
    inner, place = zipf.draw_order(rng)
    held = np.bincount(home, minlength=zipf.num_ranks)
    offset = np.bincount(home, inner, zipf.num_ranks) / np.maximum(held, 1)
    return inner - offset[home], place - place.mean()


def _number(name: str) -> int:
    """Return a number for a name that is the same everywhere (`hash` is not)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the random stream of one purpose at one place."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
