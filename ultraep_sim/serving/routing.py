"""Which experts the tokens of a batch choose: drawn from a model, never recorded.

Every domain has a popularity profile of its own in every layer, and every request strays from its
domain's in a way that all its tokens have in common, whenever and on whatever rank they run. A
token takes top-k different experts with the inclusion probabilities that follow.

To be fast, a request strays in one of `ARCHETYPES` ways that its domain has in a layer; which one
is a hash of the seed, the request and the layer. A step reads their probabilities from a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..model.shapes import ModelShape
from ..scenario.requests import RoutingSpec
from ..trace.synth_profile import ZipfProfile
from .routing_draw import choose_archetypes, draw_expected, draw_tokens
from .routing_pilot import Pilot, Typical
from .routing_profile import (
    ARCHETYPES,
    Popularity,
    draw_popularity,
    spread_layers,
)

__all__ = ["Routing", "Segments", "Typical", "spread_layers"]

# Keys of the random streams; routing_profile.py has the others of this seed.
_ARCHETYPE, _DRAW = 3, 4


@dataclass(frozen=True, eq=False)
class Segments:
    """The tokens of a step, by request.

    Attributes
    ----------
    rank, request, count : ndarray of int64, shape [segments]
        Where they run, whose they are (its index), how many they are; in any order.
    domain : ndarray of int64, shape [segments]
        Of the request, an index into the routing's domains.
    """

    rank: NDArray[np.int64]
    request: NDArray[np.int64]
    count: NDArray[np.int64]
    domain: NDArray[np.int64]


class Routing:
    """Loads of any step, for the layers that are simulated.

    Parameters
    ----------
    spec : RoutingSpec
    shape : ModelShape
    ranks : int
        Of the expert-parallel group, with contiguous homes; also those that attention runs on.
    layers : sequence of int
        Indices among the MoE layers. A layer's draws do not depend on which others there are.
    domains : sequence of str
        A domain's profile depends on its name, not on its place or company.
    typical : Typical
        The full batch for which ``spec.imbalance`` holds.
    seed : int
    draw : {"expected", "tokens"}
        "tokens": every token chooses for itself, by systematic sampling. "expected": expert totals
        are their expectation with noise of the variance that the tokens would have, split over
        source ranks by each one's expected share; at a hundredth of the cost.

    Attributes
    ----------
    exponents : ndarray of float64, shape [layers]
        Of the Zipf law over ranks, found in every layer for itself.
    bank : ndarray of float32, shape [layers, domains x archetypes, experts]
        Inclusion probabilities; rows sum to top-k. Archetype ``a`` of domain ``d`` is row
        ``d x archetypes + a``.

    Raises
    ------
    InputError
        The imbalance cannot be reached, or layers, domains or shares make no sense.

    Notes
    -----
    Assumed, not published: that domains and requests differ by normal noise on log popularity,
    that a request strays independently in different layers, and that a token, given its
    request's popularity, is independent of the others.

    An exponent a layer gives every layer the same mean imbalance, so that any choice of layers
    stands for all of them. Recorded layers differ: the standard deviation over layers of max/mean
    expert load is 0.17 (gpt-oss-20b) to 0.36 (DeepSeek-V2-Lite) of its mean.
    """

    def __init__(
        self,
        spec: RoutingSpec,
        shape: ModelShape,
        ranks: int,
        layers: Sequence[int],
        domains: Sequence[str],
        typical: Typical,
        seed: int,
        *,
        draw: Literal["expected", "tokens"] = "expected",
    ) -> None:
        _check(shape, ranks, layers, domains, typical, draw)
        self.domains = tuple(domains)
        self.layers = np.array(layers, np.int64)
        self.ranks, self.top_k, self.draw = ranks, shape.top_k, draw
        self._spec, self._seed = spec, seed
        self._zipf = ZipfProfile(shape.num_experts, shape.top_k, ranks)
        size = (len(self.layers), len(self.domains) * ARCHETYPES, shape.num_experts)
        self.bank = np.empty(size, np.float32)
        self.exponents = np.empty(len(self.layers))
        for i, at in enumerate(self.layers.tolist()):
            popularity = self._popularity(at)
            exponent = Pilot(self._zipf, popularity, typical, at, seed).fit(spec.imbalance)
            if exponent is None:
                raise self._unreachable(typical)
            self.exponents[i] = exponent
            self.bank[i] = popularity.chances(exponent, self.top_k)
        self._archetype_key, self._draw_key = (
            np.random.SeedSequence(seed, spawn_key=(purpose,)).generate_state(1, np.uint64)[0]
            for purpose in (_ARCHETYPE, _DRAW)
        )

    def _popularity(self, layer: int) -> Popularity:
        return draw_popularity(
            self._zipf,
            layer,
            self.domains,
            correlation=self._spec.domain_correlation,
            noise=self._spec.sequence_noise,
            seed=self._seed,
        )

    def _unreachable(self, typical: Typical) -> InputError:
        reach = np.array([
            Pilot(self._zipf, self._popularity(at), typical, at, self._seed).reach()
            for at in self.layers.tolist()
        ])  # fmt: skip
        least, most = reach[:, 0].max(), reach[:, 1].min()
        # rounded inwards, so that what is printed can be used
        span = f"{math.ceil(100 * least) / 100:.2f} to {math.floor(100 * most) / 100:.2f}"
        return InputError(
            f"cannot be reached at {self.ranks} ranks, {self._zipf.num_experts} experts and "
            f"top-{self.top_k}",
            place="workload.requests.routing.imbalance",
            value=self._spec.imbalance,
            remedy=f"choose within {span}, or lower sequence_noise for less",
        )

    def loads(self, position: int, step: int, segments: Segments) -> NDArray[np.int64]:
        """Return the loads [ranks, experts] of one layer, by its position in ``layers``."""
        loads: NDArray[np.int64] = self._loads(slice(position, position + 1), step, segments)[0]
        return loads

    def loads_all(self, step: int, segments: Segments) -> NDArray[np.int64]:
        """Draw the loads of every layer.

        Parameters
        ----------
        step : int
            Number of the step: with the seed and the layer it keys the tokens' noise.
        segments : Segments

        Returns
        -------
        ndarray of int64, shape [layers, ranks, experts]
            Row ``r`` sums to tokens of rank r x top-k; no cell exceeds the rank's tokens.

        Raises
        ------
        InputError
            A rank, request, domain or count that cannot be.
        """
        return self._loads(slice(None), step, segments)

    def archetypes(self, request: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the archetype of requests in every layer, [layers, requests]."""
        found: NDArray[np.int64] = choose_archetypes(
            self._archetype_key, request, self.layers, ARCHETYPES
        )
        return found

    def expected(self, segments: Segments) -> NDArray[np.float64]:
        """Return the expectation of `loads_all` over draws, [layers, ranks, experts]."""
        self._check_segments(segments)
        out = np.zeros((len(self.layers), self.ranks, self.bank.shape[2]))
        for i, rows in enumerate(self._rows(segments)):
            np.add.at(out[i], segments.rank, segments.count[:, None] * self.bank[i, rows])
        return out

    def describe(self) -> str:
        """Say in one line what the routing is."""
        spec = self._spec
        least, most = self.exponents.min(), self.exponents.max()
        how = "every token drawn" if self.draw == "tokens" else "expected loads with noise"
        return (
            f"SYNTHETIC routing, {how}: {len(self.domains)} domain(s), "
            f"log popularity correlates {spec.domain_correlation:g} between domains and strays "
            f"{spec.sequence_noise:g} by request; Zipf over ranks with exponents {least:.3f} to "
            f"{most:.3f}, fitted by layer to a mean rank imbalance of {spec.imbalance:g}"
        )

    def _loads(self, which: slice, step: int, segments: Segments) -> NDArray[np.int64]:
        self._check_segments(segments)
        bank, layers = self.bank[which], self.layers[which]
        out = np.zeros((len(layers), self.ranks, bank.shape[2]), np.int64)
        kernel = draw_tokens if self.draw == "tokens" else draw_expected
        kernel(
            bank,
            layers,
            self._rows(segments)[which],
            segments.rank,
            segments.count,
            self._draw_key,
            step,
            self.top_k,
            out,
        )
        return out

    def _rows(self, segments: Segments) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = segments.domain * ARCHETYPES + self.archetypes(segments.request)
        return rows

    def _check_segments(self, segments: Segments) -> None:
        """Refuse what would make the kernels read or write elsewhere."""
        limits = (self.ranks, 2**62, 2**40, len(self.domains))
        size = len(segments.rank)
        for field, limit in zip(fields(Segments), limits, strict=True):
            name, values = field.name, getattr(segments, field.name)
            if values.shape != (size,) or values.dtype != np.int64:
                raise InputError(
                    "is no int64 vector as long as the others",
                    place=f"segments.{name}",
                    value=(values.dtype.name, values.shape),
                    remedy="give one number a segment",
                )
            if size and not (values.min() >= 0 and values.max() < limit):
                raise InputError(
                    "is out of range",
                    place=f"segments.{name}",
                    value=(int(values.min()), int(values.max())),
                    remedy=f"use 0..{limit - 1}",
                )


