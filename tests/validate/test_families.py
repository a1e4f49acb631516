"""The arena's loads: targets hit, sums exact, no expert above the tokens, draws reproducible."""

import numpy as np
import pytest

from ultraep_sim.validate.draws import TOKENS_PER_RANK, Shape, draw_loads, top_k_of, zipf_loads
from ultraep_sim.validate.families import SHAPES, TARGETS, cases
from ultraep_sim.validate.taxonomy import TAXONOMY

SMALL = Shape(32, 8, 2)


def rank_loads(shape, loads):
    return np.bincount(shape.layout().home, loads.sum(axis=0), minlength=shape.ranks)


def imbalance(shape, loads):
    by_rank = rank_loads(shape, loads)
    return by_rank.max() / by_rank.mean()


@pytest.mark.parametrize("shape", sorted({Shape(s.experts, s.ranks, 0) for s in SHAPES}), ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_zipf_hits_its_target(shape, target):
    loads = zipf_loads(np.random.default_rng(1), shape, target)
    if loads is None:
        assert target >= shape.ranks, "only a target beyond all tokens on one rank is unreachable"
        return
    assert imbalance(shape, loads) == pytest.approx(target, rel=0.02)
    assert (loads.sum(axis=1) == TOKENS_PER_RANK * top_k_of(shape.experts)).all()
    assert loads.min() >= 0
    assert loads.max() <= TOKENS_PER_RANK, "a token would have taken an expert twice"


def test_zipf_has_exponent_four_inside_a_rank():
    """Where no expert is capped, shares in a rank go as 1, 1/16, 1/81, 1/256."""
    shape = Shape(256, 64, 2)
    loads = zipf_loads(np.random.default_rng(0), shape, 1.5)
    inside = np.sort(loads.sum(axis=0).reshape(64, 4), axis=1)[:, ::-1].sum(axis=0)
    assert inside[1:] / inside[0] == pytest.approx([1 / 16, 1 / 81, 1 / 256], rel=0.05)


def test_zipf_is_zipf_over_ranks():
    """The sorted rank loads lie on a line in log-log."""
    shape = Shape(256, 64, 2)
    loads = np.sort(rank_loads(shape, zipf_loads(np.random.default_rng(0), shape, 3.0)))[::-1]
    x, y = np.log(np.arange(1, 65)), np.log(loads)
    assert np.corrcoef(x, y)[0, 1] <= -0.999


def test_a_target_out_of_reach_is_none():
    assert zipf_loads(np.random.default_rng(0), SMALL, 8.5) is None


def test_draws_have_the_chances_asked_for():
    rng = np.random.default_rng(2)
    chance = np.array([1.0, 0.7, 0.2, 0.1, 0.0])
    loads = draw_loads(rng, chance, np.full(400, 500))
    assert (loads.sum(axis=1) == 1000).all()
    assert (loads[:, 0] == 500).all()
    assert (loads[:, 4] == 0).all()
    share = loads.sum(axis=0) / 200_000
    assert share == pytest.approx(chance, abs=5 * np.sqrt(0.25 / 200_000))
    spread = loads[:, 1].std()  # binomial: tokens are independent
    assert spread == pytest.approx(np.sqrt(500 * 0.7 * 0.3), rel=0.15)


def test_sources_without_tokens_are_empty():
    loads = draw_loads(np.random.default_rng(0), np.full(4, 0.5), np.array([0, 10]))
    assert loads.sum(axis=1).tolist() == [0, 20]


@pytest.mark.parametrize("draw", TAXONOMY, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("shape", [SMALL, Shape(256, 72, 2), Shape(128, 64, 1)], ids=str)
def test_taxonomy_is_well_formed(draw, shape):
    for loads in draw(np.random.default_rng(3), shape):
        assert loads.shape == (shape.ranks, shape.experts)
        assert loads.dtype == np.int64
        assert 0 <= loads.min() <= loads.max() <= TOKENS_PER_RANK
        assert (loads.sum(axis=1) <= TOKENS_PER_RANK * top_k_of(shape.experts)).all()


def taxonomy(name, shape, seed=0):
    draw = next(draw for draw in TAXONOMY if draw.__name__ == name)
    return draw(np.random.default_rng(seed), shape)


class TestTaxonomyIsWhatItSays:
    SHAPE = Shape(256, 64, 2)

    def test_balanced(self):
        assert imbalance(self.SHAPE, taxonomy("balanced", self.SHAPE)[0]) < 1.02

    def test_hot_expert_set(self):
        total = np.sort(taxonomy("hot_expert_set", self.SHAPE)[0].sum(axis=0))[::-1]
        assert 0.2 <= total[:8].sum() / total.sum() <= 0.45
        assert total[7] > 5 * total[8]

    def test_hot_rank(self):
        loads = np.sort(rank_loads(self.SHAPE, taxonomy("hot_rank", self.SHAPE)[0]))[::-1]
        assert loads[0] > 3 * loads[1]

    def test_spread_hot(self):
        loads = taxonomy("spread_hot", self.SHAPE)[0]
        experts = loads.sum(axis=0)
        assert experts.max() / experts.mean() > 2 * imbalance(self.SHAPE, loads)

    def test_ragged_sources(self):
        rows = taxonomy("ragged_sources", self.SHAPE)[0].sum(axis=1)
        assert (rows == 0).sum() == 16
        assert rows.max() > 3 * rows[rows > 0].min()

    def test_zero_load(self):
        assert not taxonomy("zero_load", self.SHAPE)[0].any()

    def test_rotating_hot_spot(self):
        steps = taxonomy("rotating_hot_spot", self.SHAPE)
        hot = [rank_loads(self.SHAPE, loads).argmax() for loads in steps]
        assert hot == [0, 16, 32, 48]

    def test_burst(self):
        before, struck, after = taxonomy("burst", self.SHAPE)
        assert imbalance(self.SHAPE, struck) > 3 * imbalance(self.SHAPE, before)
        assert imbalance(self.SHAPE, after) < 1.3
        assert (struck[:32] > 0).sum(axis=1).tolist() == [8] * 32


def test_cases_are_reproducible_and_independent_of_one_another():
    shape = Shape(128, 64, 1)
    once = {(c.family, c.index): c.loads for c in cases(shape, seeds=2)}
    fewer = {(c.family, c.index): c.loads for c in cases(shape, seeds=1)}
    for family in {family for family, _ in once}:
        assert np.array_equal(once[family, 0], fewer[family, 0])
    more_slots = {(c.family, c.index): c.loads for c in cases(Shape(128, 64, 2), seeds=2)}
    assert all(np.array_equal(once[key], more_slots[key]) for key in once), "slots change no load"
    other = {(c.family, c.index): c.loads for c in cases(shape, seeds=1, seed=1)}
    assert not np.array_equal(other["zipf-2", 0], once["zipf-2", 0])
    assert not np.array_equal(once["zipf-2", 0], once["zipf-2", 1])


def test_recorded_traces_enter_where_their_experts_fit(tmp_path):
    from ultraep_sim.trace import synthesize

    trace = synthesize(32, 4, 3, 6, 4, 256, 1.5, 8)
    trace.write(tmp_path / "toy.parquet")
    taken = [c for c in cases(SMALL, seeds=1, traces=tmp_path) if c.family.startswith("trace")]
    assert [(c.family, c.index) for c in taken] == [("trace:toy", i) for i in range(4)]
    for case in taken:
        assert (case.loads.sum(axis=1) == TOKENS_PER_RANK * 4).all()
    assert not [
        c for c in cases(Shape(160, 40, 4), seeds=1, traces=tmp_path) if "trace" in c.family
    ]
