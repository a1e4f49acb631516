import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ultraep_sim.engine.fast import run_fast
from ultraep_sim.engine.job import PHASE_PART
from ultraep_sim.engine.stragglers import Conditions, Geometry, Loss
from ultraep_sim.errors import ScenarioError
from ultraep_sim.model.conditions import WHISKERS_SD
from ultraep_sim.scenario.stragglers import StragglerSpec

from .jobs import jobs

SMALL = Geometry(replicas=2, stages=3, ranks=4, domain_size=2)
BIG = Geometry(replicas=16, stages=4, ranks=64, domain_size=64)
MIDDLE = Geometry(replicas=2, stages=4, ranks=64, domain_size=64)
STAGE_OF_LAYER = np.array([0, 1, 1, 2])
RNG = np.random.default_rng(3)
BUSY = {name: RNG.uniform(1e-5, 1e-3, (2, 4, 4)) for name in PHASE_PART}

MECHANISMS = {
    "slow_hosts": {"fraction": 0.3, "factor": 1.2, "gpus_per_host": 2},
    "slow_gpus": [{"rank": 1, "stage": 2, "factor": 1.1}, {"gpu": 0, "factor": 1.5}],
    "slow_links": [{"gpu": 5, "factor": 2}],
    "dead_planes": {"planes": 4, "dead": 1, "domains": [1, 3]},
}
RANDOM = {
    "spread": {"band": 0.1},
    "jitter": {"sigma": 0.05},
    "thermal": {"rate_per_gpu_hour": 0.5},
    "failures": {"mean_time_between_h": 20},
    "slow_hosts": {"fraction": 0.3},
}


def conditions(geometry=SMALL, seed=0, **mechanisms):
    return Conditions(StragglerSpec.model_validate(mechanisms), geometry, seed)


def applied(given, replica=0):
    return given.apply(BUSY, 0, replica, STAGE_OF_LAYER)


def test_nothing_slow_changes_nothing() -> None:
    for healthy in (Conditions(None, SMALL), conditions()):
        assert healthy.static
        assert (healthy.compute == 1).all()
        assert (healthy.link == 1).all()
        assert healthy.episodes(0.0) == ()
        assert healthy.losses(0.0, 1e9) == ()
        assert all(applied(healthy)[name] is BUSY[name] for name in BUSY)
        assert healthy.notes() == []


def test_a_slow_gpu_slows_its_kernels_in_its_stage_alone() -> None:
    slow = conditions(slow_gpus=[{"rank": 2, "stage": 1, "replica": 1, "factor": 1.25}])
    assert np.flatnonzero(slow.compute != 1).tolist() == [(1 * 3 + 1) * 4 + 2]
    assert all((applied(slow, replica=0)[name] == BUSY[name]).all() for name in BUSY)
    got = applied(slow, replica=1)
    for name, part in PHASE_PART.items():
        want = BUSY[name].copy()
        if part == "compute":
            want[:, 1:3, 2] *= 1.25  # layers 1 and 2 run on stage 1
        np.testing.assert_array_equal(got[name], want)
    np.testing.assert_allclose(slow.speeds(1, 1), [1, 1, 0.8, 1])
    assert "GPU 18, takes 1.25 times as long" in slow.notes()[0]


def test_a_slow_link_slows_transfers_alone() -> None:
    got = applied(conditions(slow_links=[{"gpu": 5, "factor": 2}]))
    for name, part in PHASE_PART.items():
        changed = (got[name] != BUSY[name]).any(axis=0)
        assert changed.sum() == (2 if part == "link" else 0)
        assert changed[1:3, 1].all() == (part == "link")


def test_a_dead_plane_takes_its_share_from_the_whole_domain() -> None:
    link = conditions(dead_planes={"planes": 18, "dead": 2, "domains": [3]}).link
    assert np.flatnonzero(link != 1).tolist() == [6, 7]  # groups of 4 ranks: two domains each
    assert link[6] == 18 / 16
    odd = Geometry(1, 2, 5, domain_size=2)  # 2 + 2 + 1 ranks in each group
    assert odd.domain_of.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]


