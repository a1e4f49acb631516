"""Replicas in another scale-up domain: counted apart, and dearer than those next door."""

from dataclasses import fields, replace

import numpy as np
import pytest

from ultraep_sim.planning import EPLayout, LoadStats, Plan, StatsBuilder
from ultraep_sim.planning.relay import relay_tree

from .counts import make_price
from .test_layer import COPY, HOT, RACK, STREAM, run

SLOW = RACK.with_overrides({"scale_out_achieved_GBps": 5, "scale_out_floor_us": 25})
FAR = replace(HOT, far_copies_sent=HOT.copies_sent, far_copies_received=HOT.copies_received)


def plan_of(hosts: list[int], ranks: int, domain: int, may_cross: bool = True) -> Plan:
    """Expert r is at home on rank r; expert 0 has replicas on ``hosts``."""
    layout = EPLayout(ranks, ranks, 1, domain)
    offsets = np.concatenate(([0], np.arange(ranks) + 1 + len(hosts)))
    rank = np.array([0, *hosts, *range(1, ranks)], np.int32)
    slot = np.full(len(rank), -1, np.int32)
    slot[1 : 1 + len(hosts)] = 0
    loads = np.ones((ranks, ranks), np.int64)
    quota = np.full(len(rank), ranks, np.int64)
    quota[: len(hosts) + 1] = np.diff(np.linspace(0, ranks, len(hosts) + 2).astype(np.int64))
    return Plan(layout, loads, offsets, rank, slot, quota, may_cross=may_cross)


def stats_of(*plans: Plan) -> LoadStats:
    builder = StatsBuilder(len(plans), plans[0].layout, 128)
    for plan in plans:
        builder.add(plan)
    return builder.stats


def test_copies_across_domains_are_counted_apart() -> None:
    crossing = plan_of([1, 2, 3], 4, 2)
    crossing.validate()
    got = stats_of(crossing, plan_of([1], 4, 2, may_cross=False), plan_of([1, 2, 3], 4, 4))
    assert got.crosses.tolist() == [True, False, False]
    assert got.copies_sent[0].tolist() == [3, 0, 0, 0]
    assert got.far_copies_sent[0].tolist() == [2, 0, 0, 0]
    assert got.far_copies_received[0].tolist() == [0, 0, 1, 1]
    for field in fields(got):
        if field.name.startswith("far_copies") or field.name.startswith("far_relay"):
            assert not getattr(got, field.name)[1:].any()


def test_a_record_leaves_nothing_behind_for_the_next_in_its_place() -> None:
    builder = StatsBuilder(1, EPLayout(4, 4, 1, 2), 128)
    builder.add(plan_of([2, 3], 4, 2))
    assert builder.stats.far_copies_sent.any()
    builder.reset()
    builder.add(plan_of([1], 4, 2))
    assert not builder.stats.far_copies_sent.any()
    assert not builder.stats.far_relay_received.any()


def test_a_relay_in_the_other_domain_forwards_near() -> None:
    plan = plan_of(list(range(8, 32)), 32, 16)
    got = stats_of(plan)
    parent, relayed = relay_tree(plan.offsets, plan.rank, 32, 16)
    assert relayed
    assert got.relayed[0]
    far = plan.layout.domain_of[parent] != plan.layout.domain_of[plan.rank]
    for ends, column in ((parent, got.far_relay_sent), (plan.rank, got.far_relay_received)):
        want = np.zeros(32, np.int64)
        for end in ends[far]:
            want[end] += 1
        assert column[0].tolist() == want.tolist()
    assert got.far_relay_sent[0, 0] < got.far_copies_sent[0, 0] == 16
    assert (got.far_relay_sent <= got.relay_sent).all()
    price = replace(STREAM, relay=True)
    direct = run(stats=got, rack=SLOW).critical["fwd_distribute"]
    assert run(stats=got, price=price, rack=SLOW).critical["fwd_distribute"] < direct


def test_far_replicas_cost_more_by_hand() -> None:
    near, far = run(rack=SLOW), run(stats=FAR, rack=SLOW)
    assert near.critical["fwd_distribute"] == pytest.approx(8e-6 + 2 * COPY / 200e9)
    for phase in ("fwd_distribute", "bwd_distribute"):
        assert far.critical[phase] == pytest.approx(25e-6 + 2 * COPY / 5e9)
    # An fp32 gradient is twice as large.
    assert far.phases["bwd_grad_reduce"].max() == pytest.approx(25e-6 + 4 * COPY / 5e9)
    assert far.layer_s > near.layer_s


@pytest.mark.parametrize("transport", ["stream", "broadcast"])
def test_far_is_dearer_even_where_the_nic_is_said_to_be_faster(transport) -> None:  # type: ignore[no-untyped-def]
    price = replace(STREAM, transport=transport)
    fast = RACK.with_overrides(
        {"scale_out_Gbps": 9000, "scale_out_achieved_GBps": 900, "scale_out_floor_us": 1}
    )
    near, far = run(price=price, rack=fast), run(stats=FAR, price=price, rack=fast)
    assert (far.phases["fwd_distribute"] >= near.phases["fwd_distribute"]).all()
    assert (far.phases["bwd_grad_reduce"] >= near.phases["bwd_grad_reduce"]).all()


def test_a_replacement_that_may_cross_moves_at_the_nics_rate() -> None:
    price = make_price(transport="migrate")
    moved = replace(HOT, moved_copies=HOT.copies_received)
    across = replace(moved, crosses=np.array([True]))
    near, far = (run(stats=s, price=price, rack=SLOW) for s in (moved, across))
    assert near.critical["fwd_distribute"] == pytest.approx(40e-6 + COPY / 20e9)
    assert far.critical["fwd_distribute"] == pytest.approx(40e-6 + COPY / 5e9)
