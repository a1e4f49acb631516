import numpy as np
import pytest

from ultraep_sim.fabric.streaming import (
    broadcast,
    distribute,
    migrate,
    reduce_broadcast,
    reduce_gradients,
)
from ultraep_sim.model import get_model, get_rack

PAPER = get_rack("paper-rack64")
COPY = get_model("qwen3-235b").expert_bytes("bf16")
TOY = PAPER.with_overrides(
    {
        "stream_GBps": 100,
        "stream_base_us": 3,
        "relay_us": 20,
        "migrate_GBps": 10,
        "migrate_base_us": 40,
        "grad_reduce_GBps": 20,
        "grad_reduce_sms": 10,
    }
)


@pytest.mark.parametrize(("copies", "published_us"), [(4, 214), (5, 265), (6, 317)])
def test_direct_rows_of_the_readme(copies: int, published_us: float) -> None:
    """The busiest sender's copies are the plan's max fan-out: 4, 5, 6 in the planner table."""
    sent = np.array([[copies, 0, 0]])
    got = distribute(PAPER, sent, np.array([[0, 2, 2]]), COPY)
    assert got.max() * 1e6 == pytest.approx(published_us, rel=0.005)


def test_direct_by_hand() -> None:
    got = distribute(TOY, np.array([[2, 0, 1]]), np.array([[0, 0, 3]]), 1e6)
    np.testing.assert_allclose(got, [[3e-6 + 2e-5, 0, 3e-6 + 3e-5]])


def test_relay_pays_its_extra_in_relayed_records_only() -> None:
    sent = np.array([[2, 1, 0], [2, 1, 0]])
    received = np.array([[0, 1, 2], [0, 1, 2]])
    got = distribute(TOY, sent, received, 1e6, relayed=np.array([False, True]))
    np.testing.assert_allclose(got[0], [23e-6, 13e-6, 23e-6])
    np.testing.assert_allclose(got[1], got[0] + 20e-6)


def test_relay_wins_where_it_cuts_the_fan_out() -> None:
    direct = distribute(PAPER, np.array([[10, 0, 0]]), np.array([[0, 1, 1]]), COPY)
    relayed = distribute(
        PAPER, np.array([[3, 3, 0]]), np.array([[0, 1, 1]]), COPY, np.array([True])
    )
    assert direct.max() == pytest.approx(8e-6 + 10 * 51.5e-6)
    assert relayed.max() == pytest.approx(8e-6 + 15e-6 + 3 * 51.5e-6)


def test_migration_by_hand_costs_nothing_between_replans() -> None:
    got = migrate(TOY, np.array([[0, 0, 0], [0, 4, 1]]), 1e6)
    np.testing.assert_allclose(got, [[0, 0, 0], [0, 40e-6 + 4e-4, 40e-6 + 1e-4]])


def test_gradients_bind_on_the_home_by_its_sms() -> None:
    sent, received = np.array([[3, 0, 0]]), np.array([[0, 2, 1]])
    got = reduce_gradients(TOY, sent, received, 1e6)
    np.testing.assert_allclose(got, [[3e6 / 20e9, 2e6 / 100e9, 1e6 / 100e9]])
    many = reduce_gradients(TOY, sent, received, 1e6, sms=100)  # 200 GB/s, but the link has 100
    np.testing.assert_allclose(many[0, 0], 3e6 / 100e9)


@pytest.mark.parametrize("copies", [4, 6])
def test_gradient_reduction_lies_within_the_published_times(copies: int) -> None:
    sent = np.array([[copies, 0]])
    got = reduce_gradients(PAPER, sent, np.array([[0, 2]]), 72 * 2**20).max()
    assert 1.9e-3 * 0.9 < got < 2.4e-3 * 1.1


@pytest.mark.parametrize("law", [distribute, reduce_gradients])
def test_more_copies_are_never_faster(law) -> None:  # type: ignore[no-untyped-def]
    none = np.zeros((1, 2), np.int64)
    times = [law(PAPER, none + copies, none, COPY).max() for copies in range(8)]
    assert times == sorted(times)
    assert times[0] == 0 < times[1]
    times = [law(PAPER, none, none + copies, COPY).max() for copies in range(8)]
    assert times == sorted(times)


@pytest.mark.parametrize("name", ["stream_GBps", "migrate_GBps", "grad_reduce_GBps"])
def test_less_bandwidth_is_never_faster(name: str) -> None:
    slower = TOY.with_overrides({name: getattr(TOY, name).value / 2})
    copies = np.array([[3, 1, 0]])
    assert (distribute(slower, copies, copies, COPY) >= distribute(TOY, copies, copies, COPY)).all()
    assert (migrate(slower, copies, COPY) >= migrate(TOY, copies, COPY)).all()
    slow, fast = (reduce_gradients(rack, copies, copies, COPY) for rack in (slower, TOY))
    assert (slow >= fast).all()


