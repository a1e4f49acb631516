import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trace.toys import same
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import Trace, synthesize
from ultraep_sim.trace.synth import _Popularity
from ultraep_sim.trace.synth_draw import draw_counts
from ultraep_sim.trace.synth_profile import inclusion_probabilities

SMALL = {
    "num_experts": 64,
    "top_k": 8,
    "num_layers": 3,
    "steps": 4,
    "source_ranks": 4,
    "tokens_per_rank": 256,
    "imbalance": 2.0,
    "at_ranks": 16,
}


def mean_imbalance(trace, ranks):
    values = []
    for record in trace:
        loads = record.loads.sum(axis=0).reshape(ranks, -1).sum(axis=1)
        values.append(loads.max() / loads.mean())
    return float(np.mean(values))


@pytest.mark.parametrize(("experts", "ranks"), [(256, 64), (160, 40)])
@pytest.mark.parametrize("target", [1.3, 2.0, 4.0, 6.0])
def test_hits_the_target(experts, ranks, target):
    trace = synthesize(experts, 8, 4, 3, ranks, 1024, target, ranks, seed=11)
    assert mean_imbalance(trace, ranks) == pytest.approx(target, rel=0.01)


def test_hits_the_target_in_the_mean_of_a_drifting_trace():
    """Memory 0 makes the steps independent, so that a short trace shows the mean."""
    trace = synthesize(64, 8, 8, 40, 1, 8192, 2.5, 16, seed=3, drift=0.3, drift_memory=0.0)
    assert mean_imbalance(trace, 16) == pytest.approx(2.5, rel=0.04)


def test_follows_the_rules_and_says_that_it_is_synthetic():
    trace = synthesize(**SMALL)
    checked = Trace.from_records(trace.meta, trace)
    assert checked.num_records == trace.num_records == 12
    assert np.array_equal(checked.keys(), trace.keys())
    assert trace.meta.synthetic
    assert "random" in trace.meta.recorded
    assert trace.meta.notes["synth"]["seed"] == 0
    for record in trace:
        assert (record.loads.sum(axis=1) == 256 * 8).all()
        assert record.loads.max() <= 256


def test_same_seed_same_draws_other_seed_others(tmp_path):
    trace = synthesize(**SMALL, seed=1)
    assert same(trace, trace)
    assert same(trace, synthesize(**SMALL, seed=1))
    assert trace.digest == synthesize(**SMALL, seed=1).digest
    assert not same(trace, synthesize(**SMALL, seed=2))
    assert trace.digest != synthesize(**SMALL, seed=2).digest
    assert same(Trace.read(trace.write(tmp_path / "s.parquet")), trace)


@pytest.mark.parametrize(
    "dynamics",
    [{}, {"drift": 0.5}, {"noise": 0.4}, {"drift": 0.3, "noise": 0.2, "source_noise": 0.5}],
)
def test_a_slice_holds_the_same_draws(dynamics):
    trace = synthesize(**SMALL, **dynamics, micro_batches=2)
    wanted = [r for r in trace if r.step in (1, 3) and r.layer == 2 and r.micro_batch == 1]
    view = trace.select(steps=slice(1, None, 2), layers=2, micro_batches=1)
    assert [r[:3] for r in view] == [r[:3] for r in wanted]
    assert all(np.array_equal(a.loads, b.loads) for a, b in zip(view, wanted, strict=True))


def test_layers_have_their_own_profile_and_steps_share_it():
    trace = synthesize(**SMALL)
    by_layer = np.array([r.loads.sum(axis=0) for r in trace]).reshape(4, 3, 64)
    between_steps = np.corrcoef(by_layer[0, 0], by_layer[3, 0])[0, 1]
    between_layers = np.corrcoef(by_layer[0, 0], by_layer[0, 1])[0, 1]
    assert between_steps > 0.97
    assert between_layers < 0.8