def test_a_plane_that_dies_midway_is_a_spell_without_end() -> None:
    late = conditions(dead_planes={"planes": 4, "dead": 1, "domains": [0], "at_s": 5.0})
    assert (late.link == 1).all()
    assert not late.static
    (spell,) = late.episodes(3.0)
    assert (spell.start_s, spell.end_s, spell.factor) == (2.0, math.inf, 4 / 3)
    assert (spell.gpus.tolist(), spell.part) == ([0, 1], "link")
    assert late.episodes(3.0, horizon_s=1.0) == ()
    assert late.episodes(100.0)[0].start_s == -95.0


def test_the_spread_is_as_wide_as_asked_and_its_median_is_one() -> None:
    compute = conditions(BIG, spread={}).compute
    inside = np.abs(np.log(compute)) <= 0.04
    assert inside.mean() == pytest.approx(0.993, abs=0.005)
    assert np.median(compute) == pytest.approx(1, abs=0.001)
    quartiles = np.percentile(np.log(compute), [25, 75])
    assert np.diff(quartiles)[0] * 4 == pytest.approx(0.08, rel=0.05)  # whiskers: 4 boxes apart
    assert pytest.approx(5.396, abs=1e-3) == WHISKERS_SD


def test_whole_hosts_are_slow_and_about_as_many_as_asked() -> None:
    compute = conditions(BIG, slow_hosts={"fraction": 0.1, "gpus_per_host": 8}).compute
    hosts = compute.reshape(-1, 8)
    assert (hosts == hosts[:, :1]).all()
    assert set(np.unique(hosts)) == {1.0, 1.1}
    assert (hosts[:, 0] > 1).mean() == pytest.approx(0.1, abs=0.03)


def test_more_slow_hosts_are_the_same_ones_and_others() -> None:
    few, many = (conditions(BIG, slow_hosts={"fraction": f}).compute for f in (0.05, 0.2))
    assert (many >= few).all()
    assert (many > few).any()


def test_jitter_has_mean_one_and_the_width_asked_for() -> None:
    draws = conditions(jitter={"sigma": 0.1}).jitter(0, 0, (50, 60, 64), 3)
    assert draws.mean() == pytest.approx(1, abs=1e-3)
    assert np.log(draws).std() == pytest.approx(0.1, rel=0.01)


def test_jitter_is_the_same_whatever_was_drawn_before() -> None:
    first, second = conditions(jitter={}), conditions(jitter={})
    places = list(itertools.product(range(2), range(2), (0, 5)))
    forth = {at: first.jitter(at[0], at[1], (2, 3, 4), at[2]) for at in places}
    back = {at: second.jitter(at[0], at[1], (2, 3, 4), at[2]) for at in reversed(places)}
    for at in places:
        np.testing.assert_array_equal(forth[at], back[at])
    assert len({draws.tobytes() for draws in forth.values()}) == len(places)


def test_jitter_strikes_every_kernel_on_its_own() -> None:
    got = applied(conditions(jitter={"sigma": 0.05}))
    factors = np.stack([got[name] / BUSY[name] for name in PHASE_PART])
    assert len(np.unique(factors)) == factors.size


@pytest.mark.parametrize(("name", "on"), list(itertools.permutations(RANDOM, 2)))
def test_switching_one_mechanism_leaves_the_draws_of_the_others(name: str, on: str) -> None:
    alone = conditions(MIDDLE, **{name: RANDOM[name]})
    added = conditions(MIDDLE, **{on: RANDOM[on]})
    both = conditions(MIDDLE, **{name: RANDOM[name], on: RANDOM[on]})
    np.testing.assert_allclose(both.compute, alone.compute * added.compute, rtol=1e-15)
    draws = [c.jitter(4, 1, (2, 2, 2), 0) for c in (both, alone, added)]
    np.testing.assert_array_equal(draws[0], draws[1] * draws[2])  # where it is off it is 1
    assert repr(both.episodes(7e4)) == repr(alone.episodes(7e4) + added.episodes(7e4))
    assert both.losses(0, 1e5) == alone.losses(0, 1e5) + added.losses(0, 1e5)


def test_same_seed_same_draws_and_another_seed_others() -> None:
    one, same, other = (conditions(MIDDLE, seed, **RANDOM) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.compute, same.compute)
    assert repr(one.episodes(1e5)) == repr(same.episodes(1e5)) != repr(other.episodes(1e5))
    assert one.losses(0, 1e6) == same.losses(0, 1e6) != other.losses(0, 1e6)
    assert (one.compute != other.compute).any()


