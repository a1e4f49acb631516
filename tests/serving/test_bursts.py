import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.test_mixes import shares
from ultraep_sim.errors import InputError
from ultraep_sim.scenario.requests import BurstSpec
from ultraep_sim.serving.bursts import Bursts, draw_bursts

EVERY = {"every_s": 30.0, "lasting_s": 10.0, "share": 0.8}


def test_bursts_and_quiet_times_alternate_with_their_means():
    starts, ends, _ = draw_bursts(BurstSpec(**EVERY), 400_000.0, 0)
    quiet = starts - np.append(0.0, ends[:-1])
    lasting = ends - starts
    assert (quiet > 0).all()
    assert (lasting > 0).all()
    for found, mean in ((quiet, 30.0), (lasting, 10.0)):
        # Exponential: the standard deviation is the mean.
        assert found.mean() == pytest.approx(mean, abs=4 * mean / found.size**0.5)
        assert found.std() == pytest.approx(mean, rel=0.06)
    assert abs(np.corrcoef(quiet, lasting)[0, 1]) < 4 / quiet.size**0.5
    assert starts[-1] <= 400_000.0


def test_a_longer_run_adds_bursts_behind():
    short, long = (draw_bursts(BurstSpec(**EVERY), d, 3) for d in (500.0, 50_000.0))
    for a, b in zip(short, long, strict=True):
        assert 0 < a.size < b.size
        assert np.array_equal(a, b[: a.size])


def test_millions_of_bursts_are_refused():
    for tiny in (1e-6, 1e-320):
        with pytest.raises(InputError, match="bursts are more than"):
            draw_bursts(BurstSpec(every_s=tiny, lasting_s=tiny), 1000.0, 0)


def test_a_burst_holds_from_its_start_to_before_its_end():
    bursts = Bursts(np.array([1.0, 5.0]), np.array([2.0, 9.0]), np.zeros(2, np.int32), 0.9)
    times = np.array([0.0, 1.0, 1.9, 2.0, 4.9, 5.0, 8.9, 9.0, 99.0])
    assert bursts.which(times).tolist() == [-1, 0, 0, -1, -1, 1, 1, -1, -1]


def one_burst(own, share):
    bursts = Bursts(np.array([1.0]), np.array([2.0]), np.zeros(1, np.int32), share)
    return bursts.applied(np.array([0.5, 1.5]), np.array([own, own]))


def test_the_bursting_domain_rises_and_the_others_keep_their_proportions():
    before, during = one_burst([0.2, 0.6, 0.2], 0.9)
    assert before.tolist() == [0.2, 0.6, 0.2]
    np.testing.assert_allclose(during, [0.9, 0.075, 0.025])


def test_a_domain_above_the_share_keeps_its_own():
    np.testing.assert_allclose(one_burst([0.95, 0.05], 0.9)[1], [0.95, 0.05])
    assert one_burst([1.0, 0.0], 0.9)[1].tolist() == [1.0, 0.0]
    assert one_burst([0.3, 0.7], 1.0)[1].tolist() == [1.0, 0.0]


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda w: sum(w) > 0),
    st.floats(1e-6, 1.0),
)
def test_shares_stay_shares(weights, share):
    own = np.array(weights) / sum(weights)
    during = one_burst(own, share)[1]
    assert during.sum() == pytest.approx(1.0)
    assert (during >= 0).all()
    assert during[0] >= min(share, 1.0) - 1e-12


def test_the_bursting_domain_is_drawn_by_its_share_at_the_start():
    found = shares(
        {"a": 0.7, "b": 0.3},
        {"at_s": 200_000.0, "mix": {"c": 1.0}},
        bursts=EVERY,
        duration_s=400_000.0,
    )
    early = found.bursts.starts < 200_000.0
    drawn = found.bursts.domain[early]
    assert np.bincount(drawn).tolist() == pytest.approx(
        [0.7 * drawn.size, 0.3 * drawn.size], abs=4 * (0.21 * drawn.size) ** 0.5
    )
    assert set(found.bursts.domain[~early].tolist()) == {2}


def test_requests_in_a_burst_are_mostly_of_its_domain():
    found = shares({"a": 0.5, "b": 0.5}, bursts=EVERY, duration_s=20_000.0)
    times = np.linspace(0, 20_000, 200_000)
    drawn = found.draw(times, np.random.default_rng(1).random(times.size))
    which = found.bursts.which(times)
    inside = which >= 0
    hits = drawn[inside] == found.bursts.domain[which[inside]]
    assert hits.mean() == pytest.approx(0.8, abs=4 * 0.4 / inside.sum() ** 0.5)
    assert drawn[~inside].mean() == pytest.approx(0.5, abs=4 * 0.5 / (~inside).sum() ** 0.5)
