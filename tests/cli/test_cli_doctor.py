from __future__ import annotations

import hashlib
import json

import pytest

from ultraep_sim.commands import checks
from ultraep_sim.commands.policies import policy_rows
from ultraep_sim.trace import Trace, TraceMeta


def test_policies_json_tells_what_the_classes_declare(invoke):
    rows = json.loads(invoke("policies", "--json").out)
    assert rows == policy_rows()
    by_name = {row["name"]: row for row in rows}
    assert {"none", "eplb", "eplb_plus", "ultraep", "ideal"} <= set(by_name)
    assert by_name["ultraep"]["never_worse"]
    assert by_name["eplb"]["moves_mains"]
    assert not by_name["eplb"]["exact"]
    assert by_name["eplb"]["options"]["cadence_steps"] == 3


def test_the_policies_table_names_them_all(invoke):
    out = invoke("policies").out
    for name in ("none", "eplb", "eplb_plus", "ultraep", "ideal", "cadence_steps=3"):
        assert name in out


def test_doctor_json_and_exit_code_agree(invoke):
    answer = invoke("doctor", "--json")
    data = json.loads(answer.out)
    broken = [c["name"] for c in data["checks"] if c["status"] == "broken"]
    assert data["ok"] == (not broken)
    assert answer.code == (1 if broken else 0)
    by_name = {c["name"]: c for c in data["checks"]}
    for name in ("python", "numpy", "numba compiles", "planner"):
        assert by_name[name]["status"] == "ok"


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("note", 0), ("broken", 1)])
def test_doctor_fails_only_on_what_is_needed(status, code, invoke, monkeypatch):
    found = [checks.Check("compiler", status, "found [this]", "do that")]
    monkeypatch.setattr("ultraep_sim.commands.doctor.all_checks", lambda: iter(found))
    answer = invoke("doctor")
    assert answer.code == code
    for text in ("compiler", status, "found [this]", "do that"):
        assert text in answer.out
    assert ("broken: compiler" in answer.out) == (status == "broken")


def test_a_missing_package_is_broken_and_has_a_remedy(monkeypatch):
    monkeypatch.setattr(checks, "REQUIRED", ("a-package-nobody-has",))
    found = {c.name: c for c in checks.all_checks()}["a-package-nobody-has"]
    assert found.status == "broken"
    assert "pip install" in found.remedy


@pytest.fixture
def traces(tmp_path):
    meta = TraceMeta(
        model="toy", num_experts=8, top_k=2, num_layers=1, source_ranks=1, tokens_per_rank=8,
        phase="training", recorded="by hand", synthetic=False,
    )  # fmt: skip
    file = tmp_path / "toy.parquet"
    Trace.from_arrays(meta, [0], [0], [0], [[[2] * 8]]).write(file)
    write_card(file)
    return tmp_path


def write_card(file):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file.with_suffix(".md").write_text(f"# toy\n\nSHA-256 of the file: `{digest}`.\n")


def test_a_shipped_trace_is_read_and_its_digest_compared(traces):
    assert [c.status for c in checks.traces(traces)] == ["ok"]


def test_a_changed_trace_is_broken(traces):
    file = traces / "toy.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    (found,) = checks.traces(traces)
    assert found.status == "broken"
    assert "git checkout" in found.remedy


def test_a_damaged_trace_with_a_fitting_digest_is_broken(traces):
    file = traces / "toy.parquet"
    file.write_bytes(file.read_bytes()[:40])
    write_card(file)
    (found,) = checks.traces(traces)
    assert found.status == "broken"


def test_a_trace_that_is_gone_is_broken_and_one_without_a_card_is_noted(traces):
    (traces / "toy.parquet").rename(traces / "other.parquet")
    found = {c.name: c.status for c in checks.traces(traces)}
    assert found == {"trace other": "note", "trace toy": "broken"}


def test_no_trace_at_all_is_a_note(tmp_path):
    (found,) = checks.traces(tmp_path)
    assert found.status == "note"
    assert "make_traces" in found.remedy
