from dataclasses import replace

import numpy as np
import pytest

from ultraep_sim.engine.options import LayerOptions
from ultraep_sim.engine.phases import busy_phases, relayed_records
from ultraep_sim.engine.traffic import PhaseTraffic
from ultraep_sim.model import get_model, get_rack

from .counts import make_price, make_stats

RACK = get_rack("paper-rack64")
STATS = make_stats(
    near_sent=[10, 40, 0], near_received=[40, 10, 0], copies_sent=[4, 0, 0],
    copies_received=[0, 1, 3], relay_sent=[2, 2, 0],
)  # fmt: skip


SHAPE = get_model("qwen3-235b")
RULED = replace(STATS, relayed=np.array([True]))  # there is a tree


def traffic(stats=STATS, transport="stream", relay="auto", relays=True, weights="bf16"):
    positions = np.array([[0, 0]])
    price = make_price(transport=transport, relay=relays)
    options = LayerOptions(256, relay=relay, weight_dtype=weights)
    relayed = relayed_records(SHAPE, RACK, stats, price, options)
    return PhaseTraffic(RACK, stats, lambda replica: positions, 2, 3, transport, relayed)


def test_the_busier_direction_is_busy_the_whole_time() -> None:
    ask = traffic()
    assert ask("fwd_dispatch", 0, 0, 1) == ask("bwd_combine", 0, 0, 0) == (0.25, 1.0)
    assert ask("fwd_combine", 0, 0, 1) == ask("bwd_dispatch", 0, 0, 0) == (1.0, 0.25)
    assert ask("fwd_dispatch", 1, 0, 0) == (1.0, 0.25)
    assert ask("fwd_dispatch", 6 + 3 + 1, 0, 0) == (1.0, 0.25)  # same rank of another group


def test_weights_follow_the_relay_where_it_is_used() -> None:
    assert traffic()("fwd_distribute", 0, 0, 0) == (1.0, 0.0)
    assert traffic()("bwd_distribute", 1, 0, 0) == (0.0, 1.0)
    assert traffic(RULED)("fwd_distribute", 1, 0, 0) == (1.0, 0.5)


DIRECT, RELAYED = (0.0, 1.0), (1.0, 0.5)  # of rank 1, which gets one copy and may relay two


@pytest.mark.parametrize(
    ("relay", "relays", "shares"),
    [
        ("auto", True, RELAYED),
        ("auto", False, DIRECT),  # the policy has no relay
        ("off", True, DIRECT),
        ("gain", True, RELAYED),  # two copies less take longer than the launch
        ("gain", False, DIRECT),
    ],
)
def test_a_tree_that_is_not_taken_moves_nothing(relay, relays, shares) -> None:  # type: ignore[no-untyped-def]
    ask = traffic(RULED, relay=relay, relays=relays)
    assert ask("fwd_distribute", 1, 0, 0) == ask("bwd_distribute", 1, 0, 0) == shares


def test_a_tree_that_gains_nothing_is_not_taken() -> None:
    """Three copies direct or two and the launch of a relay: the launch of this rack is dearer."""
    dear = replace(RULED, copies_sent=np.array([[3, 0, 0]]), relay_sent=np.array([[3, 2, 0]]))
    assert traffic(dear, relay="gain")("fwd_distribute", 1, 0, 0) == DIRECT
    assert traffic(dear)("fwd_distribute", 1, 0, 0) == RELAYED  # the rule's word is taken


@pytest.mark.parametrize("relay", ["auto", "off", "gain"])
def test_the_shares_are_of_what_was_timed(relay) -> None:  # type: ignore[no-untyped-def]
    """A rank that does not receive is busy only if it sends."""
    stats = replace(RULED, copies_received=np.array([[0, 0, 4]]))
    price = make_price(transport="stream", relay=True)
    options = LayerOptions(256, relay=relay)
    busy = busy_phases(SHAPE, RACK, stats, price, options)["fwd_distribute"][0]
    for rank in range(3):
        told = traffic(stats, relay=relay)("fwd_distribute", rank, 0, 0)
        assert (told is not None) == (busy[rank] > 0)


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
