import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.errors import InputError
from ultraep_sim.scenario.requests import DomainSpec
from ultraep_sim.serving.mixes import BUILT_IN, domain_shares, shares_of

# FullStack Bench's counts as the paper abbreviates them, in its order.
FULLSTACK = (430, 682, 200, 394, 286, 588, 80, 272, 126, 60, 68, 188)


def shares(mix, *changes, bursts=None, duration_s=100.0, seed=0):
    spec = DomainSpec.model_validate({"mix": mix, "changes": changes, "bursts": bursts})
    return domain_shares(spec, duration_s, seed)


def test_fullstack_has_its_published_counts():
    assert tuple(BUILT_IN["fullstack"].values()) == FULLSTACK
    assert sum(FULLSTACK) == 3374
    found = shares_of("fullstack")
    assert found["maths"] == pytest.approx(286 / 3374)
    assert sum(found.values()) == pytest.approx(1.0)


def test_an_unknown_mix_gets_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'fullstack'"):
        shares_of("fulstack")


@given(st.dictionaries(st.text(min_size=1), st.floats(0, 1e308), min_size=1, max_size=9))
def test_shares_of_any_scale_sum_to_one(mix):
    if not any(mix.values()):
        return
    found = shares_of(mix)
    assert sum(found.values()) == pytest.approx(1.0)
    assert list(found) == list(mix)
    assert all(0 <= share <= 1 for share in found.values())


def test_domains_keep_the_order_in_which_they_are_named():
    found = shares(
        {"b": 1.0, "a": 3.0},
        {"at_s": 1.0, "mix": {"c": 1.0, "a": 1.0}},
        {"at_s": 2.0, "mix": {"d": 1.0, "b": 1.0}},
    )
    assert found.domains == ("b", "a", "c", "d")
    assert found.at(np.zeros(1)).tolist() == [[0.25, 0.75, 0.0, 0.0]]


def test_a_switch_is_at_once_and_a_drift_is_linear():
    found = shares(
        {"a": 1.0},
        {"at_s": 10.0, "mix": {"b": 1.0}},
        {"at_s": 20.0, "mix": {"a": 1.0, "c": 1.0}, "over_s": 10.0},
        {"at_s": 30.0, "mix": {"a": 1.0}},
    )
    before, after = np.nextafter(10.0, 0), 10.0
    times = np.array([0.0, before, after, 20.0, 22.5, 25.0, np.nextafter(30.0, 0), 30.0, 1e9])
    expected = [
        [1, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, 1, 0],
        [0.125, 0.75, 0.125],
        [0.25, 0.5, 0.25],
        [0.5, 0, 0.5],
        [1, 0, 0],
        [1, 0, 0],
    ]
    np.testing.assert_allclose(found.at(times), expected, atol=1e-12)


def test_of_two_switches_at_once_the_last_holds():
    found = shares({"a": 1.0}, {"at_s": 5.0, "mix": {"b": 1.0}}, {"at_s": 5.0, "mix": {"c": 1.0}})
    assert found.at(np.array([4.9, 5.0])).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_a_draw_has_the_shares_of_its_time():
    found = shares(
        {"a": 3.0, "b": 1.0}, {"at_s": 50.0, "mix": {"b": 1.0, "c": 4.0}, "over_s": 50.0}
    )
    rng = np.random.default_rng(1)
    for at in (0.0, 60.0, 75.0, 100.0):
        times = np.full(100_000, at)
        drawn = found.draw(times, rng.random(times.size))
        measured = np.bincount(drawn, minlength=3) / times.size
        # 5 standard errors of a share.
        np.testing.assert_allclose(measured, found.at(times[:1])[0], atol=5 * 0.5 / times.size**0.5)


def test_a_draw_is_the_same_in_pieces(monkeypatch):
    from ultraep_sim.serving import mixes

    found = shares("fullstack", {"at_s": 30.0, "mix": {"maths": 1.0}, "over_s": 40.0})
    rng = np.random.default_rng(1)
    times, uniform = np.sort(rng.random(1000)) * 100, rng.random(1000)
    whole = found.draw(times, uniform)
    monkeypatch.setattr(mixes, "_CHUNK", 7)
    assert np.array_equal(found.draw(times, uniform), whole)


@settings(max_examples=200)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8).filter(any),
    st.sampled_from([0.0, 0.5, 1 - 2**-53]),
)
def test_a_domain_without_a_share_is_never_drawn(weights, uniform):
    found = shares({f"d{i}": w for i, w in enumerate(weights)})
    drawn = found.draw(np.zeros(1), np.array([uniform]))[0]
    assert found.mixes[0, drawn] > 0


def test_a_slightly_other_mix_moves_few_requests():
    uniform = np.random.default_rng(1).random(10_000)
    times = np.zeros(uniform.size)
    one = shares({"a": 0.5, "b": 0.5}).draw(times, uniform)
    other = shares({"a": 0.51, "b": 0.49}).draw(times, uniform)
    assert 0 < (one != other).sum() < 200
