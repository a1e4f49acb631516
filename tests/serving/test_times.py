import numpy as np
import pytest

from ultraep_sim.errors import InputError
from ultraep_sim.serving.arrivals import Arrivals
from ultraep_sim.serving.times import poisson_times, recorded_times


def recording(*times):
    ones = np.ones(len(times), np.int64)
    return Arrivals(np.array(times, np.float64), ones, ones, None, "a recording")


def test_a_poisson_process_has_its_rate_and_exponential_gaps():
    counts = [poisson_times(20.0, 100.0, seed).size for seed in range(200)]
    # The count is Poisson: mean and variance 2000, each within 4 standard errors of 200 runs.
    assert np.mean(counts) == pytest.approx(2000, abs=4 * (2000 / 200) ** 0.5)
    assert np.var(counts) == pytest.approx(2000, rel=4 * (2 / 200) ** 0.5)
    times = poisson_times(20.0, 5000.0, 7)
    gaps = np.diff(times, prepend=0.0)
    assert (gaps >= 0).all()
    assert times[-1] <= 5000.0
    # Share of gaps longer than x is exp(-20 x); Kolmogorov-Smirnov at about 1e-4.
    expected = 1.0 - np.exp(-20.0 * np.sort(gaps))
    distance = np.abs(expected - np.arange(gaps.size) / gaps.size).max()
    assert distance < 2.2 / gaps.size**0.5
    # Counts of disjoint seconds are independent.
    counts = np.bincount(times.astype(int), minlength=5000)
    assert abs(np.corrcoef(counts[:-1], counts[1:])[0, 1]) < 4 / 5000**0.5


@pytest.mark.parametrize("rate", [0.1, 7.3, 1000.0])
def test_another_rate_scales_the_same_gaps(rate):
    one, other = poisson_times(3.0, 300.0, 5), poisson_times(rate, 300.0, 5)
    both = min(one.size, other.size)
    assert both > 10
    np.testing.assert_allclose(one[:both] * 3.0, other[:both] * rate, rtol=1e-12)


def test_a_longer_run_adds_arrivals_behind():
    short, long = poisson_times(3.0, 30.0, 5), poisson_times(3.0, 3000.0, 5)
    assert np.array_equal(short, long[: short.size])
    assert long[short.size] > 30.0


def test_too_few_draws_at_first_are_made_up_for(monkeypatch):
    whole = poisson_times(1.0, 400.0, 1)

    class Slow:
        """Gaps of a fifth, then what the stream gives: the first draw does not suffice."""

        def __init__(self, rng):
            self.rng, self.calls = rng, 0

        def standard_exponential(self, size):
            self.calls += 1
            return self.rng.standard_exponential(size) * (0.2 if self.calls == 1 else 1.0)

    from ultraep_sim.serving import times

    stream = times.stream
    monkeypatch.setattr(times, "stream", lambda *key: Slow(stream(*key)))
    found = poisson_times(1.0, 400.0, 1)
    assert found[-1] > 390.0
    assert found.size > whole.size
    assert (np.diff(found) >= 0).all()


def test_impossible_rates_are_refused():
    with pytest.raises(InputError, match=r"rate_per_s: 6.05e\+11 requests are more than"):
        poisson_times(1e6, 7 * 86_400.0, 0)
    with pytest.raises(InputError, match=r"no request arrives in 0\.001 s"):
        poisson_times(0.001, 0.001, 0)


def test_a_recording_keeps_its_times_or_is_stretched_to_a_mean_rate():
    found = recorded_times(recording(0.0, 1.0, 1.0, 6.0), None)
    assert found.tolist() == [0.0, 1.0, 1.0, 6.0]
    # Three gaps in 6 s are 0.5/s; at 2/s they take 1.5 s.
    found = recorded_times(recording(0.0, 1.0, 1.0, 6.0), 2.0)
    np.testing.assert_allclose(found, [0.0, 0.25, 0.25, 1.5])


@pytest.mark.parametrize("times", [(0.0,), (0.0, 0.0, 0.0)])
def test_requests_at_one_instant_have_no_rate(times):
    assert recorded_times(recording(*times), None).size == len(times)
    with pytest.raises(InputError, match="at one instant cannot be stretched"):
        recorded_times(recording(*times), 2.0)
