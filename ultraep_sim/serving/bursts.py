"""Bursts: now and then one domain gets far more of the requests than its share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.errors import InputError
from ultraep_sim.serving.draws import stream

if TYPE_CHECKING:
    from ultraep_sim.scenario.requests import BurstSpec

# Of a run, as expected; more would differ from a fixed mix by nothing that a server notices.
_MAX_BURSTS = 1_000_000


@dataclass(frozen=True, eq=False)
class Bursts:
    """When which domain bursts.

    Attributes
    ----------
    starts, ends : ndarray of float64, [bursts]
        Seconds; a burst holds at its start and no more at its end. They never overlap.
    domain : ndarray of int32, [bursts]
        The bursting domain.
    share : float
        What it gets at least.
    """

    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    domain: NDArray[np.int32]
    share: float

    def which(self, times: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the burst that holds at each time, -1 for none."""
        last = np.searchsorted(self.starts, times, side="right") - 1
        if not self.starts.size:
            return last
        return np.where((last >= 0) & (times < self.ends[last]), last, -1)

    def applied(
        self, times: NDArray[np.float64], shares: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the shares at some times with the bursts that hold then.

        Parameters
        ----------
        times : ndarray of float64, [times]
        shares : ndarray of float64, [times, domains]
            Without bursts; rows sum to 1.

        Returns
        -------
        ndarray of float64, [times, domains]
            The bursting domain has ``max(share, its own)``, the others keep their proportions.
        """
        burst = self.which(times)
        rows = np.flatnonzero(burst >= 0)
        domain = self.domain[burst[rows]]
        own = shares[rows, domain]
        risen = np.maximum(self.share, own)
        # A domain that is alone has no others to give way.
        alone = own >= 1.0
        room = np.where(alone, 0.0, 1.0 - risen) / np.where(alone, 1.0, 1.0 - own)
        found = shares.copy()
        found[rows] *= room[:, None]
        found[rows, domain] = risen
        return found


def draw_bursts(
    spec: BurstSpec, duration_s: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Draw an alternating renewal process: quiet, burst, quiet, burst, ...

    Parameters
    ----------
    spec : BurstSpec
    duration_s : float
        Bursts that begin later are left out.
    seed : int

    Returns
    -------
    starts, ends, uniform : ndarray of float64, [bursts]
        Seconds, and the draw from ``[0, 1)`` that decides the domain. The k-th burst does not
        depend on ``duration_s``.

    Raises
    ------
    InputError
        There would be millions of them.
    """
    expected = duration_s / (spec.every_s + spec.lasting_s)
    if expected > _MAX_BURSTS:
        raise InputError(
            f"{expected:.3g} bursts are more than the {_MAX_BURSTS:,} that can be drawn",
            place="workload.requests.domains.bursts",
            value={"every_s": spec.every_s, "lasting_s": spec.lasting_s},
            remedy="raise every_s or lasting_s",
        )
    quiet, active = (stream(seed, name) for name in ("burst gaps", "burst lengths"))
    some = int(expected + 6.0 * expected**0.5) + 16
    gaps, lasting = np.empty(0), np.empty(0)
    while True:
        gaps = np.append(gaps, spec.every_s * quiet.standard_exponential(some))
        lasting = np.append(lasting, spec.lasting_s * active.standard_exponential(some))
        ends = np.cumsum(gaps + lasting)
        if ends[-1] > duration_s:
            break
    starts = np.append(0.0, ends[:-1]) + gaps
    count = int(np.searchsorted(starts, duration_s, side="right"))
    return starts[:count], ends[:count], stream(seed, "burst domains").random(count)
