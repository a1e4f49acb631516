import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraep_sim.errors import LoadsError
from ultraep_sim.planning import MAX_TOTAL, EPLayout, check_loads, spread_evenly


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        (np.array([1.0, 2.0]), "dtype"),
        (np.array([1.0, np.nan]), "loads[1]"),
        (np.array([[1.0, 2.0], [np.inf, 0.0]]), "loads[1, 0]"),
        (np.array([1, -2]), "loads[1]"),
        (np.array([[1, 2], [3, -4]]), "loads[1, 1]"),
        (np.array([], np.int64), "shape"),
        (np.zeros((2, 2, 2), np.int64), "shape"),
        (np.array(5), "shape"),
        (np.array(["a"]), "dtype"),
        (np.array([True, False]), "dtype"),
        (np.array([2**31, 0]), "loads"),
        (np.array([2**62, 2**62, 2**62]), "loads"),
        (np.array([2**64 - 1], np.uint64), "loads"),
    ],
)
def test_bad_loads_name_the_place(bad, place):
    with pytest.raises(LoadsError) as err:
        check_loads(bad, file="loads.npy")
    assert err.value.place == place
    assert str(err.value).startswith("loads.npy: ")
    assert "\n" not in str(err.value)


def test_shape_must_fit_the_layout():
    layout = EPLayout(4, 8, 1)
    for shape in [(7,), (3, 8), (4, 9)]:
        with pytest.raises(LoadsError, match="shape"):
            check_loads(np.zeros(shape, np.int64), layout)
    assert check_loads(np.zeros(8, np.int16), layout).shape == (1, 8)
    assert check_loads(np.zeros((4, 8), np.uint8), layout).dtype == np.int64


def test_the_limit_itself_is_accepted():
    assert check_loads(np.array([MAX_TOTAL, 0])).sum() == MAX_TOTAL


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 20))
def test_spreading_is_exact_and_even(loads, ranks):
    vector = np.array(loads, np.int64)
    spread = spread_evenly(vector, ranks)
    assert spread.sum(axis=0).tolist() == loads
    assert (spread.max(axis=0) - spread.min(axis=0) <= 1).all()
    sums = spread.sum(axis=1)
    assert sums.max() - sums.min() <= 1
