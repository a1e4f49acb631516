"""Hand-made rows of a sweep, with answers one can work out."""

from __future__ import annotations


def row(policy, value, *, metric="iteration_ms", **rest):
    """One row; ``slots``, ``load``, ``seed`` and the like are columns."""
    return {**rest, "policy": policy, metric: value, "workload": rest.get("workload", "recorded")}


def grid(values, **rest):
    """Rows of ``{(slots, load): {policy: value}}``."""
    return [
        row(policy, value, slots=slots, load=load, **rest)
        for (slots, load), found in values.items()
        for policy, value in found.items()
    ]


AXES = ["slots", "load"]
#: At each place: none 200, and two contenders; memory grows with the slots.
VALUES = {
    (1, "calm"): {"none": 200.0, "a": 100.0, "b": 110.0, "ideal": 90.0},
    (2, "calm"): {"none": 200.0, "a": 95.0, "b": 100.0, "ideal": 90.0},
    (1, "wild"): {"none": 200.0, "a": 160.0, "b": 128.0, "ideal": 90.0},
    (2, "wild"): {"none": 200.0, "a": 150.0, "b": 120.0, "ideal": 90.0},
}


def hand_made():
    """Four places, four policies, memory of 100 GB and 10 more a slot."""
    return [
        one | {"fits": True, "memory_GB": 100.0 + 10.0 * one["slots"] * (one["policy"] != "none")}
        for one in grid(VALUES)
    ]
