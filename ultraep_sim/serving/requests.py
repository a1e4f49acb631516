"""Requests: what arrives at a server, decided before anything is served.

What a request is depends on the seed and its index alone (its domain on its arrival time as well),
so that every policy gets the same ones, and another rate the same ones sooner or later.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.serving.arrivals import Arrivals, read_arrivals
from ultraep_sim.serving.arrivals.container import BLOCK_TOKENS
from ultraep_sim.serving.draws import stream
from ultraep_sim.serving.lengths import describe_lengths, draw_lengths
from ultraep_sim.serving.mixes import DomainShares, domain_shares
from ultraep_sim.serving.times import poisson_times, recorded_times

if TYPE_CHECKING:
    from ultraep_sim.scenario.requests import DomainSpec, PrefixSpec, RequestsSpec
    from ultraep_sim.scenario.schema import Scenario
    from ultraep_sim.scenario.serving import CancelSpec

_DTYPES = {
    "arrival_s": np.float64,
    "tokens": np.int64,
    "domain": np.int32,
    "cached": np.int64,
    "patience_s": np.float64,
}


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests in order of arrival, as flat read-only arrays.

    Attributes
    ----------
    arrival_s : ndarray of float64, [requests]
        Seconds from the start; not decreasing.
    tokens : ndarray of int64, [requests]
        Of the prompt, at least 1.
    domain : ndarray of int32, [requests]
        Index into ``domains``.
    cached : ndarray of int64, [requests]
        Leading prompt tokens whose keys and values are found; fewer than ``tokens``, for the last
        token has to be computed to answer.
    patience_s : ndarray of float64, [requests]
        From arrival until its user gives it up; inf for never.
    domains : tuple of str
    label : str
        One line: what they are and where from, with SYNTHETIC before what is drawn.
    shares : DomainShares or None
        What domains were drawn from; None where they were not drawn.

    Raises
    ------
    InputError
        From the constructor, where the arrays contradict the above.
    """

    arrival_s: NDArray[np.float64]
    tokens: NDArray[np.int64]
    domain: NDArray[np.int32]
    cached: NDArray[np.int64]
    patience_s: NDArray[np.float64]
    domains: tuple[str, ...]
    label: str
    shares: DomainShares | None = None

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            given = np.asarray(getattr(self, name))
            array = given.astype(dtype, casting="same_kind", copy=False).view()
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        self._check()

    def __len__(self) -> int:
        return int(self.arrival_s.size)

    def digest(self) -> str:
        """Return the sha256 of what arrives; the label does not count."""
        found = hashlib.sha256(json.dumps(self.domains).encode())
        for name, dtype in _DTYPES.items():
            little = np.dtype(dtype).newbyteorder("<")
            found.update(np.ascontiguousarray(getattr(self, name), little).tobytes())
        return found.hexdigest()

    def _check(self) -> None:
        shape = self.arrival_s.shape
        for name in _DTYPES:
            found = getattr(self, name).shape
            if found != shape or len(shape) != 1:
                raise InputError(
                    "not one entry a request", place=name, value=found, remedy=f"give {shape[:1]}"
                )
        before = np.diff(self.arrival_s, prepend=0.0)
        fine = np.isfinite(self.arrival_s) & (before >= 0)
        self._demand("arrival_s", fine, "from 0 up, in order of arrival")
        self._demand("tokens", self.tokens >= 1, "at least 1")
        fine = (self.domain >= 0) & (self.domain < len(self.domains))
        self._demand("domain", fine, f"an index of {len(self.domains)} domains")
        fine = (self.cached >= 0) & (self.cached < self.tokens)
        self._demand("cached", fine, "from 0 to fewer than the tokens of the prompt")
        self._demand("patience_s", self.patience_s >= 0, "from 0 up")

    def _demand(self, name: str, fine: NDArray[np.bool_], wanted: str) -> None:
        if not fine.all():
            at = int(np.argmin(fine))
            value: Any = getattr(self, name)[at].item()
            place = f"{name}[{at}]"
            raise InputError(f"{name} is {wanted}", place=place, value=value, remedy="mend it")


