from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ultraep_sim.errors import TraceError
from ultraep_sim.validate import breakdown, dynamics, training, uneven, waiting
from ultraep_sim.validate.tables import Record, Tables, load_tables
from ultraep_sim.validate.training_cases import Published, cases

COLUMNS = ("model", "policy", "tflops_per_gpu", "mean_rank_imbalance")


@pytest.fixture(scope="module")
def prepared():
    """The published cases on a trace so small that the logic shows and the figures do not."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("LAYERS", 2), ("STEPS", 6), ("MICRO_BATCHES", 2)):
            patch.setattr(dynamics, name, size)
        noise = {"deepseek-v3-671b": 0.05}
        yield training.prepare(
            dynamics={
                case.shape.name: dynamics.Dynamics(
                    case.published["none"].imbalance, noise.get(case.shape.name, 0.2), "given"
                )
                for case in cases()
            }
        )


def by_policy(rows, model="qwen3-235b"):
    return {row["policy"]: row for row in rows if row["model"] == model}


def test_the_published_runs_are_read():
    found = {case.shape.name: case for case in cases()}
    assert list(found) == ["glm-4.5-air-106b", "qwen3-235b", "deepseek-v3-671b"]
    assert [(c.ranks, c.replicas, c.stages, c.slots) for c in found.values()] == [
        (64, 2, 1, 2), (64, 4, 1, 2), (64, 1, 4, 2),
    ]  # fmt: skip
    assert found["qwen3-235b"].published["ultraep"] == Published(524, 1.03)
    assert found["deepseek-v3-671b"].published["none"] == Published(None, 1.30)


def test_other_rows_and_models_do_not_disturb():
    """More rows arrive later: unknown models and policies stay blank or are left out."""
    more = {
        "training": [
            dict(zip(COLUMNS, ("qwen3-235b", "new", "9", ""), strict=True)),
            dict(zip(COLUMNS, ("who", "ideal", "1", "1"), strict=True)),
        ],
        "settings": [
            {"model": "who", "training": "EP8", "redundant_slots_per_rank": "2"},
            {"model": "kimi-k2", "training": "EP64", "redundant_slots_per_rank": ""},
        ],
    }
    shipped = load_tables()
    rows = {
        name: shipped[name] + [Record(name, row) for row in more.get(name, [])]
        for name in shipped.rows
    }
    found = {case.shape.name: case for case in cases(Tables(rows))}
    assert set(found) == {"glm-4.5-air-106b", "qwen3-235b", "deepseek-v3-671b"}
    assert found["qwen3-235b"].published["new"] == Published(9, None)


def test_plain_law_by_hand(prepared):
    row = by_policy(training.table(prepared))["eplb_plus"]
    expected = 574.7 / (1 + row["ideal_share"] * 0.17)
    assert row["plain_published"] == pytest.approx(expected)
    assert row["plain_published_error"] == pytest.approx(expected / 474 - 1)
    assert row["plain_simulated"] == pytest.approx(
        574.7 / (1 + row["ideal_share"] * (row["imbalance"] - 1))
    )


def test_ideal_is_met_and_what_is_not_published_stays_blank(prepared):
    rows = training.table(prepared)
    for row in rows:
        if row["policy"] == "ideal":
            assert row["uneven"] == pytest.approx(row["published"])
        if row["published"] is None:
            assert row["uneven"] is not None
            assert row["uneven_error"] is None
    deepseek = by_policy(rows, "deepseek-v3-671b")
    assert deepseek["none"]["plain_published"] is not None
    assert deepseek["ultraep"]["plain_published"] is None


def test_mechanisms_can_be_switched_off(prepared):
    on = training.table(prepared)
    off = training.table(prepared, factors=uneven.OFF)
    for row, plain in zip(on, off, strict=True):
        assert plain["uneven"] == plain["mechanisms"] == row["mechanisms"]
        if row["policy"] != "ideal":
            assert row["uneven"] < row["mechanisms"]


def with_published(prepared, model, policy, tflops):
    found = []
    for one in prepared:
        if one.case.shape.name == model:
            old = one.case.published[policy]
            table = one.case.published | {policy: replace(old, tflops=tflops)}
            one = replace(one, case=replace(one.case, published=table))
        found.append(one)
    return found


def test_no_published_throughput_but_the_ideal_reaches_a_prediction(prepared):
    other = with_published(prepared, "qwen3-235b", "ultraep", 99.0)
    for row, changed in zip(training.table(prepared), training.table(other), strict=True):
        for name in ("plain_published", "plain_simulated", "mechanisms", "uneven"):
            assert row[name] == changed[name]
        if row["model"] == "qwen3-235b":  # its own rows have no part in what is left out
            assert row["left_out"] == changed["left_out"]


def test_overheads_are_the_median_of_what_the_class_lacks(prepared):
    rows = by_policy(training.table(prepared))
    slow = with_published(prepared, "qwen3-235b", "eplb", rows["eplb"]["uneven"] / 1.5)
    glm = by_policy(training.table(prepared), "glm-4.5-air-106b")["eplb"]
    slow = with_published(slow, "glm-4.5-air-106b", "eplb", glm["uneven"] / 1.5)
    lacks = []
    for row in (rows["eplb"], glm):
        step = row["step_ms"] * 1e3 * row["ideal_tflops"] / row["uneven"]  # us
        lacks.append(0.5 * step / row["layers"])
    found = by_policy(training.table(slow))["eplb"]
    assert found["overhead_us"] == pytest.approx(np.mean(lacks))
    assert found["fitted"] < found["uneven"]
    assert (
        by_policy(training.table(slow))["ultraep"]["overhead_us"] == rows["ultraep"]["overhead_us"]
    )


def test_uneven_is_what_the_published_forward_rows_say():
    assert uneven.implied("moe_compute") == pytest.approx(
        {"none": 5.95 / (1.89 * 2.86), "ultraep": 2.11 / (1.89 * 1.03)}
    )
    factor = uneven.published().all_to_all
    assert factor.low < factor.value < factor.high
    assert factor.provenance == "fitted"


def test_a_fit_meets_what_it_is_fitted_to_and_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(dynamics, "LAYERS", 3)
    monkeypatch.setattr(dynamics, "STEPS", 9)
    monkeypatch.setattr(dynamics, "FITTED", tmp_path / "fitted.csv")
    case = cases()[1]
    found = dynamics.fit(case)
    again = dynamics.loads_of(case, found, ("none", "eplb"))
    assert again["none"].imbalance == pytest.approx(2.86, rel=0.007)
    assert again["eplb"].imbalance == pytest.approx(1.34, rel=0.007)
    dynamics.store({"qwen3-235b": found})
    kept = dynamics.stored()["qwen3-235b"]
    assert kept.noise == pytest.approx(found.noise, abs=1e-4)
    assert kept.fitted_to == found.fitted_to
    assert kept.fits(case)
    assert not kept.fits(case, eplb=1.5)
    case.published["none"] = Published(None, 2.5)
    assert not kept.fits(case), "what was fitted to another goal is not taken"


def test_dynamics_that_cannot_be_reached_end_the_search(monkeypatch):
    case = cases()[0]

    def refuse(*_args, **_kwargs):
        raise TraceError("too much noise", place="synthesize(imbalance=...)")

    monkeypatch.setattr(dynamics, "loads_of", refuse)
    found = dynamics.fit(case)
    assert found.noise < 0.01


def test_the_recipe_recomputes_qwen3_alone(prepared):
    none, recipe, full = (
        training.table(prepared, recompute=name) for name in ("none", "recipe", "full")
    )
    for before, mixed, after in zip(none, recipe, full, strict=True):
        same = after if before["model"] == "qwen3-235b" else before
        assert mixed["uneven"] == same["uneven"]
        assert before["ideal_share"] < after["ideal_share"]


def test_waiting_is_nothing_without_noise_and_more_when_layers_move_together(prepared, monkeypatch):
    monkeypatch.setattr(waiting, "LAYERS", 2)
    monkeypatch.setattr(waiting, "MICRO_BATCHES", 2)
    rows = waiting.waiting_rows(prepared)
    assert {row["model"] for row in rows} == {"glm-4.5-air-106b", "qwen3-235b"}
    for row in rows:
        assert 0 <= row["independent"] <= row["together"]
        if row["policy"] == "ultraep":
            assert row["together"] < 0.01
        if row["policy"] == "none":
            assert row["together"] > 4 * row["independent"] > 0


def test_the_breakdown_leaves_blank_what_is_not_published(prepared):
    one = next(one for one in prepared if one.case.shape.name == breakdown.MODEL)
    rows = breakdown.rows_of(one.case, one.loads)
    assert len(rows) == 18
    for row in rows:
        unknown = row["direction"] == "backward" and row["policy"] != "ideal"
        assert (row["published"] is None) == unknown
        assert (row["uneven"] is not None) == (unknown and row["part"] != "others")
        if row["kind"] == "fitted":
            assert abs(row["simulated_error"]) < 0.005
