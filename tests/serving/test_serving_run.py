"""A scenario served under its policies: tables, files, common requests."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.serving.helpers import tiny
from ultraep_sim.errors import InputError
from ultraep_sim.scenario import load_scenario
from ultraep_sim.serving.run import ServingResult, serve_scenario
from ultraep_sim.serving.step import PARTS, STEP_COLUMNS

#: Crowded enough that some time out, some lose patience, some are refused and some are served.
CROWDED = {
    "requests": {"arrivals": {"rate_per_s": 160.0}, "prefix": {"share": 0.3}},
    "serving": {
        "slo": {"ttft_s": 0.3},
        "timeout_s": 0.5,
        "max_queue": 60,
        "cancelled": {"share": 0.3, "after_s": 0.3},
    },
}
FILES = ("result.parquet", "requests.parquet", "scenario.yaml", "summary.json")


@pytest.fixture(scope="module")
def result() -> ServingResult:
    return serve_scenario(tiny(**CROWDED, policies=["none", "ultraep"]))


def of(table, label: str):  # type: ignore[no-untyped-def]
    return table.filter(pc.equal(table["policy"], label))


def test_rows_and_tables_tell_the_same(result) -> None:
    assert [row["policy"] for row in result.rows] == ["none", "ultraep"]
    for row in result.rows:
        steps, requests = of(result.steps, row["policy"]), of(result.requests, row["policy"])
        assert steps.column_names == ["policy", "step", "began_s", "waiting", *STEP_COLUMNS]
        assert steps["step"].to_pylist() == list(range(len(steps)))
        computed = pc.sum(requests["computed"]).as_py()
        assert pc.sum(steps["tokens"]).as_py() == computed
        arrival_s, end_s = (requests[name].to_numpy() for name in ("arrival_s", "end_s"))
        outcome = np.asarray(requests["outcome"].to_pylist())
        counted = arrival_s >= 0.5
        for name in ("served", "timed out", "cancelled", "refused"):
            share = float((outcome[counted] == name).mean())
            assert 0 < share < 1
            assert row[name.replace(" ", "_")] == pytest.approx(share)
        served = counted & (outcome == "served")
        assert row["ttft_mean_s"] == pytest.approx((end_s - arrival_s)[served].mean())
        cached = requests["cached"].to_numpy()
        assert (cached > 0).any()
        done = requests["computed"].to_numpy()
        wanted = requests["tokens"].to_numpy() - cached
        assert (done[outcome == "served"] == wanted[outcome == "served"]).all()
        parts = sum(steps[f"{part}_s"].to_numpy() for part in PARTS)
        assert parts == pytest.approx(steps["seconds"].to_numpy())
        began = steps["began_s"].to_numpy()
        assert (began[1:] >= (began + steps["seconds"].to_numpy())[:-1] - 1e-9).all()
        assert set(requests["domain"].to_pylist()) == {"a", "b"}


def test_policies_get_the_same_requests(result) -> None:
    same = ("arrival_s", "tokens", "cached", "domain")
    one, two = (of(result.requests, label).select(same) for label in ("none", "ultraep"))
    assert one.equals(two)
    assert "SYNTHETIC" in result.workload_label


def test_another_policy_changes_nothing_of_the_others(result) -> None:
    more = serve_scenario(tiny(**CROWDED, policies=["eplb", "ultraep", "none", "ideal"]))
    assert more.digest == result.digest
    for label in ("none", "ultraep"):
        assert of(more.steps, label).equals(of(result.steps, label))
        assert of(more.requests, label).equals(of(result.requests, label))
        row = next(row for row in more.rows if row["policy"] == label)
        assert row == next(row for row in result.rows if row["policy"] == label)


def test_results_are_written_and_read_back(result, tmp_path) -> None:
    directory = result.write(tmp_path / "new" / "run", command=["serve", "x.yaml"])
    assert sorted(p.name for p in directory.iterdir()) == sorted(FILES)
    assert pq.read_table(directory / "result.parquet").equals(result.steps)
    assert pq.read_table(directory / "requests.parquet").equals(result.requests)
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["rows"] == result.rows
    assert summary["command"] == ["serve", "x.yaml"]
    assert summary["requests"]["digest"] == result.digest
    assert summary["notes"] == result.notes
    again = load_scenario(directory / "scenario.yaml")
    assert again.to_dict() == result.scenario.to_dict()


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(result, tmp_path) -> None:
    one = result.write(tmp_path / "one")
    two = serve_scenario(result.scenario).write(tmp_path / "two")
    other = serve_scenario(tiny(**CROWDED, seed=1)).write(tmp_path / "other")
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes()
        assert (one / name).read_bytes() != (other / name).read_bytes()


def test_a_result_that_is_written_over_is_never_half_complete(
    result, tmp_path, monkeypatch
) -> None:
    """The summary comes last and goes first: a directory that has one is complete."""
    result.write(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="disk full"):
        result.write(tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_notes_say_what_stands_for_what(result) -> None:
    text = "\n".join(result.notes)
    assert "sample(2): they stand for all 48 MoE layers" in text
    assert "expected" in text
    assert "before 0.5 s count nowhere" in text
    exact = serve_scenario(
        tiny(
            requests={"duration_s": 1.0},
            serving={"draw": "tokens"},
            policies=[{"name": "eplb", "label": "E", "cadence_steps": 2}],
        )
    )
    assert any(note.startswith("E began with a window") for note in exact.notes)
    assert not any("expected" in note for note in exact.notes)
    assert "every token drawn" in exact.workload_label


def test_progress_counts_requests_that_left() -> None:
    seen: list[tuple[str, int, int]] = []
    short = tiny(requests={"duration_s": 1.0}, policies=["none"])
    found = serve_scenario(short, progress=lambda *args: seen.append(args))
    total = len(found.requests)
    assert seen[-1] == ("serving none", total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert len(seen) == len(found.steps)


def test_a_scenario_without_requests_serves_nothing() -> None:
    scenario = tiny()
    bare = scenario.model_copy(update={"serving": None})
    with pytest.raises(InputError, match="serving: nothing is served here"):
        serve_scenario(bare)