def test_drift_is_the_process_it_says():
    """Stationary from the first step: log popularity has the given spread and memory."""
    few = {**SMALL, "top_k": 1, "num_layers": 1, "steps": 600, "imbalance": 1.8}
    source = synthesize(**few, drift=0.3, drift_memory=0.8)._source
    profile = _Popularity(source, 0)
    log_chance = np.log([profile.at(step, 0) for step in range(600)])
    # One token takes one expert, so no chance is capped, and only a common factor is lost.
    shift = log_chance - log_chance.mean(axis=1, keepdims=True)
    shift -= shift.mean(axis=0)
    assert shift.std() == pytest.approx(0.3, rel=0.05)
    assert np.corrcoef(shift[:-1].ravel(), shift[1:].ravel())[0, 1] == pytest.approx(0.8, abs=0.03)
    assert shift[:5].std() == pytest.approx(0.3, rel=0.25)


def content(trace):
    found = hashlib.sha256()
    for record in trace:
        found.update(record.loads.astype("<i4").tobytes())
    return found.hexdigest()


@pytest.mark.parametrize(
    ("dynamics", "loads", "digest"),
    [
        ({}, "12a23b4a74c79144", "469a1ba4bd4ed515"),
        ({"drift": 0.4, "micro_batches": 2, "seed": 3}, "2b3c6417b04bada3", "48b62dd531ce4fb0"),
    ],
)
def test_without_noise_draws_and_name_are_what_they_were_before_there_was_noise(
    dynamics, loads, digest
):
    trace = synthesize(**SMALL, **dynamics, noise=0.0, source_noise=0.0)
    assert content(trace).startswith(loads)
    assert trace.digest.startswith(digest)
    assert "noise" not in trace.meta.notes["synth"]
    assert trace.digest != synthesize(**SMALL, **dynamics, noise=0.1).digest


def test_noise_is_drawn_anew_for_every_micro_batch_and_layer():
    few = {**SMALL, "top_k": 1, "num_layers": 2, "steps": 60, "imbalance": 1.8}
    source = synthesize(**few, noise=0.3, micro_batches=2)._source
    shifts = []
    for layer in range(2):
        popularity = _Popularity(source, layer)
        chance = np.log([[popularity.at(step, m) for m in range(2)] for step in range(60)])
        shift = chance - chance.mean(axis=-1, keepdims=True)
        shifts.append(shift - shift.mean(axis=(0, 1)))
    layers = np.array(shifts)
    assert layers.std() == pytest.approx(0.3, rel=0.05)
    pairs = [(layers[0], layers[1]), (layers[:, :, 0], layers[:, :, 1])]
    pairs.append((layers[:, 1:], layers[:, :-1]))
    for one, other in pairs:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(
    "dynamics", [{"noise": 0.4}, {"noise": 0.2, "drift": 0.3, "drift_memory": 0.0}]
)
def test_hits_the_target_in_the_mean_with_noise(dynamics):
    trace = synthesize(64, 8, 8, 40, 1, 8192, 2.5, 16, seed=3, **dynamics)
    assert mean_imbalance(trace, 16) == pytest.approx(2.5, rel=0.04)


def test_sources_of_their_own_differ_and_the_sum_hits_the_target():
    def apart(trace):
        """Mean over records of how unlike the sources are, in units of their common mean."""
        return np.mean([(r.loads.std(axis=0) / r.loads.mean(axis=0)).mean() for r in trace])

    shape = (64, 8, 6, 4, 16, 1024, 2.0, 16)
    alike = synthesize(*shape, seed=5)
    unlike = synthesize(*shape, seed=5, source_noise=0.6)
    assert apart(unlike) > 2 * apart(alike)
    assert mean_imbalance(unlike, 16) == pytest.approx(2.0, rel=0.04)
    for record in unlike:
        assert (record.loads.sum(axis=1) == 1024 * 8).all()


