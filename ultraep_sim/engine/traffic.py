"""Which share of a transfer a rank spends sending, and which receiving: for timelines only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.model.profiles import RackProfile
from ultraep_sim.planning.stats import LoadStats

if TYPE_CHECKING:
    from ultraep_sim.policies.base import Transport

Shares = NDArray[np.float64]
Counts = NDArray[Any]

_OUT = ("fwd_dispatch", "bwd_combine")
_BACK = ("fwd_combine", "bwd_dispatch")
_WEIGHTS = ("fwd_distribute", "bwd_distribute")


class PhaseTraffic:
    """Tells send and receive shares, a `ultraep_sim.report.perfetto.Traffic`.

    The busier direction has share 1, the other one what its bytes are of the busier one's, each
    direction at the slower of its two fabrics; floors are left out.

    Parameters
    ----------
    rack : RackProfile
    stats : LoadStats
        Counts of N records.
    positions : callable
        ``positions(replica)`` gives the record of each micro-batch and layer, integer [M, L].
    stages, ranks : int
        P and R.
    transport : {"none", "stream", "broadcast", "migrate", "free"}
        Only streamed weights are counted copy by copy; of others the shares are not known.
    relayed : bool ndarray [N], optional
        Records whose weights travelled by a relay tree (`ultraep_sim.engine.phases`); that there
        is a tree does not mean it was taken. By default none.
    """

    def __init__(
        self,
        rack: RackProfile,
        stats: LoadStats,
        positions: Callable[[int], NDArray[np.int64]],
        stages: int,
        ranks: int,
        transport: Transport,
        relayed: NDArray[np.bool_] | None = None,
    ) -> None:
        self._near_s, self._far_s = 1 / rack.alltoall_rate("forward"), 1 / rack.scale_out_rate
        self._stats, self._positions, self._transport = stats, positions, transport
        self._stages, self._ranks = stages, ranks
        self._relayed = np.zeros(stats.relayed.shape, np.bool_) if relayed is None else relayed
        self._rows: dict[int, NDArray[np.int64]] = {}
        self._shares: dict[str, tuple[Shares, Shares]] = {}

    def __call__(
        self, phase: str, rank: int, micro_batch: int, layer: int
    ) -> tuple[float, float] | None:
        """Return the shares of one kernel; None where they are not known."""
        if micro_batch < 0 or layer < 0:
            return None
        if phase not in self._shares:
            counts = self._counts(phase)
            if counts is None:
                return None
            self._shares[phase] = _shares(*(self._seconds(*side) for side in counts))
        replica, local = rank // (self._stages * self._ranks), rank % self._ranks
        if replica not in self._rows:
            self._rows[replica] = self._positions(replica)
        record = self._rows[replica][micro_batch, layer]
        sent, received = (float(side[record, local]) for side in self._shares[phase])
        return (sent, received) if sent or received else None

    def _counts(self, phase: str) -> tuple[tuple[Counts, Counts], tuple[Counts, Counts]] | None:
        """Return what is sent and what is received, near and far each, [N, R]."""
        s = self._stats
        out, back = (s.near_sent, s.far_sent), (s.near_received, s.far_received)
        if phase in _OUT:
            return out, back
        if phase in _BACK:
            return back, out
        if phase not in _WEIGHTS or self._transport != "stream":
            return None
        relayed = self._relayed[:, None]
        far_sent = np.where(relayed, s.far_relay_sent, s.far_copies_sent)
        far_received = np.where(relayed, s.far_relay_received, s.far_copies_received)
        sent = np.where(relayed, s.relay_sent, s.copies_sent) - far_sent
        return (sent, far_sent), (s.copies_received - far_received, far_received)

    def _seconds(self, near: Counts, far: Counts) -> Shares:
        longer: Shares = np.maximum(near * self._near_s, far * self._far_s)
        return longer


def _shares(sent: Shares, received: Shares) -> tuple[Shares, Shares]:
    busier = np.maximum(sent, received)
    busier[busier == 0] = 1.0
    return sent / busier, received / busier
