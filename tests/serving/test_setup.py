"""What all runs of a serving scenario share does not depend on how many requests arrive."""

from __future__ import annotations

import numpy as np
import pytest

from tests.serving.helpers import tiny
from ultraep_sim.serving.capacity import measure
from ultraep_sim.serving.setup import make_setup


def at(rate: float):  # type: ignore[no-untyped-def]
    lengths = {"kind": "lognormal", "mean": 200, "sigma": 1.0, "longest": 4096}
    requests = {"arrivals": {"rate_per_s": rate}, "lengths": lengths}
    return make_setup(tiny(policies=["none"], requests=requests))


@pytest.mark.parametrize("rate", [10.0, 120.0])
def test_the_routing_is_fitted_to_the_same_batch_at_every_rate(rate: float) -> None:
    base, other = at(40.0), at(rate)
    assert len(base.requests) != len(other.requests)
    assert other.typical.tokens_per_segment == base.typical.tokens_per_segment
    assert np.array_equal(other.routing.exponents, base.routing.exponents)


def test_a_run_is_the_same_wherever_its_search_began() -> None:
    assert measure(at(10.0), "none", 40.0) == measure(at(120.0), "none", 40.0)