def test_broadcast_by_hand() -> None:
    """Two experts of rank 0 and one of rank 1 go to all of four ranks; record 1: one of rank 0."""
    sent = np.array([[6, 3, 0, 0], [3, 0, 0, 0]])
    received = np.array([[1, 2, 3, 3], [0, 1, 1, 1]])
    got = broadcast(TOY, sent, received, 1e6)
    np.testing.assert_allclose(got[0], [13e-6, 23e-6, 33e-6, 33e-6])
    np.testing.assert_allclose(got[1], [13e-6] * 4)  # the home carries its copy too
    np.testing.assert_array_equal(broadcast(TOY, sent * 0, received * 0, 1e6), np.zeros((2, 4)))
    back = reduce_broadcast(TOY, sent, received, 2e6)
    np.testing.assert_allclose(back, [[2e-5, 4e-5, 6e-5, 6e-5], [2e-5] * 4])


def test_a_broadcast_does_not_depend_on_the_fan_out() -> None:
    """64 ranks: streamed 63 times by the home, broadcast once by every port."""
    sent, received = np.zeros((2, 64), int), np.ones((2, 64), int)
    sent[:, 0], received[:, 0] = [63, 3], 0
    received[1, 4:] = 0
    assert distribute(PAPER, sent, received, COPY).max() == pytest.approx(8e-6 + 63 * 51.5e-6)
    np.testing.assert_allclose(broadcast(PAPER, sent, received, COPY).max(axis=1), 8e-6 + 51.5e-6)
    gradients = reduce_broadcast(PAPER, sent, received, 2 * COPY).max(axis=1)
    np.testing.assert_allclose(gradients, 103e-6)
    assert reduce_gradients(PAPER, sent, received, 2 * COPY).max() > 63 * 103e-6


OUT = TOY.with_overrides({"scale_out_achieved_GBps": 5, "scale_out_floor_us": 25})
SENT, RECEIVED = np.array([[2, 0, 1]]), np.array([[0, 1, 2]])
FAR = (np.array([[1, 0, 0]]), np.array([[0, 1, 0]]))
NO_FAR = (np.zeros((1, 3), np.int64), np.zeros((1, 3), np.int64))


def test_far_copies_go_over_the_nics_beside_the_near_ones() -> None:
    got = distribute(OUT, SENT, RECEIVED, 1e6, far=FAR)
    far = 25e-6 + 1e6 / 5e9
    np.testing.assert_allclose(got, [[far, far, 3e-6 + 2e6 / 100e9]])
    relayed = distribute(OUT, SENT, RECEIVED, 1e6, np.array([True]), FAR)
    np.testing.assert_allclose(relayed - got, [[20e-6] * 3])
    floor = OUT.with_overrides({"scale_out_floor_us": 1})
    assert distribute(floor, SENT, RECEIVED, 1e6, far=FAR)[0, 1] == pytest.approx(3e-6 + 2e-4)


def test_far_gradients_are_added_by_the_same_sms_and_brought_by_the_nics() -> None:
    near = reduce_gradients(OUT, SENT, RECEIVED, 2e6)
    got = reduce_gradients(OUT, SENT, RECEIVED, 2e6, far=FAR)
    np.testing.assert_allclose(near, [[2 * 2e6 / 20e9, 2e6 / 100e9, 2e6 / 20e9]])
    far = 25e-6 + 2e6 / 5e9
    np.testing.assert_allclose(got, [[far, far, 2e6 / 20e9]])


def test_a_broadcast_leaves_its_domain_copy_by_copy() -> None:
    far = (np.array([[3, 0, 0]]), np.array([[0, 1, 0]]))
    sent, received = np.array([[5, 0, 0]]), np.array([[0, 1, 1]])
    got = broadcast(OUT, sent, received, 1e6, far)
    np.testing.assert_allclose(got, [[25e-6 + 6e-4, 25e-6 + 2e-4, 3e-6 + 1e-5]])
    back = reduce_broadcast(OUT, sent, received, 1e6, far)
    np.testing.assert_allclose(back, [[25e-6 + 6e-4, 25e-6 + 2e-4, 1e-5]])


def test_migration_that_may_cross_goes_at_the_lower_rate() -> None:
    moved = np.array([[2, 0], [2, 0]])
    got = migrate(OUT, moved, 1e6, np.array([False, True]))
    np.testing.assert_allclose(got, [[40e-6 + 2e-4, 0], [40e-6 + 4e-4, 0]])
    fast = OUT.with_overrides({"scale_out_achieved_GBps": 40, "migrate_GBps": 10})
    np.testing.assert_allclose(migrate(fast, moved, 1e6, np.array([True, True])), [got[0]] * 2)


@pytest.mark.parametrize("law", [distribute, broadcast, reduce_gradients, reduce_broadcast])
def test_no_far_copy_changes_nothing(law) -> None:  # type: ignore[no-untyped-def]
    np.testing.assert_array_equal(
        law(OUT, SENT, RECEIVED, 1e6, far=NO_FAR), law(OUT, SENT, RECEIVED, 1e6)
    )
