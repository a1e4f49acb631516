"""Requests of a serving workload: when they arrive, how long they are, what they are about."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ultraep_sim.scenario.strict import Strict

#: The longest prompt that is simulated; the longest context of today's models is below it.
MAX_PROMPT = 1 << 22

Shares = dict[str, float]


def check_shares(value: str | Shares) -> str | Shares:
    """Refuse shares that are no mix.

    Raises
    ------
    ValueError
        No built-in mix of that name; or shares of which there are none, negative ones, ones that
        are not finite, or only zeros.
    """
    if isinstance(value, str):
        # Not above: the simulator's rooms know scenarios, and this one asks them for a name only.
        from ultraep_sim.serving.mixes import shares_of

        shares_of(value)
        return value
    if not value or any(not math.isfinite(v) or v < 0 for v in value.values()):
        raise ValueError("a mix is a share from 0 up for at least one domain")
    if not any(value.values()):
        raise ValueError("a mix whose shares are all zero")
    return value


class ArrivalSpec(Strict):
    """When requests arrive: a Poisson process, or recorded times.

    Attributes
    ----------
    rate_per_s : float or None
        Of a Poisson process. With a file, the recording is stretched to this mean rate.
    file : Path or None
        Recorded arrivals (Azure CSV, Mooncake JSONL), relative to the scenario file.
    """

    rate_per_s: float | None = Field(default=None, gt=0.0, le=1e6)
    file: Annotated[Path, Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ArrivalSpec:
        if self.rate_per_s is None and self.file is None:
            raise ValueError("give rate_per_s, a file of recorded arrivals, or both")
        return self


class LengthSpec(Strict):
    """Prompt lengths in tokens, where they are not recorded with the arrivals.

    Attributes
    ----------
    kind : {"lognormal", "exponential", "fixed"}
    mean : float
        Mean of the distribution before it is cut to ``[shortest, longest]``.
    sigma : float
        Standard deviation of the log length (lognormal only).
    shortest, longest : int
        Drawn lengths outside are set to these.
    """

    kind: Literal["lognormal", "exponential", "fixed"] = "lognormal"
    mean: float = Field(ge=1.0, le=MAX_PROMPT)
    sigma: float = Field(default=1.0, ge=0.0, le=4.0)
    shortest: int = Field(default=1, ge=1, le=MAX_PROMPT)
    longest: int = Field(default=131_072, ge=1, le=MAX_PROMPT)

    @model_validator(mode="after")
    def _in_order(self) -> LengthSpec:
        if not self.shortest <= self.mean <= self.longest:
            raise ValueError("shortest <= mean <= longest does not hold")
        return self


class ChangeSpec(Strict):
    """The mix of domains moves to another one.

    Attributes
    ----------
    at_s : float
        When it begins to.
    mix : str or dict of str to float
        As in `DomainSpec`.
    over_s : float
        How long it takes, linearly: 0 for a switch, long for a drift.
    """

    at_s: float = Field(ge=0.0)
    mix: str | Shares
    over_s: float = Field(default=0.0, ge=0.0)


class BurstSpec(Strict):
    """Now and then one domain, drawn by its share, gets far more of the requests.

    Attributes
    ----------
    every_s : float
        Mean time from the end of a burst to the next (exponential).
    lasting_s : float
        Mean length of a burst (exponential).
    share : float
        Share of the requests that are the bursting domain's while it lasts.
    """

    every_s: float = Field(gt=0.0)
    lasting_s: float = Field(gt=0.0)
    share: float = Field(default=0.9, gt=0.0, le=1.0)


class DomainSpec(Strict):
    """What requests are about, over time.

    Attributes
    ----------
    mix : str or dict of str to float
        A built-in mix by name (`ultraep_sim.serving.mixes`), or shares by domain; they are scaled
        to sum to 1.
    changes : tuple of ChangeSpec
        In order of time.
    bursts : BurstSpec or None
    """

    mix: str | Shares = Field(default_factory=lambda: {"all": 1.0})
    changes: tuple[ChangeSpec, ...] = Field(default=(), strict=False)
    bursts: BurstSpec | None = None

    @field_validator("mix")
    @classmethod
    def _shares(cls, value: str | Shares) -> str | Shares:
        return check_shares(value)

    @field_validator("changes")
    @classmethod
    def _changes_in_order(cls, value: tuple[ChangeSpec, ...]) -> tuple[ChangeSpec, ...]:
        end = 0.0
        for change in value:
            check_shares(change.mix)
            if change.at_s < end:
                raise ValueError(f"the change at {change.at_s:g} s begins before the last one ends")
            end = change.at_s + change.over_s
        return value


class RoutingSpec(Strict):
    """How tokens choose experts: drawn, never recorded.

    Every domain has a popularity profile of its own in every layer, and every request strays from
    its domain's in a way its tokens have in common.

    Attributes
    ----------
    imbalance : float
        Mean rank imbalance (max / mean) without balancing of a full batch of the first mix, in
        every layer alike.
    domain_correlation : float
        Correlation of log popularity between two domains of one layer. The default is what two
        domains recorded from DeepSeek-V2-Lite have (0.29, free of sampling noise).
    sequence_noise : float
        Standard deviation of an expert's log popularity from one request to another of its domain.
        Recorded: 0.18 to 0.22 (DeepSeek-V2-Lite), 0.71 (gpt-oss-20b, where every request may be a
        domain of its own); the default lies between.
    """

    imbalance: float = Field(ge=1.0, le=1000.0)
    domain_correlation: float = Field(default=0.3, ge=0.0, le=1.0)
    sequence_noise: float = Field(default=0.3, ge=0.0, le=4.0)


class PrefixSpec(Strict):
    """Prompts that begin with what another request already computed.

    Attributes
    ----------
    share : float
        Share of requests that find a prefix.
    fraction : float
        Share of such a prompt that is found.
    recorded : bool
        Recorded block hashes (Mooncake) decide both instead, as in a cache without bounds; in a
        recording without hashes, ``share`` and ``fraction`` do.
    """

    share: float = Field(default=0.0, ge=0.0, le=1.0)
    fraction: float = Field(default=0.5, ge=0.0, lt=1.0)
    recorded: bool = False


class RequestsSpec(Strict):
    """The requests a server gets.

    Attributes
    ----------
    arrivals : ArrivalSpec
    duration_s : float
        Arrivals after it are left out.
    lengths : LengthSpec or None
        None takes the recorded lengths; a Poisson process needs one.
    domains : DomainSpec
    routing : RoutingSpec
    prefix : PrefixSpec or None
        None: no prompt finds anything.
    """

    arrivals: ArrivalSpec
    duration_s: float = Field(default=120.0, gt=0.0, le=7 * 86_400.0)
    lengths: LengthSpec | None = None
    domains: DomainSpec = DomainSpec()
    routing: RoutingSpec
    prefix: PrefixSpec | None = None

    @model_validator(mode="after")
    def _lengths_are_known(self) -> RequestsSpec:
        if self.lengths is None and self.arrivals.file is None:
            raise ValueError("a Poisson process needs lengths, for example {mean: 2000}")
        return self

    @model_validator(mode="after")
    def _recorded_prefixes_fit(self) -> RequestsSpec:
        if self.prefix is not None and self.prefix.recorded:
            if self.arrivals.file is None:
                raise ValueError("prefix.recorded needs a file of recorded arrivals")
            if self.lengths is not None:
                raise ValueError("prefix.recorded does not fit drawn lengths; leave lengths out")
        return self