def test_thermal_spells_come_at_their_rate_and_within_their_ranges() -> None:
    spec = {"rate_per_gpu_hour": 0.01, "factor": [1.5, 2.0], "duration_s": [60, 600]}
    spells = conditions(BIG, thermal=spec).episodes(0.0, horizon_s=20 * 3600)
    expected = 0.01 * 4096 * 20
    assert len(spells) == pytest.approx(expected, rel=0.15)
    factor = np.array([s.factor for s in spells])
    length = np.array([s.end_s - s.start_s for s in spells])
    assert 1.5 <= factor.min() < 1.55
    assert 1.95 < factor.max() <= 2.0
    assert length.min() >= 60 - 1e-6
    assert length.max() <= 600 + 1e-6
    assert all(s.part == "compute" and s.gpus.shape == (1,) for s in spells)


def test_a_run_begins_in_the_steady_state() -> None:
    """As many GPUs are slow at the start as later: rate x mean duration."""
    spec = {"rate_per_gpu_hour": 0.2, "duration_s": [3600, 7200]}
    given = conditions(BIG, thermal=spec)
    at_start, later = (len(given.episodes(t, horizon_s=1e-3)) for t in (0.0, 1e5))
    mean_h = (7200 - 3600) / math.log(2) / 3600
    for count in (at_start, later):
        assert count == pytest.approx(0.2 * 4096 * mean_h, rel=0.12)


def test_windows_of_time_agree_on_a_spell() -> None:
    given = conditions(thermal={"rate_per_gpu_hour": 1.0, "duration_s": [100, 10_000]})
    whole = {(int(e.gpus[0]), round(e.start_s, 6)) for e in given.episodes(0.0, 20_000.0)}
    seen = set()
    for start in range(0, 20_000, 500):
        for e in given.episodes(float(start), 500.0):
            seen.add((int(e.gpus[0]), round(e.start_s + start, 6)))
    assert seen == whole


def test_listed_episodes_and_losses_happen() -> None:
    given = conditions(
        thermal={
            "rate_per_gpu_hour": 0.0,
            "episodes": [
                {"rank": 3, "stage": 1, "factor": 2, "start_s": 1, "end_s": 2, "part": "link"}
            ],
        },
        failures={"mean_time_between_h": None, "losses": [{"gpu": 9, "at_s": 4.0}]},
    )
    (spell,) = given.episodes(0.5)
    assert (spell.gpus.tolist(), spell.start_s, spell.end_s, spell.part) == ([7], 0.5, 1.5, "link")
    assert given.episodes(2.0) == ()
    assert given.losses(4.0, 5.0) == (Loss(9, 4.0),)
    assert given.losses(0.0, 4.0) == ()
    assert not given.static


def test_losses_come_at_the_published_rate() -> None:
    """One in about three hours at 16k GPUs."""
    geometry = Geometry(64, 4, 64, 64)
    given = conditions(geometry, failures={"losses": [{"gpu": 3, "at_s": 50.0}]})
    found = given.losses(0.0, 3000 * 3600.0)
    assert len(found) == pytest.approx(1000, rel=0.1)
    assert Loss(3, 50.0) in found
    assert [loss.at_s for loss in found] == sorted(loss.at_s for loss in found)
    assert given.losses(0.0, 1e6) + given.losses(1e6, 3000 * 3600.0) == found
    assert given.static  # they interrupt a campaign, not an iteration


def test_dense_layers_slow_down_with_their_stage() -> None:
    slow = conditions(slow_gpus=[{"gpu": 5, "factor": 3}])  # rank 1 of stage 1
    extra = np.ones((2, 6, 4))
    want = extra.copy()
    want[0, [1, 4], 1] = 3  # two virtual stages run there
    np.testing.assert_array_equal(slow.apply_extra(extra), want)


