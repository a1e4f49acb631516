"""Reading replica gradients back: by hand, in fixed order, bound by SMs or by links."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.errors import InputError, ProfileError
from ultraep_sim.fabric.gradient_tiles import ReductionModel, reduce_tiles
from ultraep_sim.fabric.streaming import reduce_gradients
from ultraep_sim.model import get_rack
from ultraep_sim.planning import EPLayout, Plan

from .transfer_cases import assert_one_at_a_time, number, plans, wide_plan

US = 1e-6
PAPER = get_rack("paper-rack64")
# 1000 bytes: 1.5 us on a port, 4 us on an SM.
TOY = ReductionModel(number(1, "GB/s"), number(500, "ns"), number(0.5, "GB/s"), number(2), sms=2)


def three_ranks():
    """Expert 0 of rank 0 has replicas on 1 and 2."""
    loads = np.array([[6, 0, 0], [6, 0, 0], [6, 0, 0]])
    return Plan(
        EPLayout(3, 3, 1), loads, np.array([0, 3, 4, 5]), np.array([0, 1, 2, 1, 2], np.int32),
        np.array([-1, 0, 0, -1, -1], np.int32), np.array([6, 6, 6, 0, 0]),
    )  # fmt: skip


def test_bound_by_the_sms_by_hand():
    """Two SMs, three tiles of two replicas; both ask rank 1 first, and take 4 us a read.

    SM 0 reads tile 0 at 0 and 4 us, SM 1 tile 1 from 1.5 us (the port is busy before) and 5.5 us.
    SM 0 takes the half tile at 8 us (rank 1) and 10 us (rank 2).
    """
    got = reduce_tiles(three_ranks(), 2500, TOY, tile_bytes=1000)
    np.testing.assert_allclose(got.egress, np.array([0, 1.5, 4, 5.5, 8, 10]) * US)
    assert got.server.tolist() == [1, 1, 2, 2, 1, 2]
    assert got.tile.tolist() == [0, 1, 0, 1, 2, 2]
    np.testing.assert_allclose(got.finish, np.array([12, 9, 11]) * US)
    np.testing.assert_allclose(got.ingress_busy, [8 * US, 0, 0], atol=1e-15)


def test_bound_by_the_link_by_hand():
    """With fast SMs the home's port takes one tile after the other: 8 us."""
    fast = replace(TOY, rate=number(100, "GB/s"), sms=1)
    got = reduce_tiles(three_ranks(), 2500, fast, tile_bytes=1000)
    np.testing.assert_allclose(got.finish[0], 8 * US)
    np.testing.assert_allclose(got.exposed(5 * US), 3 * US)
    assert got.exposed(9 * US) == 0.0


@given(plan=plans(), size=st.integers(1, 20000), tile=st.integers(200, 2000), sms=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_every_tile_of_every_replica_in_fixed_order(plan, size, tile, sms):
    got = reduce_tiles(plan, size, replace(TOY, sms=sms), tile_bytes=tile)
    ranks = plan.layout.num_ranks
    home = plan.rank[plan.offsets[:-1]]
    read = np.zeros(ranks, np.int64)
    np.add.at(read, got.home, got.size)
    assert read.tolist() == (plan.sends_per_rank * size).tolist()
    served = np.zeros(ranks, np.int64)
    np.add.at(served, got.server, got.size)
    assert served.tolist() == (plan.receives_per_rank * size).tolist()
    away = got.home != got.server
    assert_one_at_a_time(got.server[away], got.egress[away], got.egress_end[away])
    assert_one_at_a_time(got.home[away], got.ingress[away], got.ingress_end[away])
    order = {}
    for expert, number_, server, added in zip(
        got.expert.tolist(), got.tile.tolist(), got.server.tolist(), got.added, strict=True
    ):
        servers, last = order.setdefault((expert, number_), ([], [0.0]))
        servers.append(server)
        assert added > last[0]  # one replica is added after the other
        last[0] = added
    for (expert, _), (servers, _) in order.items():
        begin, end = plan.offsets[expert], plan.offsets[expert + 1]
        assert servers == plan.rank[begin + 1 : end].tolist()
        assert plan.rank[begin] == home[expert]
    again = reduce_tiles(plan, size, replace(TOY, sms=sms), tile_bytes=tile)
    assert again.added.tobytes() == got.added.tobytes()


@given(plan=plans(max_ranks=8))
@settings(max_examples=15, deadline=None)
def test_closed_form_agrees_with_the_tiles(plan):
    """Within 5 % and two reads of an SM: the last wave of tiles does not fill all SMs."""
    size = 32 * 2**20
    model = ReductionModel.of(PAPER)
    closed = reduce_gradients(
        PAPER, plan.sends_per_rank[None], plan.receives_per_rank[None], size
    ).max()
    got = reduce_tiles(plan, size, model).seconds
    wave = plan.max_fanout * model.sm_seconds(32 * 1024)
    assert closed * 0.999 <= got <= closed * 1.05 + 2 * wave


def test_the_sm_budget_binds_until_the_link_does():
    plan = wide_plan(6)
    rates = []
    for sms in (21, 42, 84, 148):
        found = reduce_tiles(plan, 72 * 2**20, ReductionModel.of(PAPER, sms))
        rates.append(found.home_rates().max() / 1e9)
    assert rates == sorted(rates)
    assert rates[1] == pytest.approx(175, rel=0.03)
    assert rates[0] == pytest.approx(rates[1] / 2, rel=0.03)
    slow = replace(ReductionModel.of(PAPER, 148), link=number(200, "GB/s"))
    found = reduce_tiles(plan, 72 * 2**20, slow).home_rates().max() / 1e9
    assert 0.85 * 200 < found <= 200


@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_a_gradient_has_a_size(size):
    with pytest.raises(InputError, match="gradient_bytes"):
        reduce_tiles(three_ranks(), size, TOY)


def test_a_budget_beyond_the_gpu_is_refused():
    with pytest.raises(ProfileError, match="SMs"):
        ReductionModel.of(PAPER, 500)
