import math

import numpy as np
import pytest

from ultraep_sim.scenario.requests import MAX_PROMPT, LengthSpec
from ultraep_sim.serving.lengths import describe_lengths, draw_lengths

COUNT = 200_000


def test_a_lognormal_has_its_mean_and_sigma():
    spec = LengthSpec(mean=2000.0, sigma=0.8, longest=MAX_PROMPT)
    found = draw_lengths(spec, COUNT, 3)
    assert found.dtype == np.int64
    spread = 2000 * math.sqrt(math.exp(0.8**2) - 1)
    assert found.mean() == pytest.approx(2000, abs=4 * spread / COUNT**0.5)
    assert np.log(found).std() == pytest.approx(0.8, abs=0.01)
    # mu = log(mean) - sigma^2 / 2 is the median's log, below the mean's.
    assert np.median(found) == pytest.approx(2000 * math.exp(-0.32), rel=0.02)


def test_an_exponential_has_its_mean():
    found = draw_lengths(LengthSpec(kind="exponential", mean=500.0), COUNT, 3)
    assert found.mean() == pytest.approx(500, abs=4 * 500 / COUNT**0.5)
    assert (found > 1000).mean() == pytest.approx(math.exp(-2), abs=0.005)


def test_fixed_lengths_are_rounded():
    assert set(draw_lengths(LengthSpec(kind="fixed", mean=700.4), 9, 3).tolist()) == {700}


@pytest.mark.parametrize("kind", ["lognormal", "exponential"])
def test_lengths_outside_are_set_to_the_bounds(kind):
    whole = draw_lengths(LengthSpec(kind=kind, mean=100.0), COUNT, 1)
    cut = draw_lengths(LengthSpec(kind=kind, mean=100.0, shortest=20, longest=300), COUNT, 1)
    assert np.array_equal(cut, np.clip(whole, 20, 300))
    assert (whole < 20).any()
    assert (whole > 300).any()


def test_no_prompt_is_empty_or_overflows():
    tiny = draw_lengths(LengthSpec(kind="exponential", mean=1.0), COUNT, 1)
    assert tiny.min() == 1
    wild = draw_lengths(LengthSpec(mean=float(MAX_PROMPT), sigma=4.0, longest=MAX_PROMPT), COUNT, 1)
    assert 1 <= wild.min() < wild.max() == MAX_PROMPT


@pytest.mark.parametrize("kind", ["lognormal", "exponential", "fixed"])
def test_more_requests_leave_the_first_as_they_are(kind):
    spec = LengthSpec(kind=kind, mean=100.0)
    few, many = draw_lengths(spec, 1000, 1), draw_lengths(spec, 5000, 1)
    assert np.array_equal(few, many[:1000])
    if kind != "fixed":
        assert not np.array_equal(few, draw_lengths(spec, 1000, 2))


def test_the_description_names_what_matters():
    text = describe_lengths(LengthSpec(mean=100.0, sigma=0.5, shortest=2, longest=300))
    assert text == "lognormal lengths (mean 100, sigma 0.5, 2 to 300)"
    assert "sigma" not in describe_lengths(LengthSpec(kind="fixed", mean=100.0))
