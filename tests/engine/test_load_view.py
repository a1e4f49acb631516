from __future__ import annotations

import numpy as np
import pytest

from tests.trace.toys import toy_meta, toy_trace
from ultraep_sim.engine import load_view
from ultraep_sim.engine.load_view import BEFORE, LoadViewBuilder, Rows
from ultraep_sim.engine.watch import watch_trace
from ultraep_sim.planning import EPLayout
from ultraep_sim.policies import plan

LAYOUT = EPLayout(4, 8, 1)


@pytest.fixture(scope="module")
def trace():
    return toy_trace(steps=30)


@pytest.fixture(scope="module")
def view(trace):
    return watch_trace(trace, LAYOUT, ["ultraep", "eplb_plus"])


def test_imbalance_is_that_of_the_plans(view, trace) -> None:
    assert view.contenders == [BEFORE, "ultraep", "eplb_plus"]
    for at, record in enumerate(trace):
        for row, policy in enumerate(("none", "ultraep", "eplb_plus")):
            wanted = plan(record.loads, LAYOUT, policy=policy).imbalance
            assert view.imbalance[row, at] == pytest.approx(wanted, abs=1e-12)


def test_what_was_moved_and_what_is_left_at_home_give_the_rank_loads(view) -> None:
    assert len(view.details) == 120
    moved = 0
    for detail in view.details.values():
        for pairs, away in zip(detail.pairs, detail.away, strict=True):
            left, ranks = detail.loads.astype(int), np.zeros(4, int)
            np.subtract.at(left, away.expert, away.quota)
            np.add.at(ranks, away.rank, away.quota)
            np.add.at(ranks, LAYOUT.home, left)
            assert (left >= 0).all()
            np.testing.assert_array_equal(ranks, pairs)
            moved += len(away.expert)
    assert moved > 0


def test_shares_are_means_over_layers(view) -> None:
    assert view.share.shape == (3, 60, 4)
    np.testing.assert_allclose(view.share.mean(axis=2), 1.0)
    at_once = [view.details[row].pairs[0] for row in np.flatnonzero(view.time == 7)]
    wanted = np.mean([pairs * 4 / pairs.sum() for pairs in at_once], axis=0)
    np.testing.assert_allclose(view.share[0, 7], wanted)


def test_a_forced_balance_has_no_instances(trace) -> None:
    view = watch_trace(trace.select(steps=slice(0, 2)), LAYOUT, ["ideal"])
    assert all(detail.away[1] is None for detail in view.details.values())
    assert all(detail.away[0] is not None for detail in view.details.values())


def test_without_history_records_do_not_count(trace) -> None:
    view = watch_trace(trace, LAYOUT, ["eplb", "none"])
    assert view.contenders == [BEFORE, "eplb"]
    assert not view.counted[0]
    assert view.counted[-1]


def test_memory_is_bounded_and_the_worst_of_each_layer_stays(monkeypatch) -> None:
    monkeypatch.setattr(load_view, "MAX_SHARE_VALUES", 40)
    rng = np.random.default_rng(0)
    keys = np.indices((50, 2, 3)).reshape(3, -1).T
    pairs = rng.integers(1, 100, (2, 300, 4))
    imbalance = pairs.max(axis=2) * 4 / pairs.sum(axis=2)
    view = LoadViewBuilder(keys, [BEFORE, "x"], [True, True], 4, None, max_values=500)
    for start in range(0, 300, 7):
        part = slice(start, start + 7)
        warm = np.ones(len(keys[part]), bool)
        view.add(Rows(imbalance[:, part], pairs[:, part], warm, None, [[], []]))
    found = view.finish()
    assert found.stride == 5
    regular = np.flatnonzero(found.time % 5 == 0).tolist()
    worst = {
        int(np.flatnonzero(found.layer == layer)[imbalance[side, found.layer == layer].argmax()])
        for side in (0, 1)
        for layer in range(3)
    }
    assert set(found.details) == set(regular) | worst
    assert set(found.worst) == worst
    assert found.worst[0] == imbalance.max(axis=0).argmax()
    for row, detail in found.details.items():
        np.testing.assert_array_equal(detail.pairs, pairs[:, row])
    assert found.share.shape == (2, 10, 4)
    wanted = (pairs[:, :30] * 4 / pairs[:, :30].sum(axis=2, keepdims=True)).mean(axis=1)
    np.testing.assert_allclose(found.share[:, 0], wanted)


def test_empty_records_weigh_nothing() -> None:
    keys = np.array([[0, 0, 0], [0, 0, 1]])
    view = LoadViewBuilder(keys, [BEFORE], [True], 2, None)
    pairs = np.array([[[3, 1], [0, 0]]])
    view.add(Rows(np.array([[1.5, 1.0]]), pairs, np.ones(2, bool), None, [[]]))
    np.testing.assert_allclose(view.finish().share[0, 0], [1.5, 0.5])


def test_sources_become_the_ranks() -> None:
    trace = toy_trace(toy_meta(source_ranks=1, tokens_per_rank=24), steps=2)
    view = watch_trace(trace, LAYOUT, [])
    for row, record in enumerate(trace):
        wanted = np.bincount(LAYOUT.home, record.loads[0], 4)
        np.testing.assert_array_equal(view.details[row].pairs[0], wanted)
