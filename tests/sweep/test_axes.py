from __future__ import annotations

import pytest

from ultraep_sim.sweep.axes import read_axis


def told(written, name="ep.ranks"):
    return [one.value for one in read_axis(name, written)]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ([1, 2], [1, 2]),
        ({"range": [0, 8, 2]}, [0, 2, 4, 6, 8]),
        ({"range": [1, 4]}, [1, 2, 3, 4]),
        ({"range": [1, 4, 2]}, [1, 3]),
        ({"range": [0.1, 0.5, 0.1]}, [0.1, 0.2, 0.3, 0.4, 0.5]),
        ({"range": [3, 3]}, [3]),
        ({"log_range": [100, 1600, 5]}, [100, 200, 400, 800, 1600]),
        ({"log_range": [0.01, 1.0, 3]}, [0.01, 0.1, 1.0]),
    ],
)
def test_ranges_hold_both_ends(written, values):
    assert told(written) == values
    assert [type(value) for value in told(written)] == [type(value) for value in values]


def test_paired_keys_move_together():
    axis = read_axis("size", {"paired": {"ep.ranks": [8, 16], "ep.slots_per_rank": [2, 1]}})
    assert [one.set for one in axis] == [
        {"ep.ranks": 8, "ep.slots_per_rank": 2}, {"ep.ranks": 16, "ep.slots_per_rank": 1},
    ]  # fmt: skip
    assert axis[1].columns("size") == {"ep.ranks": 16, "ep.slots_per_rank": 1}


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("x", "must be a list, or one of range"),
        ({}, "must be a list"),
        ({"range": [1, 2], "log_range": [1, 2, 2]}, "must be a list"),
        ({"steps": [1, 2]}, "no form 'steps'"),
        ({"range": [1]}, r"\[first, last\]"),
        ({"range": [1, "2"]}, r"\[first, last\]"),
        ({"range": [2, 1]}, "goes up"),
        ({"range": [1, 2, 0]}, "goes up"),
        ({"range": [0, 10**9]}, "1000000001 values"),
        ({"range": [0, float("inf")]}, r"\[first, last\]"),
        ({"log_range": [0, 2, 3]}, "0 < first"),
        ({"log_range": [1, 2, 2.5]}, "log_range is"),
        ({"log_range": [1, 3, 9]}, "a value twice"),
        ({"paired": {"a": [1], "b": [1, 2]}}, "one length"),
        ({"paired": {}}, "one length"),
        ({"paired": [1]}, "one length"),
        ([], "no value"),
        ([1, 1], "a value twice"),
        ([1, {"value": 1, "set": {"a": 1}}], "mixes"),
        ([{"value": 1, "set": {}}], "set"),
        ([{"value": 1, "set": {"a": 1}, "sets": 1}], "sets"),
    ],
)
def test_what_is_no_axis_is_told(written, says):
    with pytest.raises(ValueError, match=says):
        read_axis("ep.ranks", written)
