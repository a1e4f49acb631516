import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ultraep_sim.fabric.alltoall import all_to_all
from ultraep_sim.model import get_rack

RACK = get_rack("paper-rack64").with_overrides(
    {
        "alltoall_forward_GBps": 100,
        "alltoall_backward_GBps": 200,
        "alltoall_floor_us": 10,
        "scale_out_achieved_GBps": 10,
        "scale_out_floor_us": 30,
    }
)
NONE = np.zeros((1, 3), np.int64)


def test_three_ranks_by_hand() -> None:
    sent, received = np.array([[5, 20, 0]]), np.array([[15, 10, 0]])
    got = all_to_all(RACK, sent, received, NONE, NONE, 1e6)
    np.testing.assert_allclose(got, [[10e-6 + 15e6 / 100e9, 10e-6 + 20e6 / 100e9, 10e-6]])
    back = all_to_all(RACK, sent, received, NONE, NONE, 1e6, "backward")
    np.testing.assert_allclose(back, [[10e-6 + 15e6 / 200e9, 10e-6 + 20e6 / 200e9, 10e-6]])


def test_near_and_far_overlap() -> None:
    near, far = np.array([[0, 1000, 50]]), np.array([[7, 2, 0]])
    got = all_to_all(RACK, near, near, far, far, 1e6)
    far_s = [30e-6 + 7e6 / 10e9, 30e-6 + 2e6 / 10e9, 30e-6]
    near_s = [10e-6, 10e-6 + 1000e6 / 100e9, 10e-6 + 50e6 / 100e9]
    np.testing.assert_allclose(got, [np.maximum(far_s, near_s)])
    assert got[0].argmax() == 1  # near binds here, far on rank 0
    assert got[0, 0] == pytest.approx(far_s[0])


def test_a_fabric_nobody_uses_costs_no_floor() -> None:
    records = np.array([[0, 0, 0], [0, 1, 0]])
    got = all_to_all(RACK, records, records, 0 * records, 0 * records, 1.0)
    assert (got[0] == 0).all()
    assert (got[1] >= RACK.alltoall_floor_us.si).all()


def test_dispatch_is_receive_bound_and_combine_mirrors_it() -> None:
    sent, received = np.array([[10, 10, 10]]), np.array([[24, 3, 3]])
    dispatch = all_to_all(RACK, sent, received, NONE, NONE, 1e6)
    combine = all_to_all(RACK, received, sent, NONE, NONE, 1e6)
    np.testing.assert_allclose(dispatch, combine)
    assert dispatch.max() == pytest.approx(10e-6 + 24e6 / 100e9)


COUNTS = arrays(np.int64, (2, 4), elements=st.integers(0, 100_000))


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.integers(0, 3), st.integers(0, 7), st.integers(1, 10**6))
def test_more_traffic_is_never_faster(
    near_sent, near_received, far_sent, far_received, which, cell, extra
):  # type: ignore[no-untyped-def]
    counts = [near_sent, near_received, far_sent, far_received]
    before = all_to_all(RACK, *counts, 8192.0)
    counts[which] = counts[which].copy()
    counts[which].flat[cell] += extra
    assert (all_to_all(RACK, *counts, 8192.0) >= before).all()


@given(
    COUNTS,
    COUNTS,
    st.sampled_from(["alltoall_forward_GBps", "scale_out_achieved_GBps", "scale_up_GBps"]),
    st.floats(0.05, 1.0),
)
def test_less_bandwidth_is_never_faster(near, far, name, share):  # type: ignore[no-untyped-def]
    slower = RACK.with_overrides({name: getattr(RACK, name).value * share})
    before = all_to_all(RACK, near, near, far, far, 8192.0)
    assert (all_to_all(slower, near, near, far, far, 8192.0) >= before).all()
