from dataclasses import replace

import numpy as np
import pytest

from ultraep_sim.engine.traffic import PhaseTraffic
from ultraep_sim.model import get_rack

from .counts import make_stats

RACK = get_rack("paper-rack64")
STATS = make_stats(
    near_sent=[10, 40, 0], near_received=[40, 10, 0], copies_sent=[4, 0, 0],
    copies_received=[0, 1, 3], relay_sent=[2, 2, 0],
)  # fmt: skip


def traffic(stats=STATS, transport="stream"):
    positions = np.array([[0, 0]])
    return PhaseTraffic(RACK, stats, lambda replica: positions, 2, 3, transport)


def test_the_busier_direction_is_busy_the_whole_time() -> None:
    ask = traffic()
    assert ask("fwd_dispatch", 0, 0, 1) == ask("bwd_combine", 0, 0, 0) == (0.25, 1.0)
    assert ask("fwd_combine", 0, 0, 1) == ask("bwd_dispatch", 0, 0, 0) == (1.0, 0.25)
    assert ask("fwd_dispatch", 1, 0, 0) == (1.0, 0.25)
    assert ask("fwd_dispatch", 6 + 3 + 1, 0, 0) == (1.0, 0.25)  # same rank of another group


def test_weights_follow_the_relay_where_it_is_used() -> None:
    assert traffic()("fwd_distribute", 0, 0, 0) == (1.0, 0.0)
    assert traffic()("bwd_distribute", 1, 0, 0) == (0.0, 1.0)
    relayed = replace(STATS, relayed=np.array([True]))
    assert traffic(relayed)("fwd_distribute", 1, 0, 0) == (1.0, 0.5)


def test_far_traffic_weighs_by_the_slower_fabric() -> None:
    near, far = RACK.alltoall_rate("forward"), RACK.scale_out_rate
    mixed = replace(STATS, far_sent=np.array([[8, 0, 0]]))
    sent, received = max(10 / near, 8 / far), 40 / near
    want = sent / max(sent, received), received / max(sent, received)
    assert traffic(mixed)("fwd_dispatch", 0, 0, 0) == pytest.approx(want)


@pytest.mark.parametrize(
    ("phase", "rank", "micro_batch", "layer", "transport"),
    [
        ("fwd_dispatch", 2, 0, 0, "stream"),  # neither sends nor receives
        ("fwd_dispatch", 0, -1, 0, "stream"),
        ("fwd_compute", 0, 0, 0, "stream"),
        ("fwd_distribute", 0, 0, 0, "migrate"),
    ],
)
def test_what_is_not_counted_is_not_known(phase, rank, micro_batch, layer, transport) -> None:  # type: ignore[no-untyped-def]
    assert traffic(transport=transport)(phase, rank, micro_batch, layer) is None
