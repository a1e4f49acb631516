"""Dispatch and combine from the matrix: by hand, conserved, equal to the counted columns."""

import numpy as np
import pytest
from hypothesis import given, settings

import ultraep_sim as us
from tests.planning.strategies import problems
from ultraep_sim.errors import InputError
from ultraep_sim.fabric.alltoall import all_to_all
from ultraep_sim.fabric.flows import flows_of_matrix, simulate
from ultraep_sim.fabric.pairs import exchange, pair_matrix, sides
from ultraep_sim.fabric.topology import preset_topology
from ultraep_sim.model import get_rack
from ultraep_sim.planning import EPLayout, StatsBuilder
from ultraep_sim.validate.draws import Shape, zipf_loads

PAPER = get_rack("paper-rack64").with_overrides(
    {
        "alltoall_forward_GBps": 100, "alltoall_backward_GBps": 50, "alltoall_floor_us": 5,
        "scale_out_achieved_GBps": 10, "scale_out_floor_us": 30,
    }
)  # fmt: skip
LAYOUT = EPLayout(3, 3, 0)
LOADS = np.array([[10, 40, 0], [20, 30, 0], [0, 50, 0]])


def test_three_ranks_by_hand():
    """Rank 1 is hot: it receives 90 pairs and sends 20."""
    matrix = pair_matrix(us.plan(LOADS, LAYOUT, policy="none"))
    assert matrix.tolist() == LOADS.tolist()
    found = sides(matrix, LAYOUT)
    assert found.near_sent.tolist() == [40, 20, 50]
    assert found.near_received.tolist() == [20, 90, 0]
    dispatch = exchange(PAPER, matrix, LAYOUT, 1e5)
    np.testing.assert_allclose(dispatch.seconds, [45e-6, 95e-6, 55e-6])
    assert (dispatch.rank, dispatch.fabric, dispatch.side) == (1, "scale-up", "receive")
    assert dispatch.floor_share == pytest.approx(5 / 95)
    combine = exchange(PAPER, matrix, LAYOUT, 1e5, way="combine", direction="backward")
    np.testing.assert_allclose(combine.seconds, [85e-6, 185e-6, 105e-6])
    assert (combine.rank, combine.side) == (1, "send")


def test_crossing_a_domain_binds_by_the_nic():
    layout = EPLayout(3, 3, 0, domain_size=2)
    matrix = pair_matrix(us.plan(LOADS, layout, policy="none"))
    found = sides(matrix, layout)
    assert found.far_sent.tolist() == [0, 0, 50]
    assert found.far_received.tolist() == [0, 50, 0]
    assert found.near_received.tolist() == [20, 40, 0]
    got = exchange(PAPER, matrix, layout, 1e5)
    np.testing.assert_allclose(got.seconds.max(), 30e-6 + 50 * 1e5 / 10e9)
    assert (got.rank, got.fabric, got.side) == (1, "scale-out", "receive")
    np.testing.assert_allclose(got.floor_share, 30 / 530)


def test_nothing_to_send_takes_no_time():
    got = exchange(PAPER, np.diag([5, 5, 5]), LAYOUT, 1e5)
    assert got.seconds.tolist() == [0, 0, 0]
    assert got.floor_share == 0.0


@pytest.mark.parametrize("policy", ["none", "ultraep", "eplb_plus", "ideal"])
@given(problem=problems(max_ranks=8))
@settings(max_examples=25, deadline=None)
def test_the_matrix_agrees_with_the_plan_and_its_statistics(policy, problem):
    layout, loads = problem
    if loads.shape[0] != layout.num_ranks:
        loads = np.repeat(loads, layout.num_ranks, axis=0)
    plan = us.plan(loads, layout, policy=policy)
    matrix = pair_matrix(plan)
    assert matrix.sum(axis=1).tolist() == plan.loads.sum(axis=1).tolist()
    assert matrix.sum(axis=0).tolist() == plan.rank_loads.tolist()
    builder = StatsBuilder(1, layout, 128)
    builder.add(plan)
    found = sides(matrix, layout)
    if plan.locality:  # without it the statistics of one domain round local shares
        for name in ("near_sent", "near_received", "far_sent", "far_received"):
            assert getattr(found, name).tolist() == getattr(builder.stats, name)[0].tolist()
    columns = [c[None] for c in (*vars(found).values(),)]
    expected = all_to_all(PAPER, *columns, 1e3)[0]
    np.testing.assert_allclose(exchange(PAPER, matrix, layout, 1e3).seconds, expected)


@pytest.mark.parametrize("policy", ["none", "ultraep"])
@pytest.mark.parametrize("imbalance", [1.5, 3.0])
def test_closed_form_agrees_with_fair_shared_flows(policy, imbalance):
    """Within 5 %: fair shares may leave the busiest port idle for a while, never overfill it."""
    shape = Shape(32, 12, 2)
    loads = zipf_loads(np.random.default_rng(0), shape, imbalance, tokens_per_rank=2048)
    matrix = pair_matrix(us.plan(loads, shape.layout(), policy=policy))
    rack = get_rack("paper-rack64")
    flows = flows_of_matrix(matrix * 8192.0, np.arange(12))
    # The first arrival pays the latency of the switch, the closed form a floor.
    fluid = simulate(preset_topology("paper-rack"), flows, timeline=False).end_s
    closed = exchange(rack, matrix, shape.layout(), 8192).seconds.max() - rack.alltoall_floor_us.si
    assert closed <= fluid <= 1.05 * closed + 1e-6


def test_an_unknown_source_is_refused():
    plan = us.plan(np.array([5, 6, 7]), LAYOUT, policy="none")
    with pytest.raises(InputError, match="source"):
        pair_matrix(plan)
