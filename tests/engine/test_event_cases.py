"""The event engine against a pencil."""

import numpy as np
import pytest

from tests.engine.hand_cases import CASES, EPISODE_CASES
from ultraep_sim.engine.event import run_event


@pytest.mark.parametrize("case", [*CASES, *EPISODE_CASES], ids=lambda case: case.name)
def test_as_computed_by_hand(case):
    times = run_event(case.job)
    assert times.iteration_s == pytest.approx(case.iteration_s, rel=1e-12)
    for name, expected in case.expected.items():
        found = getattr(times, name)
        assert found.shape == np.shape(expected), name
        np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=name)


def test_names_are_of_one_case_each():
    names = [case.name for case in (*CASES, *EPISODE_CASES)]
    assert len(set(names)) == len(names)