@given(weights=st.lists(st.floats(-300, 300), min_size=2, max_size=40), share=st.floats(0.01, 1.0))
@settings(max_examples=200, deadline=None)
def test_inclusion_probabilities(weights, share):
    top_k = max(1, round(share * len(weights)))
    chance = inclusion_probabilities(np.array(weights), top_k)
    assert chance.sum() == pytest.approx(top_k, abs=1e-9)
    assert (chance >= 0).all()
    assert (chance <= 1).all()
    order = np.argsort(weights)
    assert (np.diff(chance[order]) >= -1e-12).all()  # more popular, more often
    # Below the cap, chances are proportional to popularity.
    free = (chance < 1 - 1e-9) & (chance > 1e-12)
    if free.sum() > 1:
        ratio = np.log(chance[free]) - np.array(weights)[free]
        assert np.ptp(ratio) < 1e-6


@given(
    weights=st.lists(st.floats(-8, 8), min_size=2, max_size=40),
    share=st.floats(0.01, 1.0),
    tokens=st.integers(1, 500),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_draws_are_possible_rows(weights, share, tokens, seed):
    top_k = max(1, round(share * len(weights)))
    chance = inclusion_probabilities(np.array(weights), top_k)
    counts = draw_counts(np.random.default_rng(seed), chance, 3, tokens)
    assert (counts.sum(axis=1) == tokens * top_k).all()
    assert counts.min() >= 0
    assert counts.max() <= tokens


@given(
    rows=st.lists(st.lists(st.floats(-300, 300), min_size=6, max_size=6), min_size=1, max_size=5),
    top_k=st.integers(1, 6),
)
@settings(max_examples=100, deadline=None)
def test_probabilities_of_many_rows_are_those_of_each(rows, top_k):
    together = inclusion_probabilities(np.array(rows), top_k)
    for row, chance in zip(rows, together, strict=True):
        assert np.array_equal(chance, inclusion_probabilities(np.array(row), top_k))


def test_draws_have_the_right_mean_and_variance():
    """Each count is binomial(tokens, chance): tokens are independent."""
    chance = inclusion_probabilities(np.linspace(0.0, 4.0, 12), 4)
    counts = draw_counts(np.random.default_rng(8), chance, 20_000, 50)
    # The order on the line is one per call, so counts of a call vary over rows only.
    assert counts.mean(axis=0) == pytest.approx(50 * chance, rel=0.01, abs=0.05)
    free = chance < 1 - 1e-9
    expected = 50 * chance * (1 - chance)
    assert counts.var(axis=0)[free] == pytest.approx(expected[free], rel=0.06, abs=0.01)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_experts", 1),
        ("num_experts", 64.0),
        ("top_k", 65),
        ("top_k", 0),
        ("num_layers", 0),
        ("steps", -1),
        ("source_ranks", True),
        ("tokens_per_rank", 2**31),
        ("tokens_per_rank", 2**28),
        ("imbalance", 0.5),
        ("imbalance", float("nan")),
        ("imbalance", "2"),
        ("at_ranks", 1),
        ("phase", "decode"),
        ("seed", -1),
        ("seed", 1.5),
        ("micro_batches", 0),
        ("drift", -0.1),
        ("drift", float("inf")),
        ("drift_memory", 1.0),
        ("noise", -0.1),
        ("noise", 3.5),
        ("source_noise", float("nan")),
    ],
)
def test_an_impossible_option_is_named(option, value):
    with pytest.raises(TraceError) as caught:
        synthesize(**{**SMALL, option: value})
    assert option in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_target_out_of_reach_says_what_can_be_reached():
    with pytest.raises(TraceError, match="chance, drift and noise alone give"):
        synthesize(**{**SMALL, "tokens_per_rank": 4, "imbalance": 1.01})
    with pytest.raises(TraceError, match=r"top-k choices allow at most 8\.0"):
        synthesize(**{**SMALL, "imbalance": 8.5})
