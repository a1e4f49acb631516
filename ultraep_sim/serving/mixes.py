"""What requests are about: mixes of domains, built in or given, and how they change over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.serving.bursts import Bursts, draw_bursts

if TYPE_CHECKING:
    from ultraep_sim.scenario.requests import DomainSpec

#: Built-in mixes: problems of each domain. FullStack Bench (arXiv 2412.00535), 3,374 problems.
BUILT_IN: Mapping[str, Mapping[str, int]] = {
    "fullstack": {
        "basic programming": 430,
        "advanced programming": 682,
        "software engineering": 200,
        "data analysis": 394,
        "maths": 286,
        "desktop and web": 588,
        "machine learning": 80,
        "scientific computing": 272,
        "database": 126,
        "multimedia": 60,
        "operating system": 68,
        "others": 188,
    }
}

# Requests whose shares are held at a time: 12 domains of so many take 6 MB.
_CHUNK = 1 << 16


def shares_of(mix: str | Mapping[str, float]) -> dict[str, float]:
    """Return the shares of a mix, summing to 1.

    Parameters
    ----------
    mix : str or mapping of str to float
        A built-in mix by name, or what each domain weighs (as `check_shares` of the scenario lets
        pass: finite, from 0 up, not all zero).

    Raises
    ------
    InputError
        No mix of that name is built in.
    """
    if isinstance(mix, str):
        if mix not in BUILT_IN:
            from ultraep_sim.scenario.presets import did_you_mean

            raise InputError(
                "unknown mix of domains",
                place="mix",
                value=mix,
                remedy=did_you_mean(mix, BUILT_IN) + "; or give shares by domain, {chat: 0.7, ...}",
            )
        mix = BUILT_IN[mix]
    # By the largest first: the sum of the shares themselves may overflow.
    largest = max(mix.values())
    total = sum(share / largest for share in mix.values())
    return {name: share / largest / total for name, share in mix.items()}


@dataclass(frozen=True, eq=False)
class DomainShares:
    """Share of every domain among the requests, at any time.

    Attributes
    ----------
    domains : tuple of str
        Of the first mix and of those it changes to, in the order in which they are named first.
    mixes : ndarray of float64, [1 + changes, domains]
        The first mix, then what each change ends in; rows sum to 1.
    at_s, over_s : ndarray of float64, [changes]
        When each change begins and how long it takes; a change begins when the last has ended.
    bursts : Bursts or None
    """

    domains: tuple[str, ...]
    mixes: NDArray[np.float64]
    at_s: NDArray[np.float64]
    over_s: NDArray[np.float64]
    bursts: Bursts | None = None

    def planned(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the shares without bursts, [times, domains]."""
        begun = np.searchsorted(self.at_s, times, side="right")
        last = np.maximum(begun - 1, 0)
        if not self.at_s.size:
            return np.broadcast_to(self.mixes[0], (times.size, len(self.domains)))
        over = self.over_s[last]
        # A switch takes no time, and so is over as soon as it has begun.
        done = np.divide(times - self.at_s[last], over, out=np.ones(times.size), where=over > 0)
        done = np.clip(done, 0.0, 1.0)[:, None]
        return (1.0 - done) * self.mixes[last] + done * self.mixes[begun]

    def at(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the shares at some times.

        Parameters
        ----------
        times : ndarray of float64, [times]
            Seconds from the start, from 0 up.

        Returns
        -------
        ndarray of float64, [times, domains]
            Rows sum to 1.
        """
        times = np.asarray(times, np.float64)
        planned = self.planned(times)
        return planned if self.bursts is None else self.bursts.applied(times, planned)

    def draw(self, times: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int32]:
        """Return the domain of requests at some times, by inverting the cumulative shares.

        Parameters
        ----------
        times : ndarray of float64, [requests]
        uniform : ndarray of float64, [requests]
            From ``[0, 1)``, one a request: where the shares change little, few requests change.

        Returns
        -------
        ndarray of int32, [requests]
            Index into ``domains``; never of one that has no share then.
        """
        found = np.zeros(times.size, np.int32)
        for start in range(0, times.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            found[part] = _invert(self.at(times[part]), uniform[part])
        return found


def _invert(shares: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int32]:
    cumulative = np.cumsum(shares, axis=1)
    # Scaling by the sum, which rounding leaves beside 1, keeps a last domain without a share from
    # getting what is missing there.
    wanted = uniform * cumulative[:, -1]
    found: NDArray[np.int32] = (cumulative <= wanted[:, None]).sum(axis=1, dtype=np.int32)
    return found


def domain_shares(spec: DomainSpec, duration_s: float, seed: int) -> DomainShares:
    """Return the shares over time that a scenario asks for.

    Parameters
    ----------
    spec : DomainSpec
    duration_s : float
        Bursts are drawn until then.
    seed : int

    Raises
    ------
    InputError
        A mix is unknown, or there would be millions of bursts.
    """
    named = [shares_of(spec.mix), *(shares_of(change.mix) for change in spec.changes)]
    domains = tuple(dict.fromkeys(name for mix in named for name in mix))
    steady = DomainShares(
        domains,
        np.array([[mix.get(name, 0.0) for name in domains] for mix in named]),
        np.array([change.at_s for change in spec.changes], np.float64),
        np.array([change.over_s for change in spec.changes], np.float64),
    )
    if spec.bursts is None:
        return steady
    starts, ends, uniform = draw_bursts(spec.bursts, duration_s, seed)
    bursts = Bursts(starts, ends, steady.draw(starts, uniform), spec.bursts.share)
    return DomainShares(domains, steady.mixes, steady.at_s, steady.over_s, bursts)