def make_requests(scenario: Scenario, *, rate_per_s: float | None = None) -> Requests:
    """Draw or replay the requests of a scenario.

    Parameters
    ----------
    scenario : Scenario
        With ``workload.requests``; ``serving.cancelled`` decides who gives up.
    rate_per_s : float, optional
        Instead of the scenario's: what a search for the capacity varies. The requests are the
        same, by index, at other times; those that then arrive after ``duration_s`` are left out.
        Changes of mix and bursts stay where they are in time.

    Returns
    -------
    Requests

    Raises
    ------
    InputError
        The scenario has no requests, a recording cannot be read or does not fit, no request
        arrives, or too many would.
    """
    spec = scenario.workload.requests
    if spec is None:
        raise InputError(
            "the scenario has no requests",
            place="workload",
            remedy="give workload.requests and serving",
        )
    rate = spec.arrivals.rate_per_s
    if rate_per_s is not None:
        if not (math.isfinite(rate_per_s) and rate_per_s > 0):
            remedy = "give requests a second above 0"
            raise InputError("no rate", place="rate_per_s", value=rate_per_s, remedy=remedy)
        rate = rate_per_s
    recorded = None if spec.arrivals.file is None else read_arrivals(spec.arrivals.file)
    arrival_s = _times(spec, recorded, rate, scenario.seed)
    count = arrival_s.size
    tokens = _tokens(spec, recorded, count, scenario.seed)
    shares = domain_shares(spec.domains, spec.duration_s, scenario.seed)
    domain = shares.draw(arrival_s, stream(scenario.seed, "domains").random(count))
    cancelled = None if scenario.serving is None else scenario.serving.cancelled
    return Requests(
        arrival_s=arrival_s,
        tokens=tokens,
        domain=domain,
        cached=_cached(spec.prefix, recorded, tokens, scenario.seed),
        patience_s=_patience(cancelled, count, scenario.seed),
        domains=shares.domains,
        label=_label(spec, recorded, rate, cancelled, len(shares.domains)),
        shares=shares,
    )


def _times(
    spec: RequestsSpec, recorded: Arrivals | None, rate: float | None, seed: int
) -> NDArray[np.float64]:
    if recorded is not None:
        times = recorded_times(recorded, rate)
        return times[: np.searchsorted(times, spec.duration_s, side="right")]
    assert rate is not None  # noqa: S101  (the scenario gives a file or a rate)
    return poisson_times(rate, spec.duration_s, seed)


def _tokens(
    spec: RequestsSpec, recorded: Arrivals | None, count: int, seed: int
) -> NDArray[np.int64]:
    if spec.lengths is not None:
        return draw_lengths(spec.lengths, count, seed)
    assert recorded is not None  # noqa: S101  (the scenario gives a file or lengths)
    return recorded.tokens[:count]


def _has_hashes(prefix: PrefixSpec, recorded: Arrivals | None) -> bool:
    return prefix.recorded and recorded is not None and recorded.blocks is not None


def _cached(
    prefix: PrefixSpec | None, recorded: Arrivals | None, tokens: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Return the tokens that a prefix hit provides; the last one is always computed."""
    if prefix is None:
        return np.zeros(tokens.size, np.int64)
    if _has_hashes(prefix, recorded):
        assert recorded is not None  # noqa: S101
        assert recorded.blocks is not None  # noqa: S101
        found = BLOCK_TOKENS * recorded.blocks.seen_before()[: tokens.size]
    else:
        if prefix.recorded and not prefix.share:
            raise InputError(
                "the recording has no hashes of prompts, so that no prefix would be found",
                place="workload.requests.prefix.recorded",
                value=True,
                remedy="give a recording with hash_ids (Mooncake), or a share",
            )
        hit = stream(seed, "prefixes").random(tokens.size) < prefix.share
        found = np.where(hit, np.floor(prefix.fraction * tokens), 0.0).astype(np.int64)
    return np.minimum(found, tokens - 1)


def _patience(cancelled: CancelSpec | None, count: int, seed: int) -> NDArray[np.float64]:
    if cancelled is None:
        return np.full(count, np.inf)
    gives_up = stream(seed, "who gives up").random(count) < cancelled.share
    patience = cancelled.after_s * stream(seed, "patience").standard_exponential(count)
    return np.where(gives_up, patience, np.inf)


def _label(
    spec: RequestsSpec,
    recorded: Arrivals | None,
    rate: float | None,
    cancelled: CancelSpec | None,
    domains: int,
) -> str:
    """Say what is recorded and what is drawn."""
    real, drawn = [], []
    if recorded is None:
        drawn.append(f"Poisson arrivals at {rate:g}/s")
    else:
        what = "arrivals and lengths" if spec.lengths is None else "arrivals"
        pace = "" if rate is None else f", stretched to {rate:g}/s"
        real.append(f"{what} of {recorded.label}{pace}")
    if spec.lengths is not None:
        drawn.append(describe_lengths(spec.lengths))
    drawn += _describe_domains(spec.domains, domains)
    if spec.prefix is not None:
        if _has_hashes(spec.prefix, recorded):
            real.append("prefix hits as in a cache without bounds (assumed)")
        else:
            prefix = spec.prefix
            drawn.append(f"prefix hits of {prefix.share:.3g} x {prefix.fraction:.3g} of the prompt")
    if cancelled is not None:
        drawn.append(f"{cancelled.share:.3g} give up after {cancelled.after_s:g} s on average")
    parts = [("recorded", real), ("SYNTHETIC", drawn)]
    return "; ".join(f"{kind}: {', '.join(texts)}" for kind, texts in parts if texts)


def _describe_domains(spec: DomainSpec, count: int) -> list[str]:
    """Say what domains are drawn from; where there is one, nothing is."""
    if count == 1:
        return []
    name = f"{spec.mix} mix" if isinstance(spec.mix, str) else "mix"
    changes = len(spec.changes)
    moves = f", {changes} {'change' if changes == 1 else 'changes'}" if changes else ""
    return [f"{name} of {count} domains{moves}{', bursts' if spec.bursts else ''}"]
