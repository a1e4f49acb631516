"""The silicon suite on the committed excerpt."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.calibrate.excerpt_path import EXCERPT
from ultraep_sim.calibrate.silicon import alltoall, attention, moe, nccl, rack_alltoall, wide_ep
from ultraep_sim.model.hardware import RACKS
from ultraep_sim.validate import silicon_kernels
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


#: Readers of the tables other than `moe_perf`.
READERS = (
    (attention, "context_rows"),
    (attention, "mla_rows"),
    (attention, "mla_block_rows"),
    (alltoall, "phase_rows"),
    (nccl, "nccl_rows"),
    (moe, "balanced_rows"),  # the law of wide-EP rows, and SGLang's wide-EP rows themselves
    (wide_ep, "wide_ep_rows"),
    (rack_alltoall, "set_rows"),
)


def judged_kernels():
    """Judge every table that the excerpt has, each on the system that has it."""
    table = rack_alltoall.read_rack_alltoall(EXCERPT, "gb200")
    sets = [n for n in rack_alltoall.SETS if len(rack_alltoall.set_rows(table, "gb200", n))]
    return [
        *silicon_kernels.judge(EXCERPT, "h200"),
        *silicon_kernels.wide_eps(EXCERPT, "gb300", RACKS["gb300-nvl72"]),
        *silicon_kernels.rack_alltoalls(table, "gb200", RACKS["gb200-nvl72"], sets),
    ]


def simulated(judged):
    """Simulated seconds of every row, by table and set."""
    return {(j.table, j.name): j.found.predict(j.rows.columns).tolist() for j in judged}


def taint(monkeypatch, wrong):
    """Let every reader give ten times the time of the rows that ``wrong(rows)`` picks."""

    def tainted(read):
        def reader(*given, **named):
            rows = read(*given, **named)
            return replace(rows, seconds=np.where(wrong(rows), 10 * rows.seconds, rows.seconds))

        return reader

    for module, name in READERS:
        monkeypatch.setattr(module, name, tainted(getattr(module, name)))


def by_role(role):
    return lambda rows: [role_of(key) == role for key in rows.keys]


def of_largest_group(rows):
    ranks = rows.columns.get("ranks", np.zeros(len(rows)))
    return ranks == ranks.max(initial=1)


def test_no_other_kernel_is_fitted_to_what_it_predicts(monkeypatch):
    """Taint again, after the reader of every other table: the simulated times of all rows stay."""
    before = judged_kernels()
    larger = "rack_alltoall_larger_group"
    assert {j.table for j in before} == {
        "attention", "mla_attention", "mla_block", "dispatch", "combine", "nccl_alltoall",
        "wide_ep_context", "wide_ep", "wide_ep_by_balanced", "rack_alltoall", larger,
    }  # fmt: skip
    honest = simulated(before)
    for wrong, ours in (
        (by_role("predicted"), [key for key in honest if key[0] != larger]),
        (of_largest_group, [key for key in honest if key[0] == larger]),
    ):
        with monkeypatch.context() as patch:
            taint(patch, wrong)
            after = judged_kernels()
        told = simulated(after)
        assert [key for key in ours if told[key] != honest[key]] == []
        measured = {(j.table, j.name): j.rows.seconds for j in after}
        same = {(j.table, j.name): j.rows.seconds for j in before}
        assert all((measured[key] != same[key]).any() for key in ours)
    with monkeypatch.context() as patch:
        taint(patch, by_role("fitted"))
        moved = simulated(judged_kernels())
    assert {key[0] for key in honest if moved[key] == honest[key]} == {"mla_block"}  # no fit


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