@settings(max_examples=30, deadline=None)
@given(
    on=st.sets(st.sampled_from(sorted(MECHANISMS)), min_size=1),
    seed=st.integers(0, 50),
    jitter=st.booleans(),
    data=st.data(),
)
def test_removing_a_straggler_never_lengthens_a_kernel(on, seed, jitter, data) -> None:  # type: ignore[no-untyped-def]
    removed = data.draw(st.sampled_from(sorted(on)))
    spec = {name: MECHANISMS[name] for name in on} | ({"jitter": {}} if jitter else {})
    fewer = {name: value for name, value in spec.items() if name != removed}
    for replica in range(2):
        slow = applied(conditions(seed=seed, **spec), replica)
        mended = applied(conditions(seed=seed, **fewer), replica)
        assert all((mended[name] <= slow[name]).all() for name in BUSY)


@settings(max_examples=60, deadline=None)
@given(job=jobs(), data=st.data())
def test_removing_a_straggler_never_lengthens_an_iteration(job, data) -> None:  # type: ignore[no-untyped-def]
    """Invariant 7, on the max-plus path, whatever hides what."""
    geometry = Geometry(job.replicas, job.stages, job.ranks, job.ranks)
    gpus = data.draw(st.lists(st.integers(0, geometry.gpus - 1), min_size=2, max_size=2))
    slow = [{"gpu": gpu, "factor": 1.7} for gpu in gpus]
    kind = data.draw(st.sampled_from(["slow_gpus", "slow_links"]))
    lengths = [
        run_fast(under(job, conditions(geometry, **{kind: slow[:count]}))).iteration_s
        for count in range(3)
    ]
    assert lengths[0] <= lengths[1] * (1 + 1e-12)
    assert lengths[1] <= lengths[2] * (1 + 1e-12)


def under(job, given):
    """Run a job under conditions, as a scenario's iterations do."""
    stage_of_layer = np.zeros(job.num_layers, np.int64)
    for vs, (first, stop) in enumerate(job.layers):
        stage_of_layer[first:stop] = vs % job.stages
    return replace(
        job,
        busy=lambda d: given.apply(job.busy(d), 0, d, stage_of_layer),
        extra_forward=given.apply_extra(job.extra_forward),
        extra_backward=given.apply_extra(job.extra_backward),
    )


def test_two_mechanisms_on_one_gpu_multiply() -> None:
    slow = conditions(slow_gpus=[{"gpu": 1, "factor": 1.5}, {"gpu": 1, "factor": 2}])
    assert slow.compute[1] == 3


@pytest.mark.parametrize(
    ("spec", "place", "count"),
    [
        ({"slow_gpus": [{"gpu": 24, "factor": 2}]}, "slow_gpus.0.gpu", 24),
        ({"slow_links": [{"rank": 4, "factor": 2}]}, "slow_links.0.rank", 4),
        ({"slow_gpus": [{"rank": 0, "stage": 3, "factor": 2}]}, "slow_gpus.0.stage", 3),
        ({"failures": {"losses": [{"rank": 0, "replica": 2, "at_s": 0}]}},
         "failures.losses.0.replica", 2),
        ({"dead_planes": {"domains": [0, 12]}}, "dead_planes.domains.1", 12),
    ],
)  # fmt: skip
def test_gpus_that_are_not_there_are_refused(spec, place, count) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ScenarioError, match=rf"^{place}: .*0 to {count - 1}.*ep\.ranks"):
        conditions(**spec)


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"spred": {}}, "extra"),
        ({"slow_gpus": [{"factor": 2}]}, "exactly one of gpu and rank"),
        ({"slow_gpus": [{"gpu": 1, "stage": 1, "factor": 2}]}, "go with rank"),
        ({"slow_gpus": [{"gpu": 1, "factor": 0.5}]}, "greater than or equal to 1"),
        ({"dead_planes": {"planes": 4, "dead": 4}}, "no way between GPUs"),
        ({"dead_planes": {"domains": [1, 1]}}, "each domain once"),
        ({"thermal": {"factor": [2, 1]}}, "low <= high"),
        ({"thermal": {"duration_s": [0, 1]}}, "shortest"),
        ({"thermal": {"episodes": [{"gpu": 0, "factor": 2, "start_s": 2, "end_s": 1}]}}, "end_s"),
        ({"spread": {"band": "8 %"}}, "valid number"),
    ],
)
def test_impossible_conditions_are_refused(spec, word) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValidationError, match=word):
        StragglerSpec.model_validate(spec)
