"""Routing of served requests: what the draws are, and what they must be."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.serving.batches import MODEL, full_batch, make_routing, rank_imbalance
from ultraep_sim.errors import InputError
from ultraep_sim.model import get_model
from ultraep_sim.serving.routing import Segments, spread_layers
from ultraep_sim.serving.routing_profile import ARCHETYPES, draw_popularity
from ultraep_sim.trace.synth_profile import ZipfProfile, inclusion_probabilities


@pytest.mark.parametrize("target", [1.5, 2.0, 3.7])
@pytest.mark.parametrize("draw", ["expected", "tokens"])
def test_full_batches_have_the_imbalance_asked_for(target, draw):
    routing = make_routing(target, draw=draw, sequence_noise=0.3)
    rng = np.random.default_rng(1)
    steps = 30 if draw == "expected" else 8
    found = [
        rank_imbalance(routing.loads_all(i, full_batch(rng, request_from=1000 * i)), 64)
        for i in range(steps)
    ]
    assert np.mean(found) == pytest.approx(target, rel=0.02)


def test_every_choice_of_layers_has_it_on_unequal_homes():
    shape = get_model("glm-4.7-358b")
    routing = make_routing(3.09, shape=shape, ranks=40, layers=[0, 7, 88], domains=("stem",))
    rng = np.random.default_rng(1)
    batches = [full_batch(rng, ranks=40, domains=1, request_from=1000 * i) for i in range(40)]
    found = [rank_imbalance(routing.loads_all(i, batch), 40) for i, batch in enumerate(batches)]
    assert np.mean(found) == pytest.approx(3.09, rel=0.02)
    assert routing.describe().startswith("SYNTHETIC")
    assert f"{routing.exponents.min():.3f} to {routing.exponents.max():.3f}" in routing.describe()


@pytest.mark.parametrize("target", [1.0, 60.0])
def test_an_impossible_imbalance_is_refused_with_what_is_possible(target):
    with pytest.raises(InputError) as refused:
        make_routing(target)
    text = str(refused.value)
    assert text.startswith("workload.requests.routing.imbalance: ")
    span = [float(v) for v in re.search(r"within ([\d.]+) to ([\d.]+)", text).groups()]
    assert not span[0] <= target <= span[1]
    for value in span:  # what the message offers does work
        assert make_routing(value).exponents.min() >= 0.0


@pytest.mark.parametrize("draw", ["expected", "tokens"])
def test_same_seed_same_loads_and_layers_do_not_disturb_each_other(draw):
    batch = full_batch(np.random.default_rng(0))
    every = make_routing(layers=[2, 50, 93], draw=draw).loads_all(7, batch)
    some = make_routing(layers=[93, 2], draw=draw)
    assert np.array_equal(some.loads_all(7, batch), every[[2, 0]])
    assert np.array_equal(some.loads(0, 7, batch), every[2])
    assert not np.array_equal(some.loads(0, 8, batch), every[2])
    assert not np.array_equal(
        make_routing(layers=[93], draw=draw, seed=6).loads(0, 7, batch), every
    )


def test_a_request_routes_alike_whenever_and_wherever_it_runs():
    routing = make_routing(sequence_noise=1.0)
    first, later = (
        Segments(np.array([r]), np.array([11]), np.array([n]), np.array([1]))
        for r, n in ((3, 4096), (60, 1024))
    )
    one, two = routing.expected(first)[:, 3], routing.expected(later)[:, 60]
    assert np.allclose(one / 4096, two / 1024)
    other = Segments(np.array([3]), np.array([12]), np.array([4096]), np.array([1]))
    assert np.abs(one - routing.expected(other)[:, 3]).max() > 100


def test_archetypes_are_even_and_independent_over_layers():
    routing = make_routing()
    found = routing.archetypes(np.arange(64_000))
    assert found.min() == 0
    assert found.max() == ARCHETYPES - 1
    for layer in found:
        counts = np.bincount(layer, minlength=ARCHETYPES)
        # chi-square of 63 degrees of freedom: mean 63, standard deviation 11
        assert ((counts - 1000) ** 2 / 1000).sum() < 63 + 6 * 11
    same = (found[:, None] == found[None]).mean(axis=2)[np.triu_indices(8, 1)]
    assert same == pytest.approx(1 / ARCHETYPES, abs=0.003)


def test_bank_rows_are_inclusion_probabilities():
    zipf = ZipfProfile(128, 8, 64)
    popularity = draw_popularity(zipf, 3, ("a", "b"), correlation=0.3, noise=1.0, seed=0)
    for exponent in (0.0, 1.0, 24.0):
        weights = popularity.inner - exponent * popularity.place[:, None]
        plain = inclusion_probabilities(weights.reshape(-1, 128), 8)
        assert popularity.chances(exponent, 8) == pytest.approx(plain, abs=1e-9)
    bank = make_routing().bank
    assert bank.sum(axis=2, dtype=float) == pytest.approx(8.0, abs=1e-5)
    assert bank.min() >= 0.0
    assert bank.max() <= 1.0


def test_archetypes_centre_on_their_domain():
    zipf = ZipfProfile(128, 8, 64)
    strayed, plain = (
        draw_popularity(zipf, 3, ("a",), correlation=0.3, noise=noise, seed=0)
        for noise in (1.0, 0.0)
    )
    assert strayed.inner.mean(axis=1) == pytest.approx(plain.inner[:, 0], abs=1e-12)
    assert strayed.inner.std(axis=1, ddof=1).mean() == pytest.approx(1.0, abs=0.03)
    # exponent 0 means ranks of equal popularity
    assert zipf.imbalance(np.exp(plain.inner[:, 0])) == pytest.approx(1.0)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.8, 1.0])
def test_domains_correlate(correlation):
    zipf = ZipfProfile(128, 8, 64)
    ranks, whole = [], []
    for layer in range(100):
        both = draw_popularity(zipf, layer, ("a", "b"), correlation=correlation, noise=0.0, seed=0)
        ranks.append(np.corrcoef(both.place)[0, 1])
        whole.append(np.corrcoef(both.inner[:, 0] - both.place)[0, 1])
    assert np.mean(ranks) == pytest.approx(correlation, abs=0.03)
    # Shares that must sum to 1 in a rank are no linear mix: 0.3 comes out as 0.26, 0.8 as 0.73.
    assert np.mean(whole) == pytest.approx(correlation, abs=0.09)


def test_a_domain_keeps_its_profile_in_every_mix():
    zipf = ZipfProfile(128, 8, 64)
    alone, mixed = (
        draw_popularity(zipf, 3, names, correlation=0.3, noise=1.0, seed=0)
        for names in (("code",), ("maths", "code"))
    )
    assert np.array_equal(alone.inner[0], mixed.inner[1])
    assert np.array_equal(alone.place[0], mixed.place[1])


def test_tokens_of_one_request_repeat_experts():
    def repeats(noise):
        bank = make_routing(2.0, domains=("one",), sequence_noise=noise).bank.astype(float)
        within = (bank**2).sum(axis=2).mean() / 8
        across = (bank.mean(axis=1) ** 2).sum(axis=1).mean() / 8
        return within / across

    # Recorded: 1.04 (DeepSeek-V2-Lite, two domains) to 1.7 (gpt-oss-20b, every text another).
    found = [repeats(noise) for noise in (0.0, 0.2, 0.7, 1.0)]
    assert found == pytest.approx([1.0, 1.04, 1.5, 2.25], abs=0.12)


def test_full_batches_resemble_each_other_until_the_domain_changes():
    routing = make_routing(sequence_noise=0.3)
    rng = np.random.default_rng(0)
    batches = [full_batch(rng, request_from=1000 * i) for i in range(3)]
    batches = [
        replace(batch, domain=np.full_like(batch.domain, domain))
        for batch, domain in zip(batches, (0, 0, 1), strict=True)
    ]
    one, two, other = (routing.loads_all(i, b).sum(axis=1) for i, b in enumerate(batches))
    alike = [np.corrcoef(a, b)[0, 1] for a, b in zip(one, two, strict=True)]
    changed = [np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)]
    assert np.mean(alike) > 0.97
    assert np.mean(changed) < 0.5


@pytest.mark.parametrize(("ranks", "target"), [(1, 1.0), (200, 8.0)])
def test_one_rank_and_ranks_without_experts(ranks, target):
    routing = make_routing(target, ranks=ranks, layers=[0], sequence_noise=0.3)
    batch = full_batch(np.random.default_rng(0), ranks=ranks)
    loads = routing.loads_all(0, batch)
    assert (loads.sum(axis=2) == 4096 * MODEL.top_k).all()


def test_spread_layers():
    assert spread_layers(8, 8).tolist() == list(range(8))
    assert spread_layers(3, 8).tolist() == [0, 1, 2]
    assert spread_layers(94, 1).tolist() == [47]


@pytest.mark.parametrize(
    ("field", "bad"),
    [("rank", [64]), ("count", [-1]), ("domain", [2]), ("request", [-1]), ("rank", [0, 1])],
)
def test_segments_that_cannot_be_are_refused(field, bad):
    good = {name: np.array([1]) for name in ("rank", "request", "count", "domain")}
    routing = make_routing(layers=[0])
    routing.loads_all(0, Segments(**good))
    place = "request" if len(bad) > 1 else field  # the first whose length is another
    with pytest.raises(InputError, match=f"segments.{place}: "):
        routing.loads_all(0, Segments(**good | {field: np.array(bad)}))


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"layers": [MODEL.moe_layers]}, "layers"),
        ({"layers": []}, "layers"),
        ({"domains": ("a", "a")}, "domains"),
        ({"draw": "other"}, "draw"),
        ({"ranks": 0}, "ranks"),
    ],
)
def test_impossible_routing_is_refused(options, place):
    with pytest.raises(InputError, match=re.escape(f"Routing({place}=...)")):
        make_routing(**options)
