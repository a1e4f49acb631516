"""Stored searches say what they rest on, and that it has changed."""

from __future__ import annotations

import json

import pytest

from ultraep_sim.validate import serving_store
from ultraep_sim.validate.paper import serving
from ultraep_sim.validate.tables import load_tables


@pytest.fixture
def kept(monkeypatch, tmp_path):
    path = tmp_path / "stored.json"
    serving_store.write_version(load_tables().inputs(), path)
    monkeypatch.setattr(serving_store, "stored_version", lambda: stored(path))
    monkeypatch.setattr(serving, "stored_version", lambda: stored(path))
    return path


stored = serving_store.stored_version


def test_nothing_has_changed(kept):
    assert serving_store.staleness(load_tables().inputs()) == []
    rows, read = serving.rows(load_tables(), load_tables().inputs())
    told = next(row["provenance"] for row in rows if row["case"] == "qwen3-235b/stem/none")
    assert told.endswith(f"stored search, code {serving_store.code_digest()}")
    assert ("serving", "qwen3-235b | stem | ideal", "requests_per_second_at_slo") in read
    assert not any(policy in cell[1] for cell in read for policy in ("eplb_plus", "ultraep"))


def test_other_code_is_told(kept):
    body = json.loads(kept.read_text())
    kept.write_text(json.dumps(body | {"code": "0" * 12}))
    assert serving_store.staleness(load_tables().inputs()) == ["the code has changed since"]
    rows, _ = serving.rows(load_tables(), load_tables().inputs())
    assert "the code has changed since: --fresh searches again" in rows[0]["provenance"]


def test_a_row_that_arrives_later_is_judged_by_what_was_stored_before_it(kept, tmp_path):
    (tmp_path / "serving.csv").write_text(
        "model,workload,policy,mean_rank_imbalance,requests_per_second_at_slo,slo_mean_ttft_s\n"
        "glm-4.7-358b,stem,eplb,2.2,120,3\n"
        "glm-4.7-358b,stem,ideal,1.0,180,3\n"
    )
    tables = load_tables(tmp_path)
    assert serving_store.staleness(tables.inputs()) == [
        "2 cells were published since that a fit would use"
    ]
    rows, _ = serving.rows(tables, tables.inputs())
    late = {row["metric"]: row for row in rows if row["case"] == "glm-4.7-358b/stem/eplb"}
    assert late["mean_rank_imbalance"]["role"] == "predicted", "no fit has seen it"
    assert late["relative_rps_at_slo"]["published"] == pytest.approx(120 / 180)
    assert late["relative_rps_at_slo"]["simulated"] > 0
