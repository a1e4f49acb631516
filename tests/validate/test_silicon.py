"""The silicon suite on the committed excerpt."""

from __future__ import annotations

import json

import pytest

from tests.calibrate.excerpt_path import EXCERPT
from ultraep_sim.validate.silicon import THRESHOLDS, THRESHOLDS_OF_ALL, broken, role_of, run

KEYS = {
    "table", "case", "metric", "published", "simulated", "relative_error", "role", "provenance",
}  # fmt: skip


@pytest.fixture(scope="module")
def found():
    return run(tables=EXCERPT, systems=("h200",))


def test_rows_have_the_common_keys_and_honest_errors(found):
    assert {row["table"] for row in found["rows"]} == {
        "grouped_gemm", "grouped_gemm_power_law", "attention", "mla_attention", "mla_block",
        "dispatch", "combine", "nccl_alltoall", "wide_ep_context",
    }  # fmt: skip
    for row in found["rows"]:
        assert set(row) == KEYS
        assert row["relative_error"] == pytest.approx(row["simulated"] / row["published"] - 1)
        assert row["simulated"] != row["published"]


def test_roles_are_those_of_the_fit(found):
    rows = [row for row in found["rows"] if row["table"] == "grouped_gemm"]
    held = sum(entry["residuals"]["held_out"]["rows"] for entry in found["sets"])
    assert sum(row["role"] == "predicted" for row in rows) == held > 0
    assert all(role_of(row["case"]) == row["role"] for row in rows)
    skewed = [row for row in found["rows"] if row["table"] == "grouped_gemm_power_law"]
    assert {row["role"] for row in skewed} == {"predicted"}
    assert set(found["positions"]) == {row["case"] for row in skewed}


def test_the_excerpt_keeps_the_thresholds(found):
    assert found["broken"] == []
    assert found["figures"]["power_law_inside_band"] >= 0.85
    assert [entry["good"] for entry in found["sets"]] == [True, True]
    json.dumps(found, allow_nan=False)


def test_changed_measurements_that_were_not_fitted_change_no_prediction(found, monkeypatch):
    """Taint: ten times every held-out and every skewed time, and all simulated values stay."""
    from ultraep_sim.calibrate.fit import bucket
    from ultraep_sim.calibrate.silicon import moe

    rows_of = moe.rows_of

    def tainted(table, case, distribution=moe.BALANCED):
        rows = rows_of(table, case, distribution)
        latency = rows.columns["latency"].copy()
        if distribution == moe.BALANCED:
            for at in range(len(rows)):
                tokens, ranks = (rows.columns[c][at] for c in ("num_tokens", "moe_ep_size"))
                if bucket(f"{case.name}/{tokens}/ep{ranks}", 4) == 0:
                    latency[at] *= 10
        elif distribution.startswith("power_law"):
            latency *= 10
        return type(rows)({**rows.columns, "latency": latency}, rows.source)

    monkeypatch.setattr(moe, "rows_of", tainted)
    again = run(tables=EXCERPT, systems=("h200",))
    assert [row["simulated"] for row in again["rows"]] == [
        row["simulated"] for row in found["rows"]
    ]
    changed = [
        one["case"]
        for one, two in zip(found["rows"], again["rows"], strict=True)
        if one["published"] != two["published"]
    ]
    assert len(changed) > 800
    assert again["broken"]


def test_a_known_miss_that_hits_is_an_error(found, monkeypatch):
    from ultraep_sim.validate import silicon_skew

    name = found["sets"][0]["set"]
    assert silicon_skew.surprises(found["sets"]) == []
    monkeypatch.setattr(silicon_skew, "KNOWN_MISSES", {name: "reason"})
    assert name in silicon_skew.surprises(found["sets"])[0]
    monkeypatch.setattr(silicon_skew, "KNOWN_MISSES", {})
    missed = [{**found["sets"][0], "power_law": {"rows": 100, "inside": 50}}]
    assert "50.0%" in silicon_skew.surprises(missed)[0]


def test_broken_thresholds_are_told():
    good = {**THRESHOLDS, **THRESHOLDS_OF_ALL}
    assert broken(good, every=True) == []
    assert (
        "grouped_gemm_good_sets is 7"
        in broken({**good, "grouped_gemm_good_sets": 7}, every=True)[0]
    )
    assert broken({**good, "grouped_gemm_good_sets": 7}, every=False) == []
    assert broken({**good, "power_law_inside_band": float("nan")}, every=False)