def _check(
    shape: ModelShape,
    ranks: int,
    layers: Sequence[int],
    domains: Sequence[str],
    typical: Typical,
    draw: str,
) -> None:
    def refuse(place: str, problem: str, value: object, remedy: str) -> InputError:
        return InputError(problem, place=f"Routing({place}=...)", value=value, remedy=remedy)

    if not 1 <= ranks <= 8192:
        raise refuse("ranks", "is no size of a group", ranks, "use 1..8192")
    if len(layers) == 0 or not all(0 <= at < shape.moe_layers for at in layers):
        last = shape.moe_layers - 1
        raise refuse("layers", "are not MoE layers of the model", list(layers), f"use 0..{last}")
    if not domains or len(set(domains)) != len(domains):
        raise refuse("domains", "none, or one twice", list(domains), "name each once")
    if draw not in ("expected", "tokens"):
        raise refuse("draw", "is unknown", draw, "use expected or tokens")
    shares = typical.shares
    if shares.shape != (len(domains),) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise refuse("typical", "shares are no mix of the domains", shares.tolist(), "one each")
    if not typical.tokens_per_rank > 0 or not typical.tokens_per_segment > 0:
        sizes = (typical.tokens_per_rank, typical.tokens_per_segment)
        raise refuse("typical", "has no tokens", sizes, "use positive numbers")
